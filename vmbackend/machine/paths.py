"""Every file name of a machine.

A unix socket's path must fit into `sun_path`: 108 bytes on Linux, 104 on macOS, with the closing zero. A machine
whose folder is too deep for that keeps its sockets in a short folder of the user's instead.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from vmbackend import host

_MAX_SOCKET_PATH_BYTES = 103
_KEPT_CONSOLES = 4


@dataclass(frozen=True)
class MachinePaths:
    directory: Path

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def settings(self) -> Path:
        return self.directory / "settings.json"

    @property
    def data_disk(self) -> Path:
        return self.directory / "data.qcow2"

    @property
    def saved_state(self) -> Path:
        """A saved guest: the contents of its memory and devices. Worth something only with `saved_record`."""
        return self.directory / "saved.state"

    @property
    def saved_record(self) -> Path:
        """What the saved guest belongs to; it is taken away before that guest runs on."""
        return self.directory / "saved.json"

    @property
    def images(self) -> Path:
        """The guest images it runs, or may go back to."""
        return self.directory / "images"

    @property
    def image_record(self) -> Path:
        """Which of them it runs, and how far a change of it has got."""
        return self.directory / "image.json"

    @property
    def verified_images(self) -> Path:
        """Which files of images were read and found good; of all machines."""
        return self.directory.parent / "verified-images.json"

    @property
    def held_state(self) -> Path:
        """A guest saved before it read its data disk, from which any number of starts may go on."""
        return self.directory / "held.state"

    @property
    def held_record(self) -> Path:
        """What the held guest belongs to."""
        return self.directory / "held.json"

    @property
    def client_key(self) -> Path:
        """The hostagent's private SSH key."""
        return self.directory / "client_key"

    @property
    def authorized_keys(self) -> Path:
        return self.directory / "authorized_keys"

    @property
    def guest_host_key(self) -> Path:
        """The guest's private SSH host key, made here, so that the guest is known before the first connection."""
        return self.directory / "guest_host_key"

    @property
    def guest_settings(self) -> Path:
        """What the guest reads of the settings; a proxy's password may be in it."""
        return self.directory / "guest-settings"

    @property
    def ca_certificates(self) -> Path:
        return self.directory / "ca-certificates.pem"

    @property
    def hostagent_lock(self) -> Path:
        """Locked by the hostagent as long as it lives."""
        return self.directory / "hostagent.lock"

    @property
    def hostagent_record(self) -> Path:
        return self.directory / "hostagent.json"

    @property
    def share_journals(self) -> Path:
        """Which files of shares the guest knows by which numbers."""
        return self.directory / "shares"

    @property
    def shares_document(self) -> Path:
        """What the guest's engine is told of the shares at its start."""
        return self.directory / "host-shares.json"

    @property
    def qemu_record(self) -> Path:
        return self.directory / "qemu.json"

    @property
    def hostagent_log(self) -> Path:
        return self.directory / "hostagent.log"

    @property
    def qemu_log(self) -> Path:
        return self.directory / "qemu.log"

    @property
    def console_log(self) -> Path:
        """What the guest wrote to its serial console since its last start."""
        return self.directory / "console.log"

    @property
    def console_logs(self) -> tuple[Path, ...]:
        """The consoles of the last starts, this one's first: what a guest that died had to say."""
        earlier = (self.directory / f"console.{age}.log" for age in range(1, _KEPT_CONSOLES))
        return (self.console_log, *earlier)

    @property
    def engine_socket(self) -> Path:
        return self._sockets / "docker.sock"

    @property
    def control_socket(self) -> Path:
        return self._sockets / "control.sock"

    @property
    def qmp_socket(self) -> Path:
        return self._sockets / "qmp.sock"

    @property
    def rescue_socket(self) -> Path:
        """Where QEMU listens for a hostagent that comes after the one that started it."""
        return self._sockets / "rescue.sock"

    @property
    def console_socket(self) -> Path:
        return self._sockets / "console.sock"

    @property
    def ports_socket(self) -> Path:
        """Where QEMU connects the channel on which the guest's engine asks for ports."""
        return self._sockets / "ports.sock"

    @property
    def shares_socket(self) -> Path:
        """Where QEMU connects the channel that carries the files of shares."""
        return self._sockets / "shares.sock"

    @property
    def directories(self) -> set[Path]:
        """The machine's folders; one, unless its sockets need another."""
        return {self.directory, self._sockets}

    def make_directories(self) -> None:
        """Create the machine's folders, for this user alone. Raises OSError."""
        for directory in self.directories:
            directory.mkdir(parents=True, exist_ok=True)
            host.make_private(directory)

    @property
    def _sockets(self) -> Path:
        longest = self.directory / "console.sock"
        if len(os.fsencode(longest)) <= _MAX_SOCKET_PATH_BYTES:
            return self.directory
        digest = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:12]
        return host.runtime_home() / digest
