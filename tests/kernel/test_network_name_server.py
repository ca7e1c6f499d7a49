"""The name server inside containers' network namespaces: sockets, rules, forwarding, and coming back."""

import asyncio
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

from network_lab import OUTSIDE, Lab, as_a_host_of_its_own, in_sandbox, lab

from runtime.network.dns.host_servers import HostServers
from runtime.network.dns.service import DnsService
from runtime.network.dns.sockets import RESOLVER_ADDRESS
from runtime.network.dns.view import NetworkView, View
from runtime.network.sandbox import Sandbox
from tests.fakes.dns import NOERROR, NXDOMAIN, SERVFAIL, NameServer, answer_to, query, read_reply

NETWORK = "network-1"
SERVER = (RESOLVER_ADDRESS, 53)
TIMEOUT_S = 8.0
OUTSIDE_SERVERS = (OUTSIDE,)


def view(servers: tuple[str, ...] = OUTSIDE_SERVERS, internal: bool = False) -> View:
    return View((NetworkView(NETWORK, "net"),), not internal, servers)


def client(sandbox: Sandbox, kind: socket.SocketKind = socket.SOCK_DGRAM) -> socket.socket:
    made = in_sandbox(sandbox, lambda: socket.socket(socket.AF_INET, kind))
    made.settimeout(TIMEOUT_S)
    made.connect(SERVER)
    return made


def ask(sandbox: Sandbox, data: bytes):
    with client(sandbox) as asking:
        asking.send(data)
        return read_reply(asking.recv(65535))


def ask_by_tcp(sandbox: Sandbox, *questions: bytes):
    """All questions at once, on one connection that is then closed on this side; answers by id."""
    with client(sandbox, socket.SOCK_STREAM) as asking:
        asking.sendall(b"".join(len(data).to_bytes(2, "big") + data for data in questions))
        asking.shutdown(socket.SHUT_WR)
        replies = {}
        while size := asking.recv(2, socket.MSG_WAITALL):
            reply = read_reply(asking.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL))
            replies[reply.id] = reply
        return replies


def run(work: Callable[[DnsService], Awaitable[None]], resolv_conf: Path = Path("/nonexistent")) -> None:
    async def served() -> None:
        service = DnsService(HostServers(resolv_conf))
        service.names.add(NETWORK, "web", ["web"], [ip_address("10.99.0.7")])
        for number in range(100):
            service.names.add(NETWORK, f"many{number}", ["many"], [ip_address(f"10.99.1.{number}")])
        try:
            await work(service)
        finally:
            service.close()
            await asyncio.sleep(0)  # lets transports close their sockets

    asyncio.run(served())


@contextmanager
def name_server(net: Lab, script, where: str = "outside", address: str = "0.0.0.0") -> Iterator[NameServer]:
    def bound() -> tuple[socket.socket, socket.socket]:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind((address, 53))
        return udp, socket.create_server((address, 53))

    server = NameServer(*(bound() if where == "host" else in_sandbox(net.outside, bound)), script)
    try:
        yield server
    finally:
        server.close()


@as_a_host_of_its_own
def test_names_are_answered_by_udp_and_tcp_while_the_container_uses_port_53_itself():
    async def work(service: DnsService) -> None:
        with lab() as net:
            sandbox = net.sandbox("10.99.0.2")
            await service.attach("c", sandbox.fd, view())
            own = net.udp(sandbox, 53)
            net.tcp_server(sandbox, 53)
            reply = await asyncio.to_thread(ask, sandbox, query("web"))
            assert (reply.rcode, reply.answers, reply.ttls) == (NOERROR, ["10.99.0.7"], {600})
            many = await asyncio.to_thread(ask, sandbox, query("many"))
            assert many.truncated
            assert len(many.answers) == 30
            replies = await asyncio.to_thread(ask_by_tcp, sandbox, query("web", id=1), query("many", id=2))
            assert replies[1].answers == ["10.99.0.7"]
            assert len(replies[2].answers) == 100
            neighbour = net.udp(net.sandbox("10.99.0.3"))
            neighbour.sendto(b"ask", ("10.99.0.2", 53))
            assert own.recv(16) == b"ask"

    run(work)


@as_a_host_of_its_own
def test_other_names_are_asked_of_the_containers_servers():
    async def work(service: DnsService) -> None:
        with lab() as net:
            sandbox = net.sandbox("10.99.0.2")
            big = [f"192.0.2.{number}" for number in range(200)]

            def script(data: bytes) -> bytes:
                name = read_reply(b"\0\0\x80" + data[3:]).question
                if name == "big.example":
                    return answer_to(data, *big)
                return answer_to(data, rcode=NXDOMAIN) if name == "no.example" else answer_to(data, "192.0.2.1")

            with name_server(net, script) as server:
                await service.attach("c", sandbox.fd, view())
                asked = query("example.org", udp_size=1400, id=5)
                reply = await asyncio.to_thread(ask, sandbox, asked)
                assert (reply.id, reply.answers) == (5, ["192.0.2.1"])
                assert server.asked[0][2:] == asked[2:]  # EDNS and all
                assert (await asyncio.to_thread(ask, sandbox, query("no.example"))).rcode == NXDOMAIN
                cut = await asyncio.to_thread(ask, sandbox, query("big.example"))
                assert (cut.truncated, cut.answers) == (True, [])
                whole = await asyncio.to_thread(ask_by_tcp, sandbox, query("big.example", id=3))
                assert whole[3].answers == big
                ids = {data[:2] for data in server.asked}
                assert len(ids) > 1, "the ids must be nobody's to guess"

    run(work)


@as_a_host_of_its_own
def test_a_dead_server_delays_neither_local_names_nor_the_next_server():
    async def work(service: DnsService) -> None:
        with lab() as net:
            sandbox = net.sandbox("10.99.0.2")
            with name_server(net, lambda data: answer_to(data, "192.0.2.1")):
                await service.attach("c", sandbox.fd, view(("198.51.100.77", OUTSIDE)))
                loop = asyncio.get_running_loop()
                started = loop.time()
                slow = asyncio.create_task(asyncio.to_thread(ask, sandbox, query("example.org")))
                local = await asyncio.to_thread(ask, sandbox, query("web"))
                assert local.answers == ["10.99.0.7"]
                assert loop.time() - started < 1
                assert (await slow).answers == ["192.0.2.1"]
                assert loop.time() - started < 4.5

    run(work)


@as_a_host_of_its_own
def test_a_server_that_fails_or_refuses_is_passed_over_and_none_left_is_servfail():
    async def work(service: DnsService) -> None:
        with lab() as net:
            sandbox = net.sandbox("10.99.0.2")
            with name_server(net, lambda data: answer_to(data, rcode=SERVFAIL)) as server:
                await service.attach("c", sandbox.fd, view(("10.99.0.2", OUTSIDE)))  # the first: nobody listens
                assert (await asyncio.to_thread(ask, sandbox, query("example.org"))).rcode == SERVFAIL
                assert len(server.asked) == 1
                service.update("c", view(internal=True))
                assert (await asyncio.to_thread(ask, sandbox, query("example.org"))).rcode == SERVFAIL
                assert len(server.asked) == 1, "an internal network has no way out"

    run(work)


@as_a_host_of_its_own
def test_the_hosts_loopback_server_is_asked_from_the_host():
    async def work(service: DnsService) -> None:
        with lab() as net:
            sandbox = net.sandbox("10.99.0.2")
            with name_server(net, lambda data: answer_to(data, "192.0.2.9"), "host", "127.0.0.53"):
                await service.attach("c", sandbox.fd, view(servers=()))
                assert (await asyncio.to_thread(ask, sandbox, query("example.org"))).answers == ["192.0.2.9"]
                host_file.write_text("")
                assert (await asyncio.to_thread(ask, sandbox, query("example.org"))).rcode == SERVFAIL

    with tempfile.TemporaryDirectory() as directory:
        host_file = Path(directory) / "resolv.conf"
        host_file.write_text("nameserver 127.0.0.53\n")
        run(work, host_file)


@as_a_host_of_its_own
def test_an_engine_that_comes_back_serves_the_same_clients():
    """A client that keeps its socket, as a resolver library does, has a conntrack entry that names the old port."""

    async def work(first: DnsService) -> None:
        with lab() as net:
            sandbox = net.sandbox("10.99.0.2")
            await first.attach("c", sandbox.fd, view())
            with client(sandbox) as asking:

                def exchange() -> list[str]:
                    asking.send(query("web"))
                    return read_reply(asking.recv(512)).answers

                assert await asyncio.to_thread(exchange) == ["10.99.0.7"]
                first.detach("c")
                await asyncio.sleep(0)
                second = DnsService()
                second.names.add(NETWORK, "web", ["web"], [ip_address("10.99.0.8")])
                try:
                    await second.attach("c", sandbox.fd, view(), known=True)
                    assert await asyncio.to_thread(exchange) == ["10.99.0.8"]
                    second.detach("c")
                    await asyncio.sleep(0)
                    await second.attach("c", sandbox.fd, view(), known=True)
                    assert await asyncio.to_thread(exchange) == ["10.99.0.8"]
                finally:
                    second.close()
                    await asyncio.sleep(0)

    run(work)


@as_a_host_of_its_own
def test_hostile_and_slow_clients_do_no_harm():
    async def work(service: DnsService) -> None:
        with lab() as net:
            sandbox = net.sandbox("10.99.0.2")
            await service.attach("c", sandbox.fd, view())
            silent = [client(sandbox, socket.SOCK_STREAM) for _ in range(80)]
            noise = client(sandbox)
            for size in (0, 1, 11, 12, 600):
                noise.send(b"\xff" * size)
            noise.send(b"\0\0\1\0\0\2" + bytes(6))
            assert (await asyncio.to_thread(noise.recv, 512))[3] & 15 == 1  # FORMERR, for the only query among these
            reply = await asyncio.to_thread(ask, sandbox, query("web"))
            assert reply.answers == ["10.99.0.7"]
            for one in (noise, *silent):
                one.close()
            while not await asyncio.to_thread(_answers_by_tcp, sandbox):
                pass

    run(work)


def _answers_by_tcp(sandbox: Sandbox) -> bool:
    try:
        return 1 in ask_by_tcp(sandbox, query("web", id=1))
    except ConnectionResetError:  # the server has not noticed yet that others hung up
        return False
