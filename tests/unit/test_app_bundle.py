"""The diagnostics archive, and that no secret is in it."""

import json
import os
import stat
import zipfile
from pathlib import Path

import pytest

from app.cli.main import main
from app.services.secrets import MASK, masked
from tests.fakes.engine_server import FakeEngine

SECRETS = {
    "http_proxy=http://user:hunter2@proxy:3128": f"http_proxy=http://{MASK}@proxy:3128",
    '"https_proxy": "http://u:hunter2@p:1"': f'"https_proxy": "http://{MASK}@p:1"',
    "Authorization: Bearer hunter2.abc": None,
    '{"token": "hunter2", "pid": 1}': f'{{"token": "{MASK}", "pid": 1}}',
    "DB_PASSWORD=hunter2": f"DB_PASSWORD={MASK}",
    '"Env": ["PATH=/bin", "KEY=hunter2"]': f'"Env": ["PATH={MASK}", "KEY={MASK}"]',
    '{"auth": "hunter2=="}': f'{{"auth": "{MASK}"}}',
    "X-Registry-Auth: hunter2": None,
    "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n-----END OPENSSH PRIVATE KEY-----": MASK,
    "-----BEGIN PRIVATE KEY-----\nhunter2 and the rest was cut off": MASK,
}


@pytest.mark.parametrize(("text", "shown"), SECRETS.items())
def test_a_secret_is_masked(text: str, shown: str | None) -> None:
    assert "hunter2" not in masked(text)
    if shown is not None:
        assert masked(text) == shown


@pytest.mark.parametrize("text", ["token was wrong", "http://example.com/a@b", "QEMU ended with code 1", "a=b"])
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked(text) == text


def test_the_archive_has_logs_and_facts_but_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    logs = tmp_path / "state" / "wherry"
    logs.mkdir(parents=True)
    (logs / "gui.log").write_text("password=hunter2\nstarted\n")
    main(["machine", "create", "m", "http_proxy=http://u:hunter2@proxy:1", "memory=512M"])
    machine = tmp_path / "wherry" / "machines" / "m"
    for name in ("client_key", "guest_host_key", "hostagent.json", "guest-settings"):
        (machine / name).write_text("hunter2")
    (machine / "hostagent.log").write_text("starting\n")
    (machine / "console.log").write_text("the kernel's last words\n")
    (machine / "console.1.log").write_text("the boot before\n")
    archive = tmp_path / "bundle.zip"
    with FakeEngine(tmp_path / "s") as engine:
        engine.add_container("web", "alpine:latest", "serve", "--key", "hunter2")
        main(["--host", engine.host, "doctor", "--bundle", str(archive)])
    capfd.readouterr()
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    with zipfile.ZipFile(archive) as bundle:
        texts = {name: bundle.read(name).decode() for name in bundle.namelist()}
    assert "hunter2" not in "".join(texts.values())
    assert texts["logs/gui.log"].endswith("started\n")
    assert texts["machines/m/console.log"] == "the kernel's last words\n"
    assert texts["machines/m/console.1.log"] == "the boot before\n"
    assert json.loads(texts["machines/m/settings.json"])["memory"] == "512M"
    assert json.loads(texts["machines/m/status.json"])["state"] == "stopped"
    assert json.loads(texts["engine.json"])["containers"][0]["name"] == "web"
    assert {"versions.json", "checks.json", "status.json"} <= texts.keys()


def test_an_archive_that_cannot_be_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with FakeEngine(tmp_path / "s") as engine:
        code = main(["--host", engine.host, "doctor", "--bundle", str(tmp_path / "nowhere" / "b.zip")])
    assert code == 1 and "cannot be written to" in capfd.readouterr().err
    assert "nowhere" not in os.listdir(tmp_path)
