"""A machine of its own is broken in every way we know, again and again, while it is used.

Each case prints what it measured, and ends with an error when something does not hold. As root, with its own mounts, so
that the computer's name servers can be changed for it alone.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path

from runtime.linux import namespaces
from tests.soak.cases import CASES, Soak
from tests.vm.conftest import BootedMachine
from vmbackend import MachineManager, MachineSettings
from vmbackend.machine.paths import MachinePaths

SETTINGS = MachineSettings(cpus=2, memory_mib=1024, disk_gib=2, idle_pause_s=0, shares=())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="of boots, saves and faults (default: %(default)s)")
    parser.add_argument("--image", metavar="DIR", help="of the guest (default: the one that is at hand)")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"{', '.join(CASES)} (default: all)")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - set(CASES):
        parser.error(f"there is no case {min(unknown)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the machine is stopped then too
    failed = 0
    with tempfile.TemporaryDirectory(prefix="wherry-soak-") as directory:
        root = Path(directory)
        resolv_conf = own_resolv_conf(root)
        manager = MachineManager(root / "machines")
        manager.create("soak", replace(SETTINGS, image_dir=arguments.image))
        machine = BootedMachine(manager, "soak", MachinePaths(root / "machines/soak"))
        soak = Soak(machine, root, arguments.rounds, resolv_conf)
        try:
            for name in arguments.cases or CASES:
                print(f"\n{name}: {CASES[name].__doc__}", flush=True)
                began = time.monotonic()
                try:
                    machine.ensure_running()
                    CASES[name](soak)
                    print(f"  held, in {time.monotonic() - began:.0f} s", flush=True)
                except Exception:  # noqa: BLE001 - the other cases say more
                    failed += 1
                    traceback.print_exc()
                    print(machine.paths.hostagent_log.read_text()[-3000:], file=sys.stderr)
                    print(machine.paths.console_log.read_text()[-3000:], file=sys.stderr)
                    manager.reset("soak", force=True)  # nothing of it for the next case
        finally:
            manager.stop("soak", force=True)
    return 1 if failed else 0


def own_resolv_conf(root: Path) -> Path:
    """A file that is this process's /etc/resolv.conf, and that of what it starts."""
    path = root / "resolv.conf"
    path.write_bytes(Path("/etc/resolv.conf").read_bytes())
    namespaces.unshare(namespaces.CLONE_NEWNS)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "--bind", path, "/etc/resolv.conf"], check=True)
    return path


if __name__ == "__main__":
    sys.exit(main())
