"""What can go wrong with a machine, as kinds a caller can act on.

`str(error)` is one sentence naming the object, the reason and the remedy. Errors cross the hostagent's
control socket as `(kind, message)` and are rebuilt by `error_of_kind`.
"""


class MachineError(Exception):
    """Base of every error of the virtual machine backend."""


class InvalidSettings(MachineError):
    """A setting, or the settings file, cannot be used as it is."""


class MachineNotFound(MachineError):
    """There is no machine of that name."""


class MachineExists(MachineError):
    """There is a machine of that name already."""


class MachineBusy(MachineError):
    """The machine runs, or somebody else is changing it."""


class QemuMissing(MachineError):
    """No QEMU was found on this computer."""


class GuestImageMissing(MachineError):
    """There is no guest image for this processor."""


class GuestImageDamaged(MachineError):
    """The guest image is there, but is not what its contract says."""


class DiskDamaged(MachineError):
    """The machine's data disk cannot be used."""


class ArchiveDamaged(MachineError):
    """A file is no exported machine, or not as it was exported."""


class AcceleratorUnusable(MachineError):
    """The accelerator that was asked for does not work here."""


class StartFailed(MachineError):
    """The machine did not come up."""


class StopFailed(MachineError):
    """The machine did not go down."""


class SnapshotRefused(MachineError):
    """A snapshot cannot be made, gone back to or removed."""


class UpdateRefused(MachineError):
    """The machine's guest image is not changed to that one, or not back."""


class UpdateFailed(MachineError):
    """The new guest image did not serve, and the machine runs the old one again."""


class GuestUnreachable(MachineError):
    """The guest does not answer; trying again may help."""


class HostagentUnreachable(MachineError):
    """The process that owns the machine does not answer."""


_KINDS: dict[str, type[MachineError]] = {
    kind.__name__: kind
    for kind in (
        MachineError,
        InvalidSettings,
        MachineNotFound,
        MachineExists,
        MachineBusy,
        QemuMissing,
        GuestImageMissing,
        GuestImageDamaged,
        DiskDamaged,
        ArchiveDamaged,
        AcceleratorUnusable,
        StartFailed,
        StopFailed,
        SnapshotRefused,
        UpdateRefused,
        UpdateFailed,
        GuestUnreachable,
        HostagentUnreachable,
    )
}


def error_of_kind(kind: str, message: str) -> MachineError:
    """Rebuild an error from its kind's name; an unknown kind becomes a plain `MachineError`."""
    return _KINDS.get(kind, MachineError)(message)
