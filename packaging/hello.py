"""What `make run` shows: a container that says hello from inside, then the window, or how to open it."""

from __future__ import annotations

import calendar
import os
import sys
import time

from app.core.errors import UserError
from app.engine.client import EngineClient
from app.services.engines import choose_backend

MEMORY_BYTES = 64 << 20

# `stat` tells nanoseconds where busybox's `date` does not; the file is made by the container's first instruction.
SCRIPT = r"""
: > /tmp/first
limit=$(cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null)
echo "hostname      $(hostname)"
echo "pid 1         $(cat /proc/1/comm) (this shell is pid $$)"
echo "memory limit  $((limit / 1048576)) MiB"
stat -c 'first %y' /tmp/first
"""


def main() -> int:
    backend = choose_backend("auto")
    backend.up(lambda phase: print(f"{phase} ..."))
    with EngineClient(backend.host()) as client:
        config = {
            "Image": "alpine",
            "Cmd": ["sh", "-c", SCRIPT],
            "HostConfig": {"Memory": MEMORY_BYTES},
        }
        container = client.create_container(config, "").id
        try:
            asked_ns = time.time_ns()
            client.start_container(container)
            client.wait_container(container, "not-running").result()
            with client.logs(container, follow=False) as output:
                lines = b"".join(piece.data for piece in output).decode().splitlines()
        finally:
            client.remove_container(container, force=True, volumes=True)
    first_ns = _nanoseconds(next(line for line in lines if line.startswith("first ")))
    print("\nHello from inside a container")
    for line in lines[:-1]:
        print(f"  {line}")
    print(f"  started in    {(first_ns - asked_ns) / 1e6:.1f} ms, from the request to its first instruction\n")
    print(f"The engine runs on {backend.host()}. Try:\n  .venv/bin/wherry run -it alpine\n  .venv/bin/wherry --help")
    return 0


def _nanoseconds(line: str) -> int:
    """`first 2026-01-02 03:04:05.678901234 +0000` → ns since the epoch."""
    _, day, clock, _ = line.split()
    seconds, _, fraction = clock.partition(".")
    moment = time.strptime(f"{day} {seconds} UTC", "%Y-%m-%d %H:%M:%S %Z")
    return calendar.timegm(moment) * 1_000_000_000 + int(fraction[:9].ljust(9, "0"))


def show_window() -> None:
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        print("Opening the window.")
        os.execv(sys.executable, [sys.executable, "-m", "app"])
    print("There is no display here. On a desktop, open the window with:\n  .venv/bin/wherry gui")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"make run: {error}")
    show_window()
