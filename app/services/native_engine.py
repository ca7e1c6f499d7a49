"""The engine on this computer: `wherryd`, started as root and left running."""

import contextlib
import os
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
from app.services.engines import EngineStatus, OnPhase, probe, silent
from app.services.locations import PACKAGES, NativeLocations, embedded_images

assert sys.platform == "linux"

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
READY = b"API listen on "
GROUP = "wherry"


class NativeBackend:
    name = "native"

    def __init__(self, locations: NativeLocations) -> None:
        self._locations = locations

    def host(self) -> str:
        return self._locations.host

    def status(self) -> EngineStatus:
        detail = {
            "data_root": str(self._locations.data_root),
            "run_dir": str(self._locations.run_dir),
            "accelerator": "native",
            "accelerator_reason": "the engine uses this computer's kernel",
        }
        return probe(self.host(), self.name, detail)

    def up(self, on_phase: OnPhase = silent) -> EngineStatus:
        status = self.status()
        if status.state == "running":
            return status
        if status.state == "unreachable":
            raise UserError(*status.reasons)
        on_phase("Starting the engine")
        log = _engine_log()
        with log.open("ab") as stderr:
            beginning = stderr.tell()
            failure = _start(self._daemon_command(), stderr.fileno())
        status = self.status()
        if status.state != "running":
            said = failure or _last_line(log, beginning) or "it ended without a word"
            raise UserError(f"The engine did not start: {said.rstrip('.')}.", f"Its log is {log}.")
        return status

    def down(self, on_phase: OnPhase = silent) -> EngineStatus:
        if self.status().state == "stopped":
            return self.status()
        on_phase("Stopping the engine")
        command = [*wherryd(), "shutdown", "--run-dir", str(self._locations.run_dir)]
        try:
            ended = subprocess.run(
                elevated(command),
                cwd=PACKAGES,
                capture_output=True,
                text=True,
                timeout=STOP_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise UserError(
                f"The engine has not stopped within {STOP_TIMEOUT_S:.0f} seconds.",
                f"Its log is {_engine_log()}.",
            ) from None
        if ended.returncode != 0:
            said = (ended.stderr.strip() or ended.stdout.strip() or f"exit code {ended.returncode}").splitlines()[-1]
            raise UserError(f"The engine did not stop: {said.rstrip('.')}.")
        return self.status()

    def _daemon_command(self) -> list[str]:
        command = [
            *wherryd(),
            *("--data-root", str(self._locations.data_root)),
            *("--run-dir", str(self._locations.run_dir)),
            *("--host", self.host()),
            *("--group", socket_group()),
        ]
        if images := embedded_images():
            command += ["--embedded-images", str(images)]
        # A process of its own, in a session of its own: no terminal, no parent that waits.
        return elevated(["setsid", "--fork", *command])


def wherryd() -> list[str]:
    return [sys.executable, "-m", "runtime", "daemon"]


def elevated(command: Sequence[str]) -> list[str]:
    """`command` as root: as it is, or through what can ask this user for a password.

    Raises UserError with the line to type when there is no such program.
    """
    if os.geteuid() == 0:
        return list(command)
    if shutil.which("sudo"):
        can_ask = sys.stdin is not None and sys.stdin.isatty()
        if can_ask or not _has_display() or not shutil.which("pkexec"):
            return ["sudo", *([] if can_ask else ["-n"]), "--", *command]
    if _has_display() and shutil.which("pkexec"):
        return ["pkexec", "--keep-cwd", *command]
    raise UserError(
        "The native engine runs as root, and neither sudo nor pkexec is there to become root.",
        f"As root, in {PACKAGES}, run: {shlex.join(command)}",
    )


def _has_display() -> bool:
    return bool(os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY"))


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


def _start(command: Sequence[str], stderr: int) -> str:
    """Run `command` until the engine says that it listens or ends; "" or what went wrong."""
    reader, writer = os.pipe()
    try:
        try:
            starter = subprocess.Popen(command, cwd=PACKAGES, stdin=subprocess.DEVNULL, stdout=writer, stderr=stderr)
        except OSError as failed:
            return f"{command[0]} cannot be run ({failed.strerror})"
        finally:
            os.close(writer)
        said = b""
        deadline = time.monotonic() + START_TIMEOUT_S
        while READY not in said:
            readable, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                return f"it was not ready within {START_TIMEOUT_S:.0f} seconds"
            data = os.read(reader, 4096)
            if not data:
                break
            said += data
        starter.wait()
        return ""
    finally:
        os.close(reader)


def _engine_log() -> Path:
    directory = user_paths().logs
    directory.mkdir(parents=True, exist_ok=True)
    return directory / "wherryd.log"


def _last_line(log: Path, beginning: int) -> str:
    with log.open("rb") as file:
        file.seek(beginning)
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""
