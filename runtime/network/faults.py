"""Turns the kernel layer's `OSError` into the kinds of `runtime.errors`, with a sentence for a person."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.errors import NotSupported, PermissionDenied, SystemFault

_NOT_IN_THIS_KERNEL = {errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}


@contextmanager
def kernel_faults_explained(doing: str) -> Iterator[None]:
    """`doing` completes "Cannot ...", naming the object: "create the bridge wherry0".

    Raises PermissionDenied, NotSupported or SystemFault in place of an OSError.
    """
    try:
        yield
    except PermissionError as error:
        raise PermissionDenied(f"Cannot {doing}: {error}. Run the engine as root (CAP_NET_ADMIN).") from error
    except OSError as error:
        if error.errno in _NOT_IN_THIS_KERNEL:
            raise NotSupported(f"Cannot {doing}: {error}. This kernel was built without it.") from error
        raise SystemFault(f"Cannot {doing}: {error}.") from error
