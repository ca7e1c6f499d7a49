"""Execs: further processes in a running container. They live as long as their container, in memory only."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from runtime.content.merged import read_in_container
from runtime.content.snapshots import Snapshots
from runtime.content.users import GROUP_PATH, PASSWD_PATH, resolve_user
from runtime.engine import faults, spec_gen
from runtime.engine.container import Container
from runtime.engine.containers import ContainerService
from runtime.engine.processes import LiveProcess, ProcessTable
from runtime.engine.stdio import OutputHub, Take, discard
from runtime.errors import Conflict, InvalidParameter, NotFound, ProcessFault

START_FAILED_CODE = 126
MAY_TRACE = "CAP_SYS_PTRACE"
"""Who has it may trace a process before it executes: that one must not lend from a process of the host (ptrace(2))."""
KEPT_AFTER_EXIT_S = 300  # a client asks for the exit code right after the stream ends


@dataclass
class Exec:
    """One exec: what was asked for, and what became of it. `exit_code` is None until it has ended."""

    id: str
    container: Container
    args: list[str]
    env: list[str]
    user: str
    working_dir: str
    tty: bool
    open_stdin: bool
    attach_stdout: bool
    attach_stderr: bool
    privileged: bool
    detach_keys: str = ""
    console_size: tuple[int, int] = (0, 0)  # rows, columns
    pid: int = 0
    exit_code: int | None = None
    started: bool = False
    hub: OutputHub = field(default_factory=OutputHub)
    live: LiveProcess | None = None

    @property
    def running(self) -> bool:
        return self.started and self.exit_code is None


class ExecService:
    def __init__(self, containers: ContainerService, snapshots: Snapshots, processes: ProcessTable) -> None:
        self._containers = containers
        self._snapshots = snapshots
        self._processes = processes
        self._execs: dict[str, Exec] = {}
        self._known_containers: set[str] = set()  # those whose removal forgets their execs
        self._followers: set[asyncio.Task[None]] = set()

    def get(self, id: str) -> Exec:
        try:
            return self._execs[id]
        except KeyError:
            raise NotFound(f"No such exec instance: {id}") from None

    def create(self, container: Container, document: Mapping[str, Any]) -> Exec:
        """From Docker's ExecConfig; raises Conflict when the container does not run, InvalidParameter."""
        args = document.get("Cmd") or []
        if not isinstance(args, list) or not args:
            raise InvalidParameter("No exec command specified")
        self._check_container(container)
        env = document.get("Env") or []
        if not isinstance(env, list) or not all(isinstance(entry, str) for entry in env):
            raise InvalidParameter("invalid Env: a list of strings is needed")
        exec = Exec(
            secrets.token_hex(32),
            container,
            [str(word) for word in args],
            env,
            document.get("User") or "",
            document.get("WorkingDir") or "",
            bool(document.get("Tty")),
            bool(document.get("AttachStdin")),
            bool(document.get("AttachStdout")),
            bool(document.get("AttachStderr")),
            bool(document.get("Privileged")),
            document.get("DetachKeys") or "",
            parse_console_size(document),
        )
        if container.id not in self._known_containers:
            self._known_containers.add(container.id)
            container.removal().add_done_callback(lambda _: self._forget(container))
        self._execs[exec.id] = exec
        container.execs.append(exec.id)
        self._containers.publish(container, f"exec_create: {' '.join(exec.args)}", execID=exec.id)
        return exec

    def _forget(self, container: Container) -> None:
        self._known_containers.discard(container.id)
        self._execs = {id: exec for id, exec in self._execs.items() if exec.container is not container}

    def _check_container(self, container: Container) -> None:
        self._containers.process_of(container)
        if container.state.status == "paused":
            raise Conflict(f"Container {container.name} is paused, unpause the container before exec")

    def check_startable(self, exec: Exec) -> None:
        """Raises Conflict if it was started before, or the container does not run."""
        self._check_container(exec.container)
        if exec.exit_code is not None:
            raise Conflict(f"Error: Exec command {exec.id} has already run")
        if exec.started:
            raise Conflict(f"Error: Exec command {exec.id} is already running")

    async def start(self, exec: Exec, console_size: tuple[int, int] = (0, 0), take: Take = discard) -> LiveProcess:
        """Raises Conflict if it was started before or the container has stopped, ProcessFault."""
        self.check_startable(exec)
        container = exec.container
        init = self._containers.process_of(container)
        exec.started = True
        console_size = console_size if any(console_size) else exec.console_size
        try:
            exec.live = await self._launch(exec, init, console_size, take)
        except ProcessFault as fault:
            self._end(exec, faults.exit_code_of(fault, START_FAILED_CODE))
            raise faults.exec_failed(fault) from None
        except BaseException:  # such as a user nobody knows
            self._end(exec, START_FAILED_CODE)
            raise
        exec.pid = exec.live.pid
        self._containers.publish(container, f"exec_start: {' '.join(exec.args)}", execID=exec.id)
        follower = asyncio.ensure_future(self._follow(exec, exec.live))
        self._followers.add(follower)
        follower.add_done_callback(self._followers.discard)
        return exec.live

    async def _launch(self, exec: Exec, init: LiveProcess, console_size: tuple[int, int], take: Take) -> LiveProcess:
        container = exec.container
        cgroup = self._containers.cgroup_of(container)
        bundle = self._containers.bundle_of(container)
        process = bundle / f"exec-{exec.id}.json"
        with ExitStack() as held:
            extra_fds: dict[str, int] = {}
            try:
                extra_fds["container"] = os.pidfd_open(init.pid)
                held.callback(os.close, extra_fds["container"])
                cgroup_fd = cgroup.open_fd_beside(init.pid)
            except (ProcessLookupError, FileNotFoundError):  # it ends just now
                raise Conflict(f"container {container.id} is not running") from None
            if cgroup_fd is not None:
                extra_fds["cgroup"] = cgroup_fd
                held.callback(os.close, cgroup_fd)
            held.callback(process.unlink, missing_ok=True)
            document = self._process(exec, console_size)
            process.write_text(json.dumps(document))
            fork = container.pids_shared or MAY_TRACE in document["capabilities"]["bounding"]

            async def launch(fds: Mapping[str, int]) -> Any:
                join = [] if cgroup_fd is not None else cgroup.join_paths()
                return await self._processes.link.exec((container.id, exec.id), bundle, process, join, fork, fds)

            return await self._processes.start(
                (container.id, exec.id),
                launch,
                terminal=exec.tty,
                stdin=exec.open_stdin,
                take=take,
                hub=exec.hub,
                extra_fds=extra_fds,
            )

    def _process(self, exec: Exec, console_size: tuple[int, int]) -> dict[str, Any]:
        container = exec.container
        image = self._containers.image_of(container)
        rootfs = self._snapshots.describe(container.id, image)

        def read(path: str) -> bytes | None:
            return read_in_container(rootfs.lower, rootfs.upper, path)

        options = container.options
        spec = exec.user or options.user
        user = resolve_user(spec, read(PASSWD_PATH), read(GROUP_PATH), options.groups)
        asked = _overridden(options.env, exec.env)
        capabilities = spec_gen.effective_capabilities(options, privileged=exec.privileged or options.privileged)
        document: dict[str, Any] = {
            "terminal": exec.tty,
            "user": spec_gen.oci_user(user),
            "args": exec.args,
            "env": spec_gen.environment(asked, exec.tty, container.hostname, user.home, container.link_env),
            "cwd": exec.working_dir or options.working_dir,
            "capabilities": spec_gen.capability_sets(capabilities, user.uid),
            "noNewPrivileges": options.no_new_privileges,
            "rlimits": options.rlimits,
        }
        if options.oom_score_adj is not None:
            document["oomScoreAdj"] = options.oom_score_adj
        if profile := spec_gen.apparmor_profile(options):
            document["apparmorProfile"] = profile
        if any(console_size):
            document["consoleSize"] = {"height": console_size[0], "width": console_size[1]}
        return document

    async def _follow(self, exec: Exec, live: LiveProcess) -> None:
        exit = await live.ended
        exec.live = None
        self._end(exec, exit.code)
        self._containers.publish(exec.container, "exec_die", execID=exec.id, exitCode=str(exit.code))

    def _end(self, exec: Exec, code: int) -> None:
        exec.exit_code = code
        exec.hub.end()
        if exec.id in exec.container.execs:
            exec.container.execs.remove(exec.id)
        asyncio.get_running_loop().call_later(KEPT_AFTER_EXIT_S, self._expire, exec.id)

    def detached(self, exec: Exec) -> None:
        """A person left it running by the detach keys."""
        self._containers.publish(exec.container, "exec_detach", execID=exec.id)

    def _expire(self, id: str) -> None:
        self._execs.pop(id, None)

    def resize(self, exec: Exec, rows: int, columns: int) -> None:
        if exec.live is None:
            raise Conflict(f"exec {exec.id} is not running")
        exec.live.stdio.resize(rows, columns)

    def close(self) -> None:
        for follower in self._followers:
            follower.cancel()


def parse_console_size(document: Mapping[str, Any]) -> tuple[int, int]:
    """ConsoleSize: rows and columns, (0, 0) for none; raises InvalidParameter."""
    size = document.get("ConsoleSize") or [0, 0]
    if (
        not isinstance(size, list)
        or len(size) != 2
        or not all(isinstance(number, int) and 0 <= number < 65536 for number in size)
    ):
        raise InvalidParameter("invalid ConsoleSize: a list of two numbers, rows and columns, is needed")
    return size[0], size[1]


def _overridden(env: list[str], own: list[str]) -> list[str]:
    """A variable keeps its place, as in moby's ReplaceOrAppendEnvVars."""
    by_name = {entry.partition("=")[0]: entry for entry in env}
    by_name.update({entry.partition("=")[0]: entry for entry in own})
    return list(by_name.values())
