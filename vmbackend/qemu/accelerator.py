"""Which accelerator really runs a guest here.

Existence is not usability: /dev/kvm may open and answer its version while no guest gets past its first
instructions. So every candidate has to bring up the guest's own kernel within a deadline. The answer is kept with
what it depends on: QEMU, the kernel, the processor.
"""

import asyncio
import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from vmbackend import host
from vmbackend.errors import AcceleratorUnusable
from vmbackend.host.candidate import Candidate
from vmbackend.images.guest_image import GuestImage
from vmbackend.machine.store import write_atomically
from vmbackend.qemu.argv import EMULATION, build_probe_argv
from vmbackend.qemu.locate import QemuPrograms

# An accelerated kernel without a disk gets there in 0.3 s; emulation, for comparison, in about 0.6 s.
PROBE_DEADLINE_S = 1.5

# The kernel's last words without a root file system: it came all the way up.
_PROOF = b"Unable to mount root fs"


@dataclass(frozen=True)
class AcceleratorChoice:
    """`reason` says in a sentence why it is this one."""

    candidate: Candidate
    reason: str

    @property
    def emulated(self) -> bool:
        return self.candidate.accelerator == "tcg"


async def choose_accelerator(
    qemu: QemuPrograms, image: GuestImage, machine: str, wanted: str, cache: Path
) -> AcceleratorChoice:
    """The best usable accelerator, or the `wanted` one ("auto" for no wish). Takes 2 s at most, and nothing when the
    answer in `cache` still applies. Raises AcceleratorUnusable when the wanted one does not work, OSError.
    """
    emulation = EMULATION[image.arch]
    if wanted == "tcg":
        return AcceleratorChoice(emulation, "emulation was asked for in the settings")
    key = "|".join((wanted, qemu.identity, image.digest, machine, host.cpu_name()))
    obstacles = {c.accelerator: host.accelerator_obstacle(c.accelerator) for c in host.ACCELERATOR_CANDIDATES}
    key += f"|{obstacles}|{emulation}"
    known = _remembered(cache, key)
    if known is None:
        known = await _probe_ladder(qemu, image, machine, wanted, obstacles)
        write_atomically(cache, json.dumps({"key": key, **asdict(known)}))
    if wanted not in ("auto", known.candidate.accelerator):
        raise AcceleratorUnusable(
            f"The setting `accelerator` asks for {wanted}, which does not work here: {known.reason}; "
            "set it to `auto` to use emulation."
        )
    return known


async def _probe_ladder(
    qemu: QemuPrograms, image: GuestImage, machine: str, wanted: str, obstacles: dict[str, str | None]
) -> AcceleratorChoice:
    candidates = [c for c in host.ACCELERATOR_CANDIDATES if wanted in ("auto", c.accelerator)]
    # All at once, so that the whole ladder takes no longer than its slowest rung; the first usable one wins.
    failures = await asyncio.gather(*(_failure(qemu, image, machine, c, obstacles) for c in candidates))
    for candidate, failure in zip(candidates, failures, strict=True):
        if failure is None:
            return AcceleratorChoice(candidate, f"{candidate} started the guest's kernel")
    reason = "; ".join(dict.fromkeys(failure for failure in failures if failure))
    return AcceleratorChoice(EMULATION[image.arch], reason or f"no accelerator called {wanted} on this system")


async def _failure(
    qemu: QemuPrograms, image: GuestImage, machine: str, candidate: Candidate, obstacles: dict[str, str | None]
) -> str | None:
    """Why the candidate is not usable, or None when it is."""
    name = candidate.accelerator.upper()
    obstacle = obstacles[candidate.accelerator]
    if obstacle is not None:
        return f"{name} is not there: {obstacle}"
    problem = await probe(build_probe_argv(qemu.system, image, machine, candidate))
    return problem and f"{name} opens, but with cpu {candidate.cpu_model} {problem}"


async def probe(argv: list[str], deadline_s: float = PROBE_DEADLINE_S) -> str | None:
    """Run QEMU on the tiny payload; None when the kernel came up, else what went wrong. Raises OSError."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        **host.detached_process_options(),
    )
    try:
        async with asyncio.timeout(deadline_s):
            output, complaint = await process.communicate()
    except TimeoutError:
        return f"the guest's kernel did not start within {deadline_s:g} s"
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()
    if _PROOF in output:
        return None
    lines = complaint.decode(errors="replace").strip().splitlines()
    return f"QEMU ended: {lines[0]}" if lines else f"QEMU ended with code {process.returncode} before the kernel was up"


def _remembered(cache: Path, key: str) -> AcceleratorChoice | None:
    try:
        document = json.loads(cache.read_text(encoding="utf-8"))
        if document["key"] != key:
            return None
        return AcceleratorChoice(Candidate(**document["candidate"]), document["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
