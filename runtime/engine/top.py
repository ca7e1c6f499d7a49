"""A container's processes as ps(1) on the host shows them (`docker top`)."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import time
from dataclasses import dataclass
from pathlib import Path

from runtime.engine.container import Container
from runtime.engine.containers import ContainerService
from runtime.errors import Conflict, InvalidParameter, NotSupported, SystemFault

DEFAULT_ARGUMENTS = "-ef"
FULL_TITLES = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
USER_COLUMNS = 8
_RENAMED_COLUMN = re.compile(r"\s+([^\s=]*)=\s*(PID[^\s]*)")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class ProcessList:
    titles: list[str]
    processes: list[list[str]]


async def list_processes(containers: ContainerService, container: Container, arguments: str) -> ProcessList:
    """Raises Conflict when it does not run, InvalidParameter, NotSupported when ps is needed and not there."""
    arguments = arguments.strip() or DEFAULT_ARGUMENTS
    if (match := _RENAMED_COLUMN.search(arguments)) and match[1].upper() != "PID":
        raise InvalidParameter(f'specifying "{match[1]}={match[2]}" is not allowed')
    containers.process_of(container)
    pids = containers.cgroup_of(container).pids()
    if not pids:
        raise Conflict(f"container {container.id} is not running")
    shown = _full(pids) if arguments == DEFAULT_ARGUMENTS else await _by_ps(arguments.split(), set(pids))
    containers.publish(container, "top")
    return shown


# --- with ps


async def _by_ps(arguments: list[str], pids: set[int]) -> ProcessList:
    try:
        process = await asyncio.create_subprocess_exec(
            *("ps", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError:
        raise NotSupported(
            f"docker top with {' '.join(arguments)!r} needs the ps program on the engine's host: install procps, "
            f"or use {DEFAULT_ARGUMENTS}"
        ) from None
    output, errors = await process.communicate()
    if process.returncode:
        raise SystemFault(f"error running ps: exit status {process.returncode}: {errors.decode(errors='replace')}")
    return parse_ps(output.decode(errors="replace"), pids)


def parse_ps(output: str, pids: set[int]) -> ProcessList:
    """The lines of these processes; raises SystemFault when ps was not asked for their PID."""
    head, *lines = output.splitlines()
    titles = head.split()
    if "PID" not in titles:
        raise SystemFault("Couldn't find PID field in ps output")
    column = titles.index("PID")
    processes = []
    for line in lines:
        fields = line.split(maxsplit=len(titles) - 1)
        if len(fields) > column and fields[column].isdigit() and int(fields[column]) in pids:
            processes.append(fields)
    return ProcessList(titles, processes)


# --- without, for the default arguments


def _full(pids: list[int]) -> ProcessList:
    uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    now_s = time.time()
    shown = []
    for pid in sorted(pids):
        try:
            shown.append(_process(pid, uptime_s, now_s))
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
    return ProcessList(FULL_TITLES, shown)


def _process(pid: int, uptime_s: float, now_s: float) -> list[str]:
    """One line of `ps -f`, from /proc/PID (proc(5))."""
    stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    name = stat[stat.index("(") + 1 : stat.rindex(")")]
    fields = stat[stat.rindex(")") + 2 :].split()
    parent, terminal = fields[1], int(fields[4])
    used_s = (int(fields[11]) + int(fields[12])) / _TICKS
    age_s = max(uptime_s - int(fields[19]) / _TICKS, 0.0)
    command = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    return [
        _user(os.stat(f"/proc/{pid}").st_uid),
        str(pid),
        parent,
        str(min(int(100 * used_s / age_s), 99) if age_s > 1 else 0),
        _start(now_s - age_s, now_s),
        _terminal(terminal),
        _duration(int(used_s)),
        command or f"[{name}]",
    ]


def _user(uid: int) -> str:
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
    return name if len(name) <= USER_COLUMNS else f"{name[: USER_COLUMNS - 1]}+"


def _start(start_s: float, now_s: float) -> str:
    """The time of day, for older ones the day, for much older ones the year."""
    start, now = time.localtime(start_s), time.localtime(now_s)
    if now_s - start_s < 24 * 3600:
        return time.strftime("%H:%M", start)
    return time.strftime("%b%d", start) if start.tm_year == now.tm_year else time.strftime("%Y", start)


def _terminal(number: int) -> str:
    """tty_nr: minor in bits 31-20 and 7-0, major in 15-8; 136 to 143 are pts."""
    major, minor = number >> 8 & 0xFF, number & 0xFF | number >> 12 & 0xFFF00
    if 136 <= major <= 143:
        return f"pts/{(major - 136 << 8) + minor}"
    return f"tty{minor}" if major == 4 else "?"


def _duration(seconds: int) -> str:
    days, seconds = divmod(seconds, 24 * 3600)
    clock = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{days}-{clock}" if days else clock
