"""EngineClient against the fake engine: unary calls, streams, attached processes, and engines that are not there."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.engine.client import EngineClient
from app.engine.errors import EngineError, EngineUnreachable
from app.engine.models import Output
from app.engine.streams import FrameDecoder
from tests.fakes.engine_server import STDERR, FakeEngine, frame


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "s") as fake:
        fake.add_image("alpine:latest")
        yield fake


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[EngineClient]:
    with EngineClient(engine.host, timeout_s=5) as opened:
        yield opened


def test_what_an_engine_says_of_itself(client: EngineClient) -> None:
    client.ping()
    assert client.version().api_version == "1.47"
    info = client.info()
    assert (info.cpus, info.memory_bytes, info.images) == (2, 4 << 30, 1)


def test_container_from_create_to_remove(engine: FakeEngine, client: EngineClient) -> None:
    created = client.create_container({"Image": "alpine:latest", "Cmd": ["sleep"]}, "web")
    assert client.container("web").state == "created"
    client.start_container(created.id)
    [listed] = client.containers()
    assert (listed.id, listed.name, listed.state) == (created.id, "web", "running")
    wait = client.wait_container("web")
    client.stop_container("web", timeout_s=1)
    assert wait.result() == 137
    assert client.containers(all=False) == []
    client.remove_container("web")
    assert client.containers() == []


def test_published_ports_are_read(engine: FakeEngine, client: EngineClient) -> None:
    bindings = {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}
    client.create_container({"Image": "alpine:latest", "HostConfig": {"PortBindings": bindings}})
    [port] = client.containers()[0].ports
    assert (port.host_ip, port.host_port, port.container_port, port.protocol) == ("127.0.0.1", 8080, 80, "tcp")


def test_refusals_carry_the_engines_sentence(client: EngineClient) -> None:
    with pytest.raises(EngineError, match="No such container: ghost") as caught:
        client.container("ghost")
    assert caught.value.is_not_found
    with pytest.raises(EngineError, match="No such image"):
        client.create_container({"Image": "ghost"})


def test_attach_separates_output_and_standard_error(engine: FakeEngine, client: EngineClient) -> None:
    created = client.create_container({"Image": "alpine:latest", "Cmd": ["sleep"]})
    with client.attach_container(created.id, tty=False) as attached:
        client.start_container(created.id)
        engine.write(created.id, b"out")
        engine.write(created.id, b"err", STDERR)
        engine.find(created.id).process.end(0)
        assert list(attached) == [Output("stdout", b"out"), Output("stderr", b"err")]


def test_attached_input_can_be_half_closed(engine: FakeEngine, client: EngineClient) -> None:
    created = client.create_container({"Image": "alpine:latest", "Cmd": ["cat"], "OpenStdin": True, "Tty": True})
    with client.attach_container(created.id, tty=True, stdin=True) as attached:
        client.start_container(created.id)
        attached.write(b"hello")
        attached.close_write()
        assert b"".join(output.data for output in attached) == b"hello"
    assert client.wait_container(created.id).result() == 0


def test_exec_runs_and_reports_its_exit_code(engine: FakeEngine, client: EngineClient) -> None:
    engine.add_container("web")
    exec_id = client.create_exec("web", {"Cmd": ["exit", "3"]})
    with client.start_exec(exec_id, tty=False) as attached:
        assert list(attached) == []
    assert client.exec_state(exec_id).exit_code == 3


def test_logs_follow_until_closed_from_another_thread(engine: FakeEngine, client: EngineClient) -> None:
    container = engine.add_container("web")
    stream = client.logs("web", follow=True)
    read: list[bytes] = []
    first = threading.Event()

    def follow() -> None:
        for output in stream:
            read.append(output.data)
            first.set()

    thread = threading.Thread(target=follow)
    thread.start()
    engine.write(container.id, b"one\n")
    assert first.wait(5)
    stream.close()
    thread.join(5)
    assert not thread.is_alive()
    assert read == [b"one\n"]


def test_closing_the_client_ends_a_call_that_hangs(engine: FakeEngine, client: EngineClient) -> None:
    engine.hang()
    failures: list[Exception] = []

    def ask() -> None:
        try:
            client.info()
        except EngineUnreachable as failure:
            failures.append(failure)

    thread = threading.Thread(target=ask)
    thread.start()
    assert engine.hung.wait(5)
    client.close()
    thread.join(5)
    assert len(failures) == 1


def test_events_arrive_one_by_one(engine: FakeEngine, client: EngineClient) -> None:
    with client.events() as events:
        container = engine.add_container("web")
        arriving = iter(events)
        actions = [(event.type, event.action, event.id) for event in (next(arriving), next(arriving))]
    assert actions == [("container", "create", container.id), ("container", "start", container.id)]


def test_stats_follow_dockers_formulas(engine: FakeEngine, client: EngineClient) -> None:
    engine.add_container("web")
    with client.stats("web") as readings:
        reading = next(iter(readings))
    assert reading.cpu_percent == pytest.approx(20.0)
    assert reading.memory_bytes == 2 << 20
    assert (reading.network_received_bytes, reading.network_sent_bytes) == (10, 20)


def test_an_upload_that_is_refused_in_the_middle_still_says_why(client: EngineClient) -> None:
    pieces = (b"refuse" + bytes(1 << 16) for _ in range(64))
    with pytest.raises(EngineError, match="not an image archive"):
        client.load_images(pieces)


def test_no_engine(tmp_path: Path) -> None:
    client = EngineClient(f"unix://{tmp_path}/none")
    with pytest.raises(EngineUnreachable, match=r"No engine is running at unix://.*wherry up") as caught:
        client.ping()
    assert caught.value.cause == "absent"


def test_a_silent_engine_is_given_up_on(engine: FakeEngine) -> None:
    engine.hang()
    with pytest.raises(EngineUnreachable, match="did not answer in time") as caught:
        EngineClient(engine.host, timeout_s=0.05).ping()
    assert caught.value.cause == "silent"


def test_an_engine_that_hangs_up(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def hang_up() -> None:
            connection, _ = server.accept()
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(EngineUnreachable) as caught:
            EngineClient(f"unix://{path}").ping()
        thread.join()
    assert caught.value.cause == "lost"


@pytest.mark.parametrize("host", ["", "/run/docker.sock", "unix://", "ssh://somewhere", "http://127.0.0.1"])
def test_addresses_that_are_none(host: str) -> None:
    with pytest.raises(EngineUnreachable, match="not an engine address"):
        EngineClient(host)


@pytest.mark.parametrize("size", [1, 3, 8, 1000])
def test_frames_cut_anywhere(size: int) -> None:
    wire = frame(1, b"abc") + frame(2, b"") + frame(2, b"defg") + frame(0, b"h")
    decoder = FrameDecoder()
    pieces = [wire[start : start + size] for start in range(0, len(wire), size)]
    outputs = [output for piece in pieces for output in decoder.feed(piece)]
    assert b"".join(o.data for o in outputs if o.stream == "stdout") == b"abch"
    assert b"".join(o.data for o in outputs if o.stream == "stderr") == b"defg"


def test_a_frame_with_the_engines_own_failure() -> None:
    with pytest.raises(EngineError, match="disk full"):
        list(FrameDecoder().feed(frame(3, b"disk full")))
