"""DNS as a client and as another name server: a reader of replies and servers with answers of their own."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

A, PTR, AAAA, OPT = 1, 12, 28, 41
NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3


def query(name: str, type: int = A, id: int = 7, udp_size: int = 0) -> bytes:
    """`udp_size` above 0 adds EDNS."""
    wire = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"
    edns = struct.pack("!BHHIH", 0, OPT, udp_size, 0, 0) if udp_size else b""
    return struct.pack("!6H", id, 0x0100, 1, 0, 0, bool(udp_size)) + wire + struct.pack("!HH", type, 1) + edns


@dataclass
class Reply:
    id: int
    rcode: int
    truncated: bool
    question: str
    answers: list[str] = field(default_factory=list)
    ttls: set[int] = field(default_factory=set)


def read_reply(data: bytes) -> Reply:
    id, flags, questions, answers, _, _ = struct.unpack_from("!6H", data)
    assert flags & 0x8000, "not a reply"
    question, offset = "", 12
    if questions:
        question, offset = _name(data, 12)
        offset += 4
    reply = Reply(id, flags & 15, bool(flags & 0x0200), question)
    for _ in range(answers):
        _, offset = _name(data, offset)
        type, _, ttl, size = struct.unpack_from("!HHIH", data, offset)
        rdata = data[offset + 10 : offset + 10 + size]
        if type == A:
            reply.answers.append(str(IPv4Address(rdata)))
        elif type == AAAA:
            reply.answers.append(str(IPv6Address(rdata)))
        else:
            reply.answers.append(_name(data, offset + 10)[0])
        reply.ttls.add(ttl)
        offset += 10 + size
    return reply


def _name(data: bytes, offset: int) -> tuple[str, int]:
    labels, end = [], 0
    while length := data[offset]:
        if length >= 0xC0:
            end = end or offset + 2
            offset = int.from_bytes(data[offset : offset + 2], "big") & 0x3FFF
            continue
        labels.append(data[offset + 1 : offset + 1 + length].decode())
        offset += 1 + length
    return ".".join(labels), end or offset + 1


def answer_to(data: bytes, *addresses: str, rcode: int = NOERROR) -> bytes:
    """A reply with these IPv4 addresses, without EDNS."""
    question = data[12 : data.index(b"\0", 12) + 5]
    records = b"".join(struct.pack("!HHHIH", 0xC00C, A, 1, 60, 4) + IPv4Address(one).packed for one in addresses)
    return data[:2] + struct.pack("!5H", 0x8180 | rcode, 1, len(addresses), 0, 0) + question + records


class NameServer:
    """Answers on a UDP and a listening TCP socket by `script`: bytes to send, None to keep silent."""

    def __init__(self, udp: socket.socket, tcp: socket.socket, script: Callable[[bytes], bytes | None]) -> None:
        self._sockets = (udp, tcp)
        self._script = script
        self.asked: list[bytes] = []
        self._threads = [
            threading.Thread(target=work, args=(one,)) for work, one in ((self._udp, udp), (self._tcp, tcp))
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        for one in self._sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join()
        for one in self._sockets:
            one.close()

    def _answer(self, data: bytes) -> bytes | None:
        self.asked.append(data)
        return self._script(data)

    def _udp(self, server: socket.socket) -> None:
        while True:
            data, client = server.recvfrom(65535)
            if not data:  # shut down
                return
            if answer := self._answer(data):
                server.sendto(answer, client)

    def _tcp(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                while len(size := connection.recv(2, socket.MSG_WAITALL)) == 2:
                    data = connection.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
                    if answer := self._answer(data):
                        connection.sendall(len(answer).to_bytes(2, "big") + answer)
