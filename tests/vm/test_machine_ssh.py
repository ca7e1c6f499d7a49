"""SSH: strict about keys, streams to unix sockets, lost connections; against a real sshd on this computer."""

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from tests.vm.conftest import SshServer
from vmbackend.errors import GuestUnreachable
from vmbackend.forward.engine_socket import serve_engine_socket
from vmbackend.ssh.connection import GuestConnection
from vmbackend.ssh.keys import MachineKeys
from vmbackend.ssh.link import GuestLink


@pytest.fixture
def connection(sshd: SshServer) -> Iterator[GuestConnection]:
    connection = GuestConnection.connect(sshd.port, "root", sshd.keys, 10, lambda: None)
    yield connection
    connection.close()


@pytest.fixture
def echo_socket(tmp_path: Path) -> Iterator[Path]:
    """A unix socket in the "guest" that sends back what it gets, each direction on its own."""
    path = tmp_path / "echo.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fspath(path))
    listener.listen(256)

    def echo(stream: socket.socket) -> None:
        with stream, contextlib.suppress(ConnectionError):
            while chunk := stream.recv(65536):
                stream.sendall(chunk)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    yield path
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    acceptor.join()


def client(path: Path) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(30)
    stream.connect(os.fspath(path))
    return stream


def test_a_command_has_input_two_outputs_and_an_exit_code(connection: GuestConnection) -> None:
    result = connection.run("cat; echo oops >&2; exit 3", 10, stdin=b"in")
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"in", b"oops\n")


def test_much_output_on_both_streams_does_not_block(connection: GuestConnection) -> None:
    result = connection.run("head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2", 10)
    assert (len(result.stdout), len(result.stderr)) == (3_000_000, 3_000_000)


def test_another_host_key_is_refused(sshd: SshServer) -> None:
    lost = threading.Event()
    wrong = MachineKeys(client=sshd.keys.client, guest_host=sshd.keys.client)
    with pytest.raises(GuestUnreachable, match="another host key"):
        GuestConnection.connect(sshd.port, "root", wrong, 10, lost.set)
    assert lost.wait(5)


def test_another_client_key_is_refused(sshd: SshServer) -> None:
    wrong = MachineKeys(client=sshd.keys.guest_host, guest_host=sshd.keys.guest_host)
    with pytest.raises(GuestUnreachable, match="SSH to the guest failed"):
        GuestConnection.connect(sshd.port, "root", wrong, 10, lambda: None)


def test_a_port_nobody_listens_on() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(GuestUnreachable, match="Nothing answers on port"):
            GuestConnection.connect(unused.getsockname()[1], "root", None, 5, lambda: None)  # type: ignore[arg-type]


def test_a_stream_to_a_unix_socket_with_half_close(connection: GuestConnection, echo_socket: Path) -> None:
    with connection.open_unix(str(echo_socket)) as channel:
        channel.sendall(b"x" * 100_000)
        channel.shutdown_write()
        data = b""
        while chunk := channel.recv(65536):
            data += chunk
    assert data == b"x" * 100_000


def test_a_socket_that_is_not_there_is_named_and_the_connection_lives(connection: GuestConnection) -> None:
    with pytest.raises(GuestUnreachable, match="/nowhere in the guest cannot be reached"):
        connection.open_unix("/nowhere")
    assert connection.answers(5)


def descendants(pid: int) -> list[int]:
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
    return children + [grandchild for child in children for grandchild in descendants(child)]


def test_a_silent_server_is_told_from_a_refusing_one(sshd: SshServer, connection: GuestConnection) -> None:
    """Stopped, not ended: the TCP connection stays up, as with a guest that hangs."""
    stopped = []
    for pid in descendants(sshd.process.pid):
        # The helper of the handshake may be ending just now.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)
    assert stopped
    try:
        assert not connection.answers(0.2)
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    assert connection.answers(10)


def test_200_clients_at_once(connection: GuestConnection, echo_socket: Path, tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    relay = serve_engine_socket("m", path, lambda: connection.open_unix(str(echo_socket)))
    clients = [client(path) for _ in range(200)]
    try:
        for number, stream in enumerate(clients):
            stream.sendall(f"{number:4}".encode() * 1000)
            stream.shutdown(socket.SHUT_WR)
        for number, stream in enumerate(clients):
            data = b""
            while chunk := stream.recv(65536):
                data += chunk
            assert data == f"{number:4}".encode() * 1000
    finally:
        for stream in clients:
            stream.close()
        relay.close()


def test_100_megabytes_arrive_unharmed(connection: GuestConnection, echo_socket: Path, tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    relay = serve_engine_socket("m", path, lambda: connection.open_unix(str(echo_socket)))
    block = os.urandom(1024 * 1024)

    def send(stream: socket.socket) -> None:
        for _ in range(100):
            stream.sendall(block)
        stream.shutdown(socket.SHUT_WR)

    with client(path) as stream, stream.makefile("rb") as reader:
        sender = threading.Thread(target=send, args=(stream,))
        sender.start()
        for _ in range(100):
            assert reader.read(len(block)) == block
        assert reader.read(1) == b""
        sender.join()
    relay.close()


def test_a_slow_reader_holds_up_nobody_else(connection: GuestConnection, echo_socket: Path, tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    relay = serve_engine_socket("m", path, lambda: connection.open_unix(str(echo_socket)))
    slow = client(path)
    slow.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        while True:  # until everything on the way is full
            slow.send(b"x" * 65536)
    with client(path) as quick:
        quick.sendall(b"quick" * 100_000)
        quick.shutdown(socket.SHUT_WR)
        data = b""
        while chunk := quick.recv(65536):
            data += chunk
    assert data == b"quick" * 100_000
    slow.close()
    relay.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_clients_get_the_next_link_when_one_dies_or_falls_silent(
    sshd: SshServer, echo_socket: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """The session's processes are killed, or stand still while their TCP connection stays up."""
    path = tmp_path / "engine.sock"
    stopped: list[int] = []

    async def scenario() -> None:
        link = GuestLink(lambda timeout_s, on_lost: GuestConnection.connect(sshd.port, "root", sshd.keys, 30, on_lost))
        link.announce()
        async with asyncio.timeout(60):
            await link.wait_connected()
        relay = serve_engine_socket("m", path, lambda: link.open_unix(str(echo_socket)))
        old = client(path)
        await asyncio.to_thread(exchange, old)
        for pid in descendants(sshd.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
                stopped.append(pid)
        with client(path) as new:
            await asyncio.to_thread(exchange, new)
        assert await asyncio.to_thread(old.recv, 1) == b""  # closed, not left hanging
        old.close()
        await asyncio.to_thread(relay.close)
        await link.close()

    def exchange(stream: socket.socket) -> None:
        stream.sendall(b"ahoy")
        assert stream.recv(10) == b"ahoy"

    try:
        asyncio.run(scenario())
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_streams_of_a_connection_that_was_only_busy_go_on(
    sshd: SshServer, echo_socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[int] = []
    monkeypatch.setattr("vmbackend.ssh.link._RETIRING_ANSWER_TIMEOUT_S", 60.0)

    async def scenario() -> None:
        link = GuestLink(lambda timeout_s, on_lost: GuestConnection.connect(sshd.port, "root", sshd.keys, 30, on_lost))
        link.announce()
        async with asyncio.timeout(60):
            await link.wait_connected()
        first = link.current()
        old = await asyncio.to_thread(link.open_unix, str(echo_socket))
        for pid in descendants(sshd.process.pid):
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)
        await asyncio.to_thread(link.open_unix, str(echo_socket))
        assert link.current() is not first
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        await asyncio.to_thread(exchange, old)
        old.close()
        async with asyncio.timeout(60):
            while not first.is_lost:  # nothing is left on it
                await asyncio.sleep(0.01)
        await link.close()

    def exchange(stream: paramiko.Channel) -> None:
        stream.settimeout(60)
        stream.sendall(b"ahoy")
        assert stream.recv(10) == b"ahoy"

    try:
        asyncio.run(scenario())
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_a_link_is_made_again_when_the_connection_is_cut(sshd: SshServer) -> None:
    made: list[GuestConnection] = []

    def connect(timeout_s, on_lost):  # type: ignore[no-untyped-def]
        made.append(GuestConnection.connect(sshd.port, "root", sshd.keys, timeout_s, on_lost))
        return made[-1]

    async def scenario() -> None:
        link = GuestLink(connect)
        with pytest.raises(GuestUnreachable, match="not been tried"):
            link.current()
        link.announce()
        async with asyncio.timeout(10):
            await link.wait_connected()
        first = link.current()
        await asyncio.to_thread(first.close)
        async with asyncio.timeout(2):
            while link._connection in (first, None):
                await asyncio.sleep(0)
        assert (await asyncio.to_thread(link.current().run, "echo back", 5)).stdout == b"back\n"
        await link.close()
        assert len(made) == 2

    asyncio.run(scenario())


def test_who_waits_for_the_next_connection_hears_when_there_will_be_none(
    sshd: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmbackend.ssh.link._SUCCESSOR_TIMEOUT_S", 600.0)

    async def scenario() -> None:
        link = GuestLink(lambda timeout_s, on_lost: GuestConnection.connect(sshd.port, "root", sshd.keys, 30, on_lost))
        link.announce()
        async with asyncio.timeout(60):
            await link.wait_connected()
        sshd.process.kill()
        for pid in descendants(sshd.process.pid):
            os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(link.current().close)
        waiting = asyncio.create_task(asyncio.to_thread(link.open_unix, "/nowhere"))
        link.give_up()
        async with asyncio.timeout(60):
            with pytest.raises(GuestUnreachable):
                await waiting
        await link.close()

    asyncio.run(scenario())
