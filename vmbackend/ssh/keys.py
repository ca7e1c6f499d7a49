"""The two key pairs of a machine: ours, and the guest's host key, which we make and hand in.

Because the guest's key is known before the first connection, it is checked strictly and never learnt.
"""

from dataclasses import dataclass
from pathlib import Path

import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from vmbackend import host
from vmbackend.machine.paths import MachinePaths


@dataclass(frozen=True)
class MachineKeys:
    client: paramiko.PKey
    guest_host: paramiko.PKey


def make_missing_keys(paths: MachinePaths) -> None:
    """Make the key files that are not there yet, readable by this user alone. Raises OSError."""
    if not paths.guest_host_key.exists():
        _write_private(paths.guest_host_key, _openssh(Ed25519PrivateKey.generate()))
    if not paths.client_key.exists() or not paths.authorized_keys.exists():
        key = Ed25519PrivateKey.generate()
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        # The private half last: with it in place the pair is complete.
        _write_private(paths.authorized_keys, public + b" wherry\n")
        _write_private(paths.client_key, _openssh(key))


def load_keys(paths: MachinePaths) -> MachineKeys:
    """Raises OSError, paramiko.SSHException."""
    return MachineKeys(
        paramiko.Ed25519Key.from_private_key_file(str(paths.client_key)),
        paramiko.Ed25519Key.from_private_key_file(str(paths.guest_host_key)),
    )


def _openssh(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def _write_private(path: Path, content: bytes) -> None:
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    host.make_private(draft)
    draft.write_bytes(content)
    draft.replace(path)
