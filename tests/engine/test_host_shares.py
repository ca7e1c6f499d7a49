"""An engine inside a machine knows which directories of the computer around it are there."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path

import pytest

from tests.engine.conftest import NewEngine

pytestmark = pytest.mark.engine


def test_binds_of_what_is_not_shared_are_refused_and_shares_are_waited_for(
    new_engine: NewEngine, tmp_path: Path
) -> None:
    share, document = tmp_path / "share", tmp_path / "host-shares.json"
    share.mkdir()
    engine = new_engine("engine", "--host-shares", str(document))

    def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return engine.docker("run", "--rm", *arguments)

    # The host has said nothing yet: as on a computer of its own.
    assert run("-v", f"{tmp_path}/silent:/x", "busybox", "true").returncode == 0

    document.write_text(json.dumps({"shares": [str(share)], "windows_paths": False}))
    outside = run("-v", f"{tmp_path}/elsewhere:/x", "busybox", "true")
    assert outside.returncode == 125
    message = outside.stderr.decode()
    assert f"bind source path does not exist: {tmp_path}/elsewhere: it is not shared with the machine" in message
    assert f"which sees {share}; share a directory with `wherry machine set shares=" in message
    assert not (tmp_path / "elsewhere").exists()
    assert run("-v", "/etc:/x:ro", "busybox", "true").returncode == 0  # the machine's own

    (share / "link").symlink_to("/elsewhere/on the host")
    leading_out = run("-v", f"{share}/link:/x", "busybox", "true")
    assert leading_out.returncode == 125
    message = leading_out.stderr.decode()
    assert f"{share}/link: it leads to /elsewhere/on the host, which is not shared with the machine" in message

    outcome: list[subprocess.CompletedProcess[bytes]] = []
    waiting = threading.Thread(
        target=lambda: outcome.append(run("-v", f"{share}/made/below:/x", "busybox", "touch", "/x/file"))
    )
    waiting.start()
    waiting.join(1)
    assert waiting.is_alive()
    subprocess.run(["mount", "-t", "tmpfs", "share", str(share)], check=True)
    try:
        waiting.join()
        assert outcome[0].returncode == 0, outcome[0].stderr
        assert (share / "made/below/file").exists()
    finally:
        subprocess.run(["umount", "-l", str(share)], check=True)


def test_a_windows_clients_paths_are_where_the_machine_has_them(new_engine: NewEngine, tmp_path: Path) -> None:
    document = tmp_path / "host-shares.json"
    document.write_text(json.dumps({"shares": [], "windows_paths": True}))
    engine = new_engine("engine", "--host-shares", str(document))
    mounts = [{"Type": "bind", "Source": "C:\\Users\\Ann Lee\\src", "Target": "/y"}]
    status, body = engine.request(
        "POST",
        "/containers/create",
        {"Image": "busybox", "HostConfig": {"Binds": ["D:\\data:/x:ro"], "Mounts": mounts}},
    )
    assert status == 400
    assert "bind source path does not exist: /d/data: it is not shared" in body.decode()
