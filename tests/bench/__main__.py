"""`make bench`: Wherry beside Docker Engine and runc, in one run; medians and ratios, never verdicts.

Peers that are not installed are left out. A dockerd is started on directories of its own for the time of the run.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench.build import builds
from tests.bench.cpu import cpu
from tests.bench.crowds import hundred, thousand
from tests.bench.images import images
from tests.bench.lives import api_lives, cli_lives, execs
from tests.bench.machine import machine
from tests.bench.peers import Peer, peers
from tests.bench.published import published
from tests.bench.shares import shares
from tests.bench.streams import logs, ports

ROWS: dict[str, Callable[[Sequence[Peer], Path, int], None]] = {
    "lives": api_lives,
    "cli": cli_lives,
    "exec": execs,
    "cpu": cpu,
    "builds": builds,
    "hundred": hundred,
    "logs": logs,
    "ports": ports,
    "published": published,
    "thousand": thousand,
    "images": images,
    "machine": machine,
    "shares": shares,
}
NOT_BY_DEFAULT = ("thousand", "images", "machine", "shares")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"{', '.join(ROWS)} (default: all but the last four)")
    arguments = parser.parse_args()
    rows = arguments.rows or [row for row in ROWS if row not in NOT_BY_DEFAULT]
    if unknown := set(rows) - set(ROWS):
        parser.error(f"there is no row {min(unknown)}")
    with tempfile.TemporaryDirectory(prefix="wherry-bench-") as directory:
        root = Path(directory)
        with peers(root) as found:
            for row in rows:
                ROWS[row](found, root, arguments.rounds)
            for peer in found:
                print(f"\n{peer.name}, memory after all that: {peer.memory_kb() / 1024:.1f} MB")


if __name__ == "__main__":
    main()
