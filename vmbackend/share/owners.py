"""Who owns a shared file, and its mode, as containers see it.

Files belong to this computer's user, who can give them to nobody else. What a container gave a file is kept as a note
with the file (an extended attribute; a named stream on NTFS), and shown from then on.
"""

import contextlib
import os
import stat
from dataclasses import dataclass, replace

from vmbackend.host import files
from vmbackend.share.nodes import Identity

# What the owner keeps on this computer, whatever a container says: else its user could not tidy up.
_KEPT_FILE, _KEPT_DIRECTORY = 0o600, 0o700


@dataclass(frozen=True, slots=True)
class Owner:
    """As in stat(2); `mode` has the permission bits alone."""

    uid: int
    gid: int
    mode: int

    @classmethod
    def of(cls, facts: os.stat_result) -> "Owner":
        """Without a note."""
        if files.SHOWN_OWNER is None:
            uid, gid = facts.st_uid, facts.st_gid
        else:
            uid, gid = files.SHOWN_OWNER if facts.st_uid == _me() else (0, 0)
        return cls(uid, gid, stat.S_IMODE(files.shown_mode(facts)))


def encode(owner: Owner, plain: Owner) -> bytes | None:
    """The note that makes `plain` shown as `owner`; None when none is needed. A mode on the disk needs no note."""
    if owner == plain:
        return None
    mode = "" if owner.mode == plain.mode else f":{owner.mode:o}"
    return f"{owner.uid}:{owner.gid}{mode}".encode()


def decode(note: bytes, plain: Owner) -> Owner:
    """`plain`, as the note says; a note that is none changes nothing."""
    try:
        uid, gid, *mode = note.decode().split(":")
        return Owner(int(uid), int(gid), int(mode[0], 8) if mode else plain.mode)
    except ValueError:
        return plain


def mode_on_disk(mode: int, is_directory: bool) -> int:
    """The permission bits a file really gets."""
    return mode & 0o777 | (_KEPT_DIRECTORY if is_directory else _KEPT_FILE)


class Owners:
    """Notes of one share. What cannot have one (links, pipes, file systems without attributes) is remembered here."""

    def __init__(self) -> None:
        self._remembered: dict[Identity, bytes] = {}

    def of(self, directory: files.Directory, name: str, facts: os.stat_result, identity: Identity) -> Owner:
        plain = Owner.of(facts)
        note = self._remembered.get(identity)
        if note is None and not stat.S_ISLNK(facts.st_mode):
            with contextlib.suppress(OSError):
                note = files.read_note(directory, name)
        return decode(note, plain) if note else plain

    def give(
        self, directory: files.Directory, name: str, facts: os.stat_result, identity: Identity, owner: Owner
    ) -> None:
        """Show the file as `owner`'s from now on; its mode on the disk follows as far as it may. Raises OSError."""
        plain = Owner.of(facts)
        if not stat.S_ISLNK(facts.st_mode):
            wanted = mode_on_disk(owner.mode, stat.S_ISDIR(facts.st_mode))
            if wanted != stat.S_IMODE(facts.st_mode):
                try:
                    files.change_mode(directory, name, wanted)
                    if stat.S_IMODE(files.shown_mode(facts)) == stat.S_IMODE(facts.st_mode):
                        plain = replace(plain, mode=wanted)
                except PermissionError:
                    pass  # another user's file: the note alone says it
        note = encode(owner, plain)
        self._remembered.pop(identity, None)
        try:
            files.write_note(directory, name, note)
        except OSError:
            if note is not None:
                self._remembered[identity] = note


def _me() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0
