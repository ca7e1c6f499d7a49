"""Answer the guest's engine, which asks for ports of this computer before it says that a container has started.

JSON, one object a line, over a virtio port that QEMU connects to a listener of ours:

- `{"id", "op": "open", "protocol", "address", "port", "guest_port"}` → `{"id"}` once the port is offered, or
  `{"id", "refused", "reason"}` with a `Refusal` and a part of a sentence.
- `{"id", "op": "close", ...}` → `{"id"}` once it is not.
- `{"op": "hello"}` is said by either side when it comes; ours has `"default_addresses"`. The engine answers with
  `{"op": "held", "ports": [...]}`, and that is made true: a lost message, another engine or another hostagent leave no
  port open or closed by mistake.
"""

import asyncio
import json
import logging
import socket
from typing import Any

from vmbackend.forward.ports import PortForwards, PortRefused, PublishedPort
from vmbackend.qemu.qmp import MonitorError

_MAX_LINE_BYTES = 16 * 1024 * 1024  # some hundred thousand ports

_log = logging.getLogger(__name__)


class PortChannel:
    """`run` serves the guest until QEMU ends."""

    def __init__(self, forwards: PortForwards, default_addresses: list[str]) -> None:
        self._forwards = forwards
        self._hello = {"op": "hello", "default_addresses": default_addresses}

    async def run(self, stream: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=stream, limit=_MAX_LINE_BYTES)
        try:
            _send(writer, self._hello)
            while line := await reader.readline():
                if not line.strip():
                    continue  # said first by an engine, to end what one before it had begun to say
                try:
                    await self._serve(json.loads(line), writer)
                except (ValueError, LookupError, TypeError, AttributeError) as error:
                    _log.info("the guest's engine says what nobody understands: %r", error)
        except (ConnectionError, MonitorError) as error:
            _log.info("no more ports are offered: %s", error)
        finally:
            writer.close()

    async def _serve(self, message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        match message.get("op"):
            case "hello":
                _send(writer, self._hello)
            case "held":
                await self._forwards.replace({PublishedPort.from_json(port) for port in message["ports"]})
            case "open":
                _send(writer, {"id": message["id"], **await self._open(message)})
            case "close":
                try:
                    await self._forwards.close(PublishedPort.from_json(message))
                except PortRefused:
                    pass  # it never was open
                _send(writer, {"id": message["id"]})
            case unknown:
                _log.warning("the guest's engine asks for `%s`, which this hostagent does not know", unknown)

    async def _open(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            await self._forwards.open(PublishedPort.from_json(message))
        except PortRefused as refusal:
            _log.info("refused port %s on %s: %s", message["port"], message["address"], refusal)
            return {"refused": refusal.kind, "reason": str(refusal)}
        return {}


def _send(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    writer.write(json.dumps(message).encode() + b"\n")
