"""libnftables in process: nft(8) commands without starting a program.

Source: libnftables(3), nftables/libnftables.h. The library is loaded when the first `Nftables` is made.
"""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from types import TracebackType
from typing import Self

_LIBRARY = "libnftables.so.1"
_NFT_CTX_DEFAULT = 0
_NFT_CTX_OUTPUT_JSON = 1 << 4

# libnftables reports the kernel's errno only as the strerror(3) text at the end of a sentence.
_ERRNO_OF_TEXT = {os.strerror(number): number for number in errno.errorcode}


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise OSError(errno.ENOENT, str(error), _LIBRARY) from error
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.nft_run_cmd_from_buffer.restype = ctypes.c_int
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        function = getattr(library, name)
        function.argtypes = [ctypes.c_void_p]
        function.restype = ctypes.c_int
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        function = getattr(library, name)
        function.argtypes = [ctypes.c_void_p]
        function.restype = ctypes.c_char_p
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_ctx_output_set_flags.restype = None
    library.nft_ctx_free.argtypes = [ctypes.c_void_p]
    library.nft_ctx_free.restype = None
    return library


class Nftables:
    """One libnftables context. It works on the network namespace the calling thread is in when it is made.

    Not for use by two threads at once. `OSError(ENOENT, ..., "libnftables.so.1")` if the library is missing.
    """

    def __init__(self, json: bool = False) -> None:
        """`json`: `run` returns libnftables-json(5); refused by a library that was built without."""
        self._library = _library()
        self._context = self._library.nft_ctx_new(_NFT_CTX_DEFAULT)
        if not self._context:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), "nft_ctx_new")
        if json:
            self._library.nft_ctx_output_set_flags(self._context, _NFT_CTX_OUTPUT_JSON)
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def run(self, commands: str) -> str:
        """Apply the commands as one transaction, all or nothing; returns what `nft` would have printed."""
        if not self._context:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), "nftables context")
        status = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        # Reading a buffer also resets it, so both are read every time.
        output = (self._library.nft_ctx_get_output_buffer(self._context) or b"").decode(errors="replace")
        complaint = (self._library.nft_ctx_get_error_buffer(self._context) or b"").decode(errors="replace")
        if status != 0:
            raise _failure(complaint)
        return output

    def close(self) -> None:
        context, self._context = self._context, None
        if context:
            self._library.nft_ctx_free(context)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _failure(complaint: str) -> OSError:
    """A complaint is a sentence, then the command with the place underlined. EINVAL for bad syntax."""
    sentence = complaint.partition("\n")[0]
    reason = sentence.rpartition(": ")[2]
    return OSError(_ERRNO_OF_TEXT.get(reason, errno.EINVAL), complaint.strip() or "refused", "nftables")
