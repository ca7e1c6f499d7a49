"""The hostagent's side of the control socket."""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from vmbackend.errors import MachineError
from vmbackend.hostagent.protocol import decode, encode
from vmbackend.machine.events import EventHub
from vmbackend.machine.lifecycle import Machine

_log = logging.getLogger(__name__)

Stop = Callable[[bool, float], Awaitable[None]]


class ControlServer:
    """Answers one request per connection. `stop` is called for the request of that name."""

    def __init__(self, machine: Machine, events: EventHub, token: str, stop: Stop) -> None:
        self._machine = machine
        self._events = events
        self._token = token
        self._stop = stop

    async def serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(encode(await self._answer(await reader.readline(), writer)))
            await writer.drain()
        except (ConnectionError, ValueError) as error:
            _log.info("a client of the control socket is gone or talks nonsense: %s", error)
        finally:
            writer.close()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> dict[str, Any]:
        try:
            request = decode(line)
            if not hmac.compare_digest(str(request.get("token")), self._token):
                raise MachineError("The control socket was used with a wrong token.")
            return {"ok": True, "result": await self._perform(request, writer)}
        except MachineError as error:
            return {"ok": False, "kind": type(error).__name__, "error": str(error)}

    async def _perform(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> object:
        match request.get("op"):
            case "status":
                return (await self._machine.status()).to_json()
            case "start":
                with self._events.watch() as queue:
                    self._machine.start()
                    while not self._machine.settled:
                        writer.write(encode({"event": (await queue.get()).to_json()}))
                return (await self._machine.status()).to_json()
            case "stop":
                await self._stop(bool(request["force"]), float(request["timeout_s"]))
                return None
            case "forwards":
                return [asdict(port) for port in self._machine.forwards]
            case "shares":
                return self._machine.shares
            case "ssh":
                port, user = self._machine.ssh_address
                return {"port": port, "user": user}
            case unknown:
                raise MachineError(f"The hostagent knows no request `{unknown}`; restart the machine to update it.")
