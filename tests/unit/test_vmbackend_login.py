"""What starts a machine at login, in the form each system wants."""

import plistlib
import shlex
from pathlib import Path

import pytest

from vmbackend import MachineManager, MachineSettings
from vmbackend.__main__ import main
from vmbackend.host.login import LoginItem, desktop_entry, launch_agent, run_key_value

ITEM = LoginItem(
    "machine-default-1a2b",
    "Wherry machine default",
    ["/opt/my python/bin/python", "-m", "vmbackend", "start", "--home", '/home/ü/50% "$HOME"\\x', "default"],
    "/opt/my packages",
)


def test_a_desktop_entry_quotes_as_its_specification_says() -> None:
    lines = desktop_entry(ITEM).splitlines()
    assert lines[0] == "[Desktop Entry]"
    entry = dict(line.split("=", 1) for line in lines[1:])
    assert entry["Path"] == "/opt/my packages"
    # Read back as a desktop does: the escapes of string values, the quotes of Exec, then the field codes.
    words = shlex.split(entry["Exec"].replace("\\\\", "\\").replace("\\$", "$"))
    assert [word.replace("%%", "%") for word in words] == ITEM.command


def test_a_launch_agent_is_a_property_list() -> None:
    agent = plistlib.loads(launch_agent(ITEM))
    assert agent["Label"] == "org.wherry.machine-default-1a2b"
    assert agent["ProgramArguments"] == ITEM.command
    assert agent["RunAtLoad"] is True and agent["AbandonProcessGroup"] is True


def test_the_run_key_has_a_command_line() -> None:
    item = LoginItem("m", "M", [r"C:\Program Files\Python\pythonw.exe", "-m", "vmbackend", "start", "m"], "C:\\")
    assert run_key_value(item) == r'"C:\Program Files\Python\pythonw.exe" -m vmbackend start m'


@pytest.fixture
def autostart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "autostart"


def test_the_setting_makes_and_removes_it(tmp_path: Path, autostart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = MachineManager(tmp_path / "machines")
    manager.create("m", MachineSettings())
    assert not autostart.exists()
    manager.set("m", MachineSettings(start_at_login=True))
    [entry] = autostart.iterdir()
    assert f"--home {tmp_path}/machines m\n" in entry.read_text()
    [command] = [line.removeprefix("Exec=") for line in entry.read_text().splitlines() if line.startswith("Exec=")]
    started: list[str] = []
    monkeypatch.setattr(MachineManager, "start", lambda self, name: started.append(name))
    assert main(shlex.split(command)[3:]) == 0 and started == ["m"]
    manager.set("m", MachineSettings())
    assert list(autostart.iterdir()) == []
    manager.set("m", MachineSettings(start_at_login=True))
    manager.remove("m")
    assert list(autostart.iterdir()) == []
