"""What starts a machine when its user logs in, in each system's own form. Pure; the adapters put it in place."""

import plistlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

# Desktop Entry Specification, "The Exec key": reserved characters need quotes, and these a backslash within them.
_EXEC_RESERVED = set(" \t\n\"'\\><~|&;$*?#()`")
_EXEC_ESCAPED = '"`$\\'


@dataclass(frozen=True)
class LoginItem:
    """`name` is one word that no other item has; `directory` is where `command` is run."""

    name: str
    title: str
    command: Sequence[str]
    directory: str


def desktop_entry(item: LoginItem) -> str:
    """For $XDG_CONFIG_HOME/autostart."""
    return (
        "[Desktop Entry]\n"
        "Type=Application\n"
        f"Name={_escaped(item.title)}\n"
        f"Exec={_escaped(' '.join(map(_exec_word, item.command)))}\n"
        f"Path={_escaped(item.directory)}\n"
        "Terminal=false\n"
        "NoDisplay=true\n"
        "X-GNOME-Autostart-enabled=true\n"
    )


def launch_agent(item: LoginItem) -> bytes:
    """For ~/Library/LaunchAgents; launchd starts it once at login and leaves what it leaves running alone."""
    return plistlib.dumps(
        {
            "Label": f"org.wherry.{item.name}",
            "ProgramArguments": list(item.command),
            "WorkingDirectory": item.directory,
            "RunAtLoad": True,
            "AbandonProcessGroup": True,
            "ProcessType": "Interactive",
        }
    )


def run_key_value(item: LoginItem) -> str:
    r"""For HKCU\Software\Microsoft\Windows\CurrentVersion\Run."""
    return subprocess.list2cmdline(item.command)


def _exec_word(word: str) -> str:
    word = word.replace("%", "%%")
    if word and not set(word) & _EXEC_RESERVED:
        return word
    return '"' + "".join(f"\\{letter}" if letter in _EXEC_ESCAPED else letter for letter in word) + '"'


def _escaped(value: str) -> str:
    """A string value of a desktop entry: a backslash begins an escape."""
    return value.replace("\\", "\\\\").replace("\n", "\\n")
