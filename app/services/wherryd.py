"""Starting and stopping the engine's process, which runs as root and outlives whoever started it."""

import contextlib
import os
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from app.core.errors import UserError
from app.core.paths import user_paths
from app.services.locations import PACKAGES, NativeLocations, embedded_images

assert sys.platform == "linux"

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
READY = re.compile(rb"^API listen on .*\n", re.MULTILINE)  # the whole line: the engine must not write to a closed pipe
GROUP = "wherry"

_WHERRYD = (sys.executable, "-m", "runtime", "daemon")


def start(locations: NativeLocations) -> None:
    """Return once the engine says that it listens. Raises UserError with the engine's own last words."""
    log = log_file()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors:
        beginning = errors.tell()
        failure = _start(elevated(daemon_command(locations)), errors.fileno())
    if failure is not None:
        said = _last_line(log, beginning) or failure
        raise UserError(f"The engine did not start: {said.rstrip('.')}.", f"Its log is {log}.")


def shut_down(locations: NativeLocations) -> None:
    """Stop the engine and its containers, also those a killed engine left behind. Raises UserError."""
    command = [*_WHERRYD, "shutdown", "--run-dir", str(locations.run_dir), "--data-root", str(locations.data_root)]
    try:
        ended = subprocess.run(
            elevated(command), cwd=PACKAGES, capture_output=True, text=True, timeout=STOP_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"The engine has not stopped within {STOP_TIMEOUT_S:.0f} seconds.", f"Its log is {log_file()}."
        ) from None
    if ended.returncode != 0:
        said = (ended.stderr.strip() or ended.stdout.strip() or f"exit code {ended.returncode}").splitlines()[-1]
        raise UserError(f"The engine did not stop: {said.rstrip('.')}.")


def log_file() -> Path:
    """What the engine writes to standard error, for the user who started it."""
    return user_paths().logs / "wherryd.log"


def daemon_command(locations: NativeLocations) -> list[str]:
    """The engine in a session of its own: no terminal, and no parent that waits for it."""
    command = [
        *("setsid", "--fork", *_WHERRYD),
        *("--data-root", str(locations.data_root)),
        *("--run-dir", str(locations.run_dir)),
        *("--host", locations.host),
        *("--group", socket_group()),
    ]
    if images := embedded_images():
        command += ["--embedded-images", str(images)]
    return command


def elevated(command: Sequence[str]) -> list[str]:
    """`command` as root: as it is, or through what can ask this user for a password.

    Raises UserError with the line to type when there is no such program.
    """
    if os.geteuid() == 0:
        return list(command)
    has_terminal = sys.stdin is not None and sys.stdin.isatty()
    has_display = bool(os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY"))
    if has_terminal and shutil.which("sudo"):
        return ["sudo", "--", *command]
    if has_display and shutil.which("pkexec"):
        return ["pkexec", "--keep-cwd", *command]
    if shutil.which("sudo"):
        return ["sudo", "-n", "--", *command]
    raise UserError(
        "The native engine runs as root, and there is neither sudo nor pkexec to become root with.",
        f"As root, in {PACKAGES}, run: {shlex.join(command)}",
    )


def socket_group() -> str:
    """The group that may use the engine, as good as being root: `wherry`, or one that only this user is in.

    Raises UserError for a user who shares the primary group with others.
    """
    import grp
    import pwd

    # Under sudo it is the user who called, not root, who will use the engine.
    user = pwd.getpwuid(int(os.environ.get("SUDO_UID") or os.getuid()))
    primary = grp.getgrgid(user.pw_gid).gr_name
    with contextlib.suppress(KeyError):
        if user.pw_name in grp.getgrnam(GROUP).gr_mem:
            return GROUP
    if primary == user.pw_name:
        return primary
    raise UserError(
        f"Your group {primary} has other members, and whoever may use the engine is as good as root.",
        f"Make one for it: sudo groupadd {GROUP}; sudo usermod -aG {GROUP} {user.pw_name}; then log in again.",
    )


def _start(command: Sequence[str], errors: int) -> str | None:
    """Run `command` until the engine says that it listens (None) or ends (what went wrong)."""
    reader, writer = os.pipe()
    try:
        try:
            starter = subprocess.Popen(command, cwd=PACKAGES, stdin=subprocess.DEVNULL, stdout=writer, stderr=errors)
        except OSError as failed:
            return f"{command[0]} cannot be run ({failed.strerror})"
        finally:
            os.close(writer)
        said = b""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not READY.search(said):
            readable, _, _ = select.select([reader], [], [], max(0.0, deadline_s - time.monotonic()))
            if not readable:
                return f"it was not ready within {START_TIMEOUT_S:.0f} seconds"
            data = os.read(reader, 4096)
            if not data:
                return "it ended without a word"
            said += data
        starter.wait()
        return None
    finally:
        os.close(reader)


def _last_line(log: Path, beginning: int) -> str:
    with log.open("rb") as file:
        file.seek(beginning)
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""
