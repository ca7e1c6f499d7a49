"""Read from an ELF file which shared libraries it needs (DT_NEEDED). See elf(5). 64-bit little-endian only."""

from __future__ import annotations

import struct

_MAGIC = b"\x7fELF\x02\x01"
_PT_LOAD = 1
_PT_DYNAMIC = 2
_DT_NEEDED = 1
_DT_STRTAB = 5


def needed_libraries(content: bytes) -> list[str] | None:
    """The names in DT_NEEDED in order; empty for a static program, None when this is no ELF file."""
    if not content.startswith(_MAGIC):
        return None
    (table_offset,) = struct.unpack_from("<Q", content, 32)
    entry_size, entry_count = struct.unpack_from("<HH", content, 54)
    loads: list[tuple[int, int, int]] = []
    dynamic: tuple[int, int] | None = None
    for index in range(entry_count):
        kind, _flags, offset, address, _, size = struct.unpack_from(
            "<IIQQQQ", content, table_offset + index * entry_size
        )
        if kind == _PT_LOAD:
            loads.append((address, offset, size))
        elif kind == _PT_DYNAMIC:
            dynamic = (offset, size)
    if dynamic is None:
        return []
    offset, size = dynamic
    tags = list(struct.iter_unpack("<QQ", content[offset : offset + size // 16 * 16]))
    strings_address = next((value for tag, value in tags if tag == _DT_STRTAB), 0)
    strings = next(
        (
            offset + strings_address - address
            for address, offset, size in loads
            if address <= strings_address < address + size
        ),
        0,
    )
    return [_string(content, strings + value) for tag, value in tags if tag == _DT_NEEDED]


def _string(content: bytes, offset: int) -> str:
    return content[offset : content.index(b"\0", offset)].decode()
