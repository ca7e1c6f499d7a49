"""Ports of this computer, bound as every system does it; what differs is the option that keeps others out."""

import socket


def bind_port(
    address: str, port: int, kind: socket.SocketKind, option: int | None, backlog: int | None = None
) -> socket.socket:
    """A socket on an address of IPv4, or of IPv6 alone, with an `option` of SOL_SOCKET set before; it listens with a
    `backlog`. Raises OSError.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bound = socket.socket(family, kind)
    try:
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if option is not None:
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind((address, port))
        if backlog is not None:
            bound.listen(backlog)
    except OSError:
        bound.close()
        raise
    return bound
