"""`wherry machine`: settings, lists and refusals, without starting QEMU."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from app.cli.commands.machine import VERBS
from app.cli.main import main
from vmbackend import MachineManager

Wherry = Callable[..., tuple[int, str, str]]


@pytest.fixture
def wherry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Wherry:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("WHERRY_MACHINE", raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(["machine", *arguments])
        except SystemExit as stop:
            assert isinstance(stop.code, int)
            code = stop.code
        output, errors = capfdbinary.readouterr()
        return code, output.decode(), errors.decode()

    return run


def test_every_verb_has_help_with_an_example(wherry: Wherry) -> None:
    _, listing, _ = wherry("--help")
    for verb in VERBS:
        assert f"  {verb} " in listing
        code, text, _ = wherry(verb, "--help")
        assert code == 0 and f"wherry machine {verb}" in text.partition("examples:")[2]


def test_what_is_no_verb(wherry: Wherry) -> None:
    assert wherry()[0] == 125
    code, _, errors = wherry("fly")
    assert code == 125 and "there is no command 'machine fly'" in errors
    assert wherry("ls", "--fly")[0] == 125


def test_a_machine_is_made_listed_changed_and_removed(wherry: Wherry, tmp_path: Path) -> None:
    assert wherry("ls")[1] == "NAME   STATE   CPUS   MEMORY   DISK   IMAGE   PORTS\n"
    assert wherry("create", "big", "cpus=3", "memory=4G", "disk=9")[:2] == (0, "big\n")
    assert wherry("ls")[1].splitlines()[1].split() == ["big", "stopped", "3", "4GiB", "9GiB"]
    [row] = json.loads(wherry("ls", "--json")[1])
    assert (row["name"], row["memory_mib"], row["ports"]) == ("big", 4096, [])
    code, _, errors = wherry("create", "big")
    assert code == 1 and "There is a machine `big` already" in errors
    assert wherry("set", "big", "memory=512M") == (0, "", "")
    assert json.loads(wherry("set", "big", "--json")[1])["memory"] == "512M"
    code, _, errors = wherry("rm", "big")
    assert code == 1 and "repeat it with -f" in errors
    assert wherry("rm", "-f", "big")[:2] == (0, "big\n")
    assert wherry("ls", "-q")[1] == ""
    assert list((tmp_path / "wherry" / "machines").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("cpus=many", "`cpus` is 'many', but has to be a number"),
        ("memory=1", "`memory_mib` is 1"),
        ("memory=4X", "a size such as 2048M or 4G"),
        ("disk=1500M", "a whole number of GiB"),
        ("speed=9", "There is no setting `speed`"),
        ("=9", "There is no setting ``"),
        ("publish_address=here", "`publish_address` is 'here'"),
    ],
)
def test_settings_that_cannot_be_are_named(wherry: Wherry, change: str, says: str) -> None:
    wherry("create", "m")
    before = wherry("set", "m")[1]
    code, _, errors = wherry("set", "m", change)
    assert code == 1 and says in errors
    assert wherry("set", "m")[1] == before


def test_resize_sets_sizes_and_never_shrinks_a_disk(wherry: Wherry, tmp_path: Path) -> None:
    wherry("create", "m", "disk=8G")
    assert wherry("resize", "m")[0] == 125
    assert wherry("resize", "--disk", "9G", "--cpus", "1", "--swap", "1G", "m")[0] == 0
    assert {"disk=9G", "cpus=1", "swap=1024M"} <= set(wherry("set", "m")[1].splitlines())
    header = bytearray(80)
    header[:4], header[24:32] = b"QFI\xfb", (9 * 1024**3).to_bytes(8, "big")
    (tmp_path / "wherry" / "machines" / "m" / "data.qcow2").write_bytes(header)
    code, _, errors = wherry("resize", "--disk", "8G", "m")
    assert code == 1 and "has 9 GiB and cannot shrink to 8 GiB; set `disk` to 9G or more" in errors
    assert "disk=9G" in wherry("set", "m")[1]


def test_what_set_shows_can_be_set(wherry: Wherry) -> None:
    wherry("create", "m", "memory=1G")
    shown = wherry("set", "m")[1]
    assert wherry("create", "n", *shown.splitlines())[0] == 0
    assert wherry("set", "n")[1] == shown


@pytest.mark.parametrize("verb", ["stop", "restart", "logs", "ssh", "set", "rm", "reset"])
def test_a_machine_that_is_not_there(wherry: Wherry, verb: str) -> None:
    code, _, errors = wherry(verb)
    assert code == 1 and "There is no machine `default`. List them with: wherry machine ls" in errors


def test_the_status_of_what_does_not_run(wherry: Wherry) -> None:
    wherry("create", "m")
    code, text, _ = wherry("status", "m")
    assert code == 1 and "state:       stopped" in text
    assert json.loads(wherry("status", "--json", "m")[1])["state"] == "stopped"
    assert wherry("stop", "m")[0] == 0
    wherry("create")
    code, _, errors = wherry("ssh")
    assert code == 1 and "`default` is not running; start it first" in errors


def test_the_global_option_names_the_machine_too(wherry: Wherry, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    wherry("create", "big")
    assert main(["--machine", "big", "machine", "status", "--json"]) == 1
    assert json.loads(capfdbinary.readouterr().out)["name"] == "big"
    assert main(["--machine", "big", "status", "--format", "json"]) == 1
    shown = json.loads(capfdbinary.readouterr().out)
    assert (shown["backend"], shown["host"]) == ("vm", MachineManager().engine_host("big"))
    assert main(["--backend", "native", "--machine", "big", "status"]) == 1
    assert b"The native engine has no machines." in capfdbinary.readouterr().err


def test_reset_forgets_the_disk_and_keeps_the_settings(wherry: Wherry, tmp_path: Path) -> None:
    wherry("create", "m", "cpus=1")
    disk = tmp_path / "wherry" / "machines" / "m" / "data.qcow2"
    disk.write_bytes(b"x")
    assert wherry("reset", "m")[0] == 1 and disk.exists()
    assert wherry("reset", "-f", "m")[0] == 0 and not disk.exists()
    assert "cpus=1\n" in wherry("set", "m")[1]
