"""The hostagent: one headless process per machine, which outlives whoever asked for it."""

import argparse
import asyncio
import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from vmbackend import host
from vmbackend.errors import MachineError
from vmbackend.hostagent.control import ControlServer
from vmbackend.hostagent.protocol import MAX_LINE_BYTES, encode
from vmbackend.machine.events import EventHub
from vmbackend.machine.lifecycle import Machine
from vmbackend.machine.paths import MachinePaths
from vmbackend.machine.store import ProcessRecord, machine_lock

# What a relay's threads need; the default of 8 MiB each would be reserved a few hundred times.
_THREAD_STACK_BYTES = 512 * 1024
_SIGNAL_STOP_TIMEOUT_S = 30.0

_log = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    """Serve one machine until it is stopped.

    Says on standard output, in one line, `{"ok": true}` once requests are answered, or why not; then closes it.
    """
    parser = argparse.ArgumentParser(prog="python -m vmbackend.hostagent", description="Run one machine.")
    parser.add_argument("--machine", type=Path, required=True, metavar="DIR", help="the machine's folder")
    paths = MachinePaths(parser.parse_args(argv).machine.absolute())
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s", level=logging.INFO)
    # It logs every failed connection with a traceback; ours say the same in a sentence.
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    threading.stack_size(_THREAD_STACK_BYTES)
    try:
        paths.make_directories()
        with ExitStack() as lock:
            lock.enter_context(machine_lock(paths))
            asyncio.run(_serve(paths, lock.close))
    except (MachineError, OSError) as error:
        _say({"ok": False, "kind": type(error).__name__, "error": str(error)})
        return 1
    return 0


async def _serve(paths: MachinePaths, unlock: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    events = EventHub()
    machine = Machine(paths, events)
    ours = ExitStack()

    async def stop(force: bool, timeout_s: float) -> None:
        await machine.stop(force, timeout_s)
        # Before the answer: whoever is told "stopped" may start the next hostagent at once, under the same names.
        ours.close()
        done.set()

    async def save(timeout_s: float) -> str | None:
        note = await machine.save(timeout_s)
        ours.close()
        done.set()
        return note

    with ours:
        ours.callback(unlock)
        token = secrets.token_hex(16)
        listener = host.bind_local(paths.control_socket)
        ours.callback(paths.control_socket.unlink, missing_ok=True)
        server = await asyncio.start_server(
            ControlServer(machine, events, token, stop, save).serve_client, sock=listener, limit=MAX_LINE_BYTES
        )
        ours.callback(server.close)
        record = ProcessRecord.of(os.getpid(), {"address": host.address_of(listener), "token": token})
        assert record is not None, "this process is alive"
        record.write(paths.hostagent_record)
        ours.callback(paths.hostagent_record.unlink, missing_ok=True)

        await machine.start()
        _say({"ok": True})

        async def stop_on_signal() -> None:
            try:
                await stop(False, _SIGNAL_STOP_TIMEOUT_S)
            except MachineError as error:
                _log.warning("%s", error)
                await stop(True, 0)

        # The loop holds tasks weakly, so they are kept here.
        stopping: list[asyncio.Task[None]] = []

        def on_signal() -> None:
            stopping.append(loop.create_task(stop_on_signal()))

        # signal.signal rather than the loop's own, which Windows does not have.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(on_signal))
        await done.wait()


def _say(message: dict[str, object]) -> None:
    """Tell the parent, which reads up to the end of the stream."""
    sys.stdout.buffer.write(encode(message))
    sys.stdout.flush()
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)
