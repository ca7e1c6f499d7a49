"""What is known about a machine at one moment."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from vmbackend.machine.states import State


@dataclass(frozen=True)
class MachineStatus:
    """Derived by looking, never remembered.

    `reasons` says, in sentences, why the state is not the wanted one. `accelerator` is QEMU's name of what runs
    the guest ("kvm", "hvf", "whpx", "tcg"), None before the first start. `phase` names the requirement being
    waited for while starting. `resumed`: it goes on where it was saved; `cold_boot_reason` says in a sentence why a
    saved machine booted anew. `image_version` and `image_digest` (its beginning) tell the guest image it runs, or would
    go on with; `available_version` and `available_digest` another one that Wherry has for it; `update_note` says in
    sentences what there is to know about a change of images. `pid` is QEMU's; `started_at` is in seconds since 1970.
    """

    name: str
    state: State
    engine_host: str
    reasons: tuple[str, ...] = ()
    accelerator: str | None = None
    accelerator_reason: str | None = None
    cpus: int | None = None
    memory_mib: int | None = None
    pid: int | None = None
    started_at: float | None = None
    ssh_port: int | None = None
    phase: str | None = None
    resumed: bool | None = None
    cold_boot_reason: str | None = None
    image_version: str | None = None
    image_digest: str | None = None
    available_version: str | None = None
    available_digest: str | None = None
    update_note: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "reasons": list(self.reasons)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "MachineStatus":
        """What this version does not know is left out: a newer hostagent may have told it."""
        known = {field.name: document[field.name] for field in fields(cls) if field.name in document}
        return cls(**{**known, "reasons": tuple(document["reasons"])})
