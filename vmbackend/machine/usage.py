"""What a machine uses, as the guest sees it and as this computer does."""

from dataclasses import asdict, dataclass
from typing import Any

# Prints bytes, one a line: memory in use, memory in all, data disk in use, data disk in all.
MEASURE_COMMAND = (
    "awk '/^MemTotal/ { all = $2 } /^(MemFree|Buffers|Cached|SReclaimable)/ { free += $2 } "
    "END { print (all - free) * 1024; print all * 1024 }'"
    " /proc/meminfo; df -k /var/lib/wherry | awk 'END { print $(NF - 3) * 1024; print $(NF - 4) * 1024 }'"
)


@dataclass(frozen=True)
class MachineUsage:
    """Bytes. The guest's figures are None when it cannot be asked, as when it is paused.

    `host_memory_bytes` is what QEMU holds of this computer's memory, `host_disk_bytes` what the data disk's file takes.
    """

    guest_memory_used_bytes: int | None = None
    guest_memory_total_bytes: int | None = None
    guest_disk_used_bytes: int | None = None
    guest_disk_total_bytes: int | None = None
    host_memory_bytes: int | None = None
    host_disk_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "MachineUsage":
        return cls(**document)


def usage_from(output: str, host_memory_bytes: int | None, host_disk_bytes: int | None) -> MachineUsage:
    """Of what MEASURE_COMMAND printed. Raises ValueError."""
    memory_used, memory_total, disk_used, disk_total = (int(float(line)) for line in output.split())
    return MachineUsage(memory_used, memory_total, disk_used, disk_total, host_memory_bytes, host_disk_bytes)
