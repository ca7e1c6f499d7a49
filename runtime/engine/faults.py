"""Why a process could not be started, in the words and exit codes that Docker's clients know."""

from __future__ import annotations

import errno

from runtime.errors import ProcessFault

INTERNAL_CODE = 128
_CODES = {errno.ENOENT: 127, errno.ENOTDIR: 127, errno.EACCES: 126, errno.ENOEXEC: 126, errno.EISDIR: 126}


def exit_code_of(error: Exception, otherwise: int = INTERNAL_CODE) -> int:
    """What a shell would say: 127 not found, 126 not executable."""
    return _CODES.get(error.errno, otherwise) if isinstance(error, ProcessFault) else otherwise


def is_of_the_request(fault: ProcessFault) -> bool:
    """Whether the request asked for what cannot be started; else the system is at fault (as moby has it)."""
    return fault.errno in _CODES


def create_failed(fault: ProcessFault) -> ProcessFault:
    """The docker CLI reads the exit status of `docker run` from the end of this sentence."""
    return ProcessFault(
        fault.phase,
        fault.errno,
        "failed to create task for container: failed to create shim task: OCI runtime create failed: unable to start "
        f"container process: {fault}: unknown",
    )


def exec_failed(fault: ProcessFault) -> ProcessFault:
    return ProcessFault(
        fault.phase,
        fault.errno,
        f"OCI runtime exec failed: exec failed: unable to start container process: {fault}: unknown",
    )
