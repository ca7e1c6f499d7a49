"""The hostagent's side of the control socket."""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from vmbackend.errors import MachineError
from vmbackend.hostagent.protocol import decode, encode
from vmbackend.machine.events import EventHub, MachineEvent, event_to_json
from vmbackend.machine.lifecycle import Machine

_log = logging.getLogger(__name__)

Stop = Callable[[bool, float], Awaitable[None]]
Save = Callable[[float], Awaitable[str | None]]


class ControlServer:
    """Answers one request per connection. `stop` and `save` are called for the requests of those names."""

    def __init__(self, machine: Machine, events: EventHub, token: str, stop: Stop, save: Save) -> None:
        self._machine = machine
        self._events = events
        self._token = token
        self._stop = stop
        self._save = save

    async def serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(encode(await self._answer(await reader.readline(), reader, writer)))
            await writer.drain()
        except (ConnectionError, ValueError) as error:
            _log.info("a client of the control socket is gone or talks nonsense: %s", error)
        finally:
            writer.close()

    async def _answer(self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> dict[str, Any]:
        try:
            request = decode(line)
            if not hmac.compare_digest(str(request.get("token")), self._token):
                raise MachineError("The control socket was used with a wrong token.")
            return {"ok": True, "result": await self._perform(request, reader, writer)}
        except MachineError as error:
            return {"ok": False, "kind": type(error).__name__, "error": str(error)}

    async def _perform(
        self, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> object:
        match request.get("op"):
            case "status":
                return (await self._machine.status()).to_json()
            case "start":
                with self._events.watch() as queue:
                    await self._machine.start()
                    for event in self._machine.so_far():
                        writer.write(encode({"event": event_to_json(event)}))
                    while not self._machine.settled:
                        writer.write(encode({"event": event_to_json(await queue.get())}))
                return (await self._machine.status()).to_json()
            case "events":
                with self._events.watch() as queue:
                    for event in self._machine.so_far():
                        writer.write(encode({"event": event_to_json(event)}))
                    await self._pass_on(queue, reader, writer)
                return None
            case "stop":
                await self._stop(bool(request["force"]), float(request["timeout_s"]))
                return None
            case "save":
                return await self._save(float(request["timeout_s"]))
            case "pause":
                await self._machine.pause()
                return None
            case "resume":
                await self._machine.resume()
                return None
            case "take_snapshot":
                await self._machine.take_snapshot(str(request["name"]))
                return None
            case "remove_snapshot":
                await self._machine.remove_snapshot(str(request["name"]))
                return None
            case "usage":
                return (await self._machine.usage()).to_json()
            case "forwards":
                return [port.to_json() for port in self._machine.forwards]
            case "follow_settings":
                return list(await self._machine.follow_settings())
            case "shares":
                return self._machine.shares
            case "ssh":
                await self._machine.wake()
                port, user = self._machine.ssh_address
                return {"port": port, "user": user}
            case unknown:
                raise MachineError(f"The hostagent knows no request `{unknown}`; restart the machine to update it.")

    async def _pass_on(
        self, queue: asyncio.Queue[MachineEvent], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Write events until the client hangs up."""
        hung_up = asyncio.create_task(reader.read())
        try:
            while True:
                event = asyncio.create_task(queue.get())
                await asyncio.wait([event, hung_up], return_when=asyncio.FIRST_COMPLETED)
                if not event.done():
                    event.cancel()
                    return
                writer.write(encode({"event": event_to_json(event.result())}))
                await writer.drain()
        finally:
            hung_up.cancel()
