"""The shares of a running machine: reconciled, never set once."""

from __future__ import annotations

import json
import logging
import shlex
import threading
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vmbackend.errors import GuestUnreachable, InvalidSettings
from vmbackend.host import files
from vmbackend.qemu.argv import SHARES_CHANNEL
from vmbackend.share.channel import AgentAddress, AgentChannel
from vmbackend.share.plan import Share, shares_document
from vmbackend.share.session import ShareSession

if TYPE_CHECKING:
    from vmbackend.share.watch import ChangeWatch

STATE_DIR = "/run/wherry/shares"
PUBLISHED_FILE = "/run/wherry/host-shares.json"

_START_TIMEOUT_S = 60.0
_FORWARD_TIMEOUT_S = 10.0

# The agent that runs already is kept: it has the mounts. Its source comes on standard input.
_START_AGENT = """
cd / && mkdir -p {state} && chmod 700 {state} && cat >{state}/agent.py.new || exit
if [ -s {state}/agent.json ] && kill -0 "$(sed 's/.*"pid": \\([0-9]*\\).*/\\1/' {state}/agent.json)" 2>/dev/null; then
    exec cat {state}/agent.json
fi
rm -f {state}/agent.json
mv {state}/agent.py.new {state}/agent.py
modprobe fuse
setsid /usr/bin/python3 -S -s -E {state}/agent.py {channel} {address} {state} </dev/null >{state}/agent.log 2>&1 &
for pause in $(seq 400); do
    [ -s {state}/agent.json ] && exec cat {state}/agent.json
    sleep 0.1
done
cat {state}/agent.log >&2
exit 1
"""

_log = logging.getLogger(__name__)


class CommandResult(Protocol):
    @property
    def exit_code(self) -> int: ...
    @property
    def stdout(self) -> bytes: ...
    @property
    def stderr(self) -> bytes: ...


class Guest(Protocol):
    """The way into the guest. Methods raise GuestUnreachable."""

    def run(self, command: str, timeout_s: float, stdin: bytes = b"") -> CommandResult: ...


# From a port in the guest to the port on this computer's loopback that leads there; raises MachineError.
OpenPort = Callable[[int], int]


class Shares:
    """Thread-safe; methods block. `wanted` reads the settings anew each time, so a share comes and goes at once."""

    def __init__(
        self,
        wanted: Callable[[], list[Share]],
        journals: Path,
        guest: Callable[[], Guest],
        guest_address: str,
        open_port: OpenPort,
        channel: AgentChannel,
    ) -> None:
        self._wanted = wanted
        self._journals = journals
        self._guest = guest
        self._guest_address = guest_address
        self._open_port = open_port
        self._channel = channel
        self._lock = threading.Lock()
        self._sessions: dict[str, ShareSession] = {}
        self._watches: dict[str, ChangeWatch] = {}
        self._address: AgentAddress | None = None
        self._published = ""
        self._closed = False
        self.on_lost: Callable[[], None] = lambda: None
        self.problems: list[str] = []

    def describe(self) -> list[dict[str, Any]]:
        """Each share for people: `host_path`, `guest_path`, `read_only`, `mounted`."""
        return [
            {
                "host_path": str(session.share.host_path),
                "guest_path": session.share.guest_path,
                "read_only": session.share.read_only,
                "mounted": session.attached,
            }
            for session in self._sessions.values()
        ]

    def reconcile(self) -> None:
        """Make what is mounted match what is wanted; what cannot be is in `problems`."""
        with self._lock:
            if self._closed:
                return
            try:
                wanted = {share.guest_path: share for share in self._wanted()}
            except InvalidSettings as error:
                self.problems = [str(error)]
                return
            if not wanted and not self._sessions:
                self.problems = []
                return
            problems: list[str] = []
            try:
                self._reach_agent()
                self._remove_unwanted(wanted)
                for path, share in wanted.items():
                    problems += self._keep(path, share)
                self._publish(wanted.values())
            except GuestUnreachable as error:
                problems.append(str(error))
                self._address = None
            problems += [watch.problem for watch in self._watches.values() if watch.problem]
            self.problems = problems

    def bound(self, sources: Iterable[str]) -> None:
        """Tell containers of changes below these paths of the guest, and of no others."""
        with self._lock:
            if self._closed:
                return
            sources = sorted(set(sources))
            for path, session in self._sessions.items():
                directories = []
                for source in sources:
                    if source == path or source.startswith(f"{path}/"):
                        names = source[len(path) :].strip("/").split("/")
                        on_host = session.share.host_path.joinpath(
                            *(files.native_name(name.encode("utf-8", "surrogateescape")) for name in names if name)
                        )
                        directories.append(on_host if on_host.is_dir() else on_host.parent)
                watch = self._watches.get(path)
                if watch is None and directories:
                    # Imported here: many a machine never needs it.
                    from vmbackend.share.watch import ChangeWatch

                    watch = self._watches[path] = ChangeWatch(session.share.host_path, session.tell)
                if watch is not None:
                    watch.watch(directories)

    def close(self) -> None:
        """End the connections; the guest's mounts wait for the next hostagent, or end with the guest."""
        with self._lock:
            self._closed = True
            for watch in self._watches.values():
                watch.close()
            self._channel.close()
            for session in self._sessions.values():
                session.close()

    def _reach_agent(self) -> None:
        if self._address is not None and self._channel.begun:
            return
        source = resources.files("vmbackend.share").joinpath("guest_agent.py").read_bytes()
        command = _START_AGENT.format(
            state=shlex.quote(STATE_DIR), address=shlex.quote(self._guest_address), channel=SHARES_CHANNEL
        )
        result = self._guest().run(command, _START_TIMEOUT_S, source)
        try:
            facts = json.loads(result.stdout)
            token, port = str(facts["token"]), int(facts["port"])
        except (ValueError, KeyError, TypeError) as error:
            reason = result.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise GuestUnreachable(f"The shares' agent in the guest does not start ({reason or error})") from error
        address = AgentAddress(self._open_port(port), token)
        self._channel.begin(address, lambda: self.on_lost())
        self._address = address

    def _keep(self, path: str, share: Share) -> list[str]:
        """Have a share mounted and served; sentences about what is in the way."""
        session = self._sessions.get(path)
        if session is None:
            self._journals.mkdir(mode=0o700, exist_ok=True)
            session = ShareSession(share, self._journals / f"{_file_name(path)}.nodes", self._channel)
            self._sessions[path] = session
        missing = session.tree.look_at_root()
        if not session.attached and missing is None:
            assert self._address is not None
            session.attach(self._address)
            _log.info("share %s is mounted", share)
        if missing is not None:
            return [
                f"The shared directory {share.host_path} {missing}; it comes back when it does, or remove the share."
            ]
        return []

    def _remove_unwanted(self, wanted: dict[str, Share]) -> None:
        for path, session in list(self._sessions.items()):
            if wanted.get(path) != session.share:
                watch = self._watches.pop(path, None)
                if watch is not None:
                    watch.close()
                assert self._address is not None
                self._address.ask("detach", path=path, force=True)
                session.close()
                del self._sessions[path]

    def _publish(self, shares: Iterable[Share]) -> None:
        """What the engine has to know in order to refuse a bind of anything else."""
        content = shares_document(shares, files.NEEDS_DRIVE_LETTERS)
        if content != self._published:
            assert self._address is not None
            self._address.ask("publish", file=PUBLISHED_FILE, content=content)
            self._published = content


def _file_name(path: str) -> str:
    return path.strip("/").replace("%", "%25").replace("/", "%2f")[:200]
