"""One way to run a guest: an accelerator, its options, a CPU model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A rung of the accelerator ladder, in QEMU's words.

    `options` is appended to `-accel NAME`, `machine_options` to `-machine TYPE`.
    """

    accelerator: str
    cpu_model: str
    options: str = ""
    machine_options: str = ""

    def __str__(self) -> str:
        extra = ",".join(part for part in (self.options, self.machine_options) if part)
        return f"{self.accelerator} with cpu {self.cpu_model}" + (f" and {extra}" if extra else "")
