"""A small Engine API on a unix socket: enough of it for the client, the CLI and the window to be tested in memory.

    with FakeEngine(tmp_path / "s") as engine:
        engine.add_image("alpine:latest")
        client = EngineClient(engine.host)

Its programs are words: `echo A B` prints, `warn A` prints on standard error, `cat` copies its input, `exit N` ends
with N, `sleep` runs until it is stopped, `tty` says whether it has a terminal; `missing` and `forbidden` cannot be
started, as the kernel would refuse them. `engine.requests` lists what was asked as "METHOD /path" without the
version; `engine.bodies` holds the bodies of creates; `engine.write(id, data)` makes a container print,
`engine.emit` sends an event, `engine.hang` makes the engine take requests and never answer (`engine.hung` is set when
it has taken one).
"""

import http.server
import itertools
import json
import re
import socketserver
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
STDOUT, STDERR = 1, 2


@dataclass
class Process:
    """A program of the fake: what it wrote, and its end. Waiters hold `changed`."""

    command: list[str]
    tty: bool
    takes_input: bool
    changed: threading.Condition = field(default_factory=threading.Condition)
    output: list[tuple[int, bytes]] = field(default_factory=list)
    exit_code: int | None = None
    running: bool = False
    size: tuple[int, int] | None = None

    def write(self, data: bytes, stream: int = STDOUT) -> None:
        with self.changed:
            self.output.append((stream, data))
            self.changed.notify_all()

    def end(self, code: int) -> None:
        with self.changed:
            if self.exit_code is None or self.running:
                self.exit_code, self.running = code, False
            self.changed.notify_all()

    def start(self) -> None:
        with self.changed:
            self.running, self.exit_code = True, None
            self.changed.notify_all()
        word, *rest = self.command or ["sleep"]
        match word:
            case "echo":
                self.write(" ".join(rest).encode() + b"\n")
            case "warn":
                self.write(" ".join(rest).encode() + b"\n", STDERR)
            case "tty":
                self.write(f"{self.tty}\n".encode())
            case "sleep":
                return
            case "cat" if self.takes_input:
                return
        self.end(int(rest[0]) if word == "exit" else 0)

    def read_input(self, data: bytes) -> None:
        """b"" is the end of it."""
        if self.command[:1] == ["cat"]:
            self.write(data) if data else self.end(0)

    def written(self) -> int:
        """How many pieces it has written."""
        with self.changed:
            return len(self.output)

    def output_from(self, position: int) -> Iterator[tuple[int, bytes]]:
        """What it wrote from this piece on, and writes until it ends."""
        while True:
            with self.changed:
                while position >= len(self.output):
                    if self.exit_code is not None:
                        return
                    self.changed.wait()
                piece = self.output[position]
            position += 1
            yield piece

    def wait(self) -> int:
        with self.changed:
            while self.exit_code is None:
                self.changed.wait()
            return self.exit_code


@dataclass
class Container:
    id: str
    name: str
    config: dict[str, Any]
    process: Process
    created_at: int
    started: bool = False

    @property
    def state(self) -> str:
        if not self.started:
            return "created"
        return "running" if self.process.running else "exited"

    @property
    def status(self) -> str:
        words = {"created": "Created", "running": "Up 5 seconds"}
        return words.get(self.state, f"Exited ({self.process.exit_code}) 2 seconds ago")

    def summary(self) -> dict[str, Any]:
        ports = [
            {"IP": binding["HostIp"], "PrivatePort": int(port.split("/")[0]), "Type": port.split("/")[1]}
            | {"PublicPort": int(binding["HostPort"])}
            for port, bindings in self.config.get("HostConfig", {}).get("PortBindings", {}).items()
            for binding in bindings
        ]
        return {
            "Id": self.id,
            "Names": [f"/{self.name}"],
            "Image": self.config["Image"],
            "ImageID": "sha256:" + "1" * 64,
            "Command": " ".join(self.process.command),
            "Created": self.created_at,
            "Ports": ports,
            "Labels": self.config.get("Labels", {}),
            "State": self.state,
            "Status": self.status,
        }

    def inspection(self) -> dict[str, Any]:
        state = {
            "Status": self.state,
            "Running": self.process.running,
            "ExitCode": self.process.exit_code or 0,
            "Error": "",
            "OOMKilled": False,
            "Pid": 1 if self.process.running else 0,
            "StartedAt": "2026-01-02T03:04:05Z",
            "FinishedAt": "0001-01-01T00:00:00Z",
        }
        return {
            "Id": self.id,
            "Name": f"/{self.name}",
            "Created": "2026-01-02T03:04:05Z",
            "State": state,
            "Config": self.config,
        }


class Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class FakeEngine:
    """The engine; a context manager that serves `path` while it is open."""

    def __init__(self, path: Path) -> None:
        self.host = f"unix://{path}"
        self.requests: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.containers: dict[str, Container] = {}
        self.images: dict[str, dict[str, Any]] = {}
        self.execs: dict[str, tuple[Container, Process]] = {}
        self.uploaded_bytes = 0
        self.closing = threading.Event()
        self.hanging = threading.Event()
        self.hung = threading.Event()
        self.events = Process(["events"], tty=True, takes_input=False)
        self._numbers = itertools.count(1)
        self._server = _Server(str(path), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="fake-engine")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        for process in [
            self.events,
            *(c.process for c in self.containers.values()),
            *(p for _, p in self.execs.values()),
        ]:
            process.end(137)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    # what tests do to it

    def add_image(self, *tags: str, size_bytes: int = 7_800_000) -> str:
        identity = f"sha256:{next(self._numbers):064x}"
        digests: list[str] = []
        self.images[identity] = {
            "Id": identity,
            "RepoTags": list(tags),
            "RepoDigests": digests,
            "Created": int(time.time()) - 3600,
            "Size": size_bytes,
            "Architecture": "amd64",
            "Os": "linux",
        }
        return identity

    def add_container(self, name: str, image: str = "alpine:latest", *command: str, running: bool = True) -> Container:
        container = self._make({"Image": image, "Cmd": list(command or ("sleep",))}, name)
        if running:
            self._start(container)
        return container

    def write(self, container_id: str, data: bytes, stream: int = STDOUT) -> None:
        self.find(container_id).process.write(data, stream)

    def emit(self, kind: str, action: str, identity: str) -> None:
        value = {"Type": kind, "Action": action, "Actor": {"ID": identity, "Attributes": {}}, "time": int(time.time())}
        self.events.write(json.dumps(value | {"timeNano": time.time_ns()}).encode() + b"\n")

    def hang(self) -> None:
        self.hanging.set()

    # what the API does

    def find(self, name: str) -> Container:
        for container in self.containers.values():
            if name == container.name or (name and container.id.startswith(name)):
                return container
        raise Refusal(404, f"No such container: {name}")

    def image(self, reference: str) -> dict[str, Any]:
        for identity, image in self.images.items():
            tags = image["RepoTags"]
            if (
                reference in tags
                or f"{reference}:latest" in tags
                or identity.removeprefix("sha256:").startswith(reference)
            ):
                return image
            if reference == identity:
                return image
        raise Refusal(404, f"No such image: {reference}")

    def create(self, config: dict[str, Any], name: str | None) -> Container:
        try:
            self.image(config["Image"])
        except Refusal:
            raise Refusal(404, f"No such image: {config['Image']}") from None
        if any(container.name == name for container in self.containers.values()):
            raise Refusal(409, f'Conflict. The container name "/{name}" is already in use.')
        self.bodies.append(config)
        return self._make(config, name)

    def _make(self, config: dict[str, Any], name: str | None) -> Container:
        identity = f"{next(self._numbers):064x}"[::-1]
        process = Process(config.get("Cmd", []), config.get("Tty", False), config.get("OpenStdin", False))
        container = Container(identity, name or f"idle_{identity[:4]}", config, process, int(time.time()) - 5)
        self.containers[identity] = container
        self.emit("container", "create", identity)
        return container

    def start(self, container: Container) -> None:
        refusals = {"missing": "no such file or directory", "forbidden": "permission denied"}
        if why := refusals.get("".join(container.process.command[:1])):
            message = f'exec: "{container.process.command[0]}": {why}'
            container.process.end(127 if "missing" in message else 126)
            container.started = True
            self._forget_if_wanted(container)
            raise Refusal(400, message)
        self._start(container)

    def _start(self, container: Container) -> None:
        container.started = True
        self.emit("container", "start", container.id)
        container.process.start()
        if not container.process.running:
            self._ended(container)

    def stop(self, container: Container, code: int) -> None:
        container.process.end(code)
        self._ended(container)

    def _ended(self, container: Container) -> None:
        self.emit("container", "die", container.id)
        self._forget_if_wanted(container)

    def _forget_if_wanted(self, container: Container) -> None:
        if container.config.get("HostConfig", {}).get("AutoRemove"):
            self.containers.pop(container.id, None)
            self.emit("container", "destroy", container.id)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = False

    def __init__(self, path: str, engine: FakeEngine) -> None:
        super().__init__(path, _Handler)
        self.engine = engine

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error here."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle(self) -> None:
        self.close_connection = True
        self.handle_one_request()

    def log_message(self, format: str, *args: Any) -> None:
        """Tests print nothing."""

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_DELETE = do_GET

    def _answer(self) -> None:
        engine = self.server.engine
        parts = urlsplit(self.path)
        path = re.sub(r"^/v1\.\d+", "", unquote(parts.path))
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        engine.requests.append(f"{self.command} {path}")
        if engine.hanging.is_set():
            engine.hung.set()
            engine.closing.wait()
            return
        for method, pattern, handler in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method == self.command:
                try:
                    handler(self, engine, *match.groups())
                except Refusal as refusal:
                    self._json({"message": str(refusal)}, refusal.status)
                return
        self._json({"message": "page not found"}, 404)

    # reading and writing

    def _body(self) -> dict[str, Any]:
        length = int(self.headers.get("Content-Length", 0))
        return dict(json.loads(self.rfile.read(length))) if length else {}

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()

    def _json(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _empty(self, status: int = 204) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _stream(self, content_type: str, pieces: Iterator[bytes]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def _hijack(self, process: Process, take_input: bool, begin: Any = None) -> None:
        position = process.written()
        self.send_response(101, "UPGRADED")
        self.send_header("Content-Type", RAW if process.tty else MULTIPLEXED)
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", "tcp")
        self.end_headers()
        if take_input:
            threading.Thread(target=self._read_input, args=(process,), name="fake-stdin", daemon=True).start()
        if begin:
            begin()
        for stream, data in process.output_from(position):
            self.wfile.write(data if process.tty else frame(stream, data))

    def _read_input(self, process: Process) -> None:
        try:
            while data := self.rfile.read1():
                process.read_input(data)
            process.read_input(b"")
        except (OSError, ValueError):
            return  # hung up

    # handlers

    def ping(self, engine: FakeEngine) -> None:
        self._json("OK")

    def version(self, engine: FakeEngine) -> None:
        value = {"Version": "0.1.0", "ApiVersion": "1.47", "MinAPIVersion": "1.24", "Os": "linux", "Arch": "amd64"}
        self._json(value | {"KernelVersion": "6.18.0"})

    def info(self, engine: FakeEngine) -> None:
        running = sum(container.process.running for container in engine.containers.values())
        self._json(
            {
                "ID": "fake",
                "Name": "fake",
                "ServerVersion": "0.1.0",
                "KernelVersion": "6.18.0",
                "OperatingSystem": "Fake Linux",
                "Architecture": "x86_64",
                "NCPU": 2,
                "MemTotal": 4 << 30,
                "Containers": len(engine.containers),
                "ContainersRunning": running,
                "Images": len(engine.images),
                "DockerRootDir": "/var/lib/fake",
                "Warnings": [],
            }
        )

    def events(self, engine: FakeEngine) -> None:
        position = engine.events.written()
        self._stream("application/json", (data for _, data in engine.events.output_from(position)))

    def list_containers(self, engine: FakeEngine) -> None:
        wanted = [c for c in engine.containers.values() if self.query.get("all") == "1" or c.process.running]
        self._json([container.summary() for container in wanted])

    def create(self, engine: FakeEngine) -> None:
        container = engine.create(self._body(), self.query.get("name"))
        self._json({"Id": container.id, "Warnings": []}, 201)

    def inspect(self, engine: FakeEngine, name: str) -> None:
        self._json(engine.find(name).inspection())

    def start(self, engine: FakeEngine, name: str) -> None:
        container = engine.find(name)
        if container.process.running:
            self._empty(304)
            return
        engine.start(container)
        self._empty()

    def stop(self, engine: FakeEngine, name: str) -> None:
        container = engine.find(name)
        if not container.process.running:
            self._empty(304)
            return
        engine.stop(container, 137)
        self._empty()

    def restart(self, engine: FakeEngine, name: str) -> None:
        container = engine.find(name)
        container.process.end(137)
        engine.start(container)
        self._empty()

    def kill(self, engine: FakeEngine, name: str) -> None:
        container = engine.find(name)
        if not container.process.running:
            raise Refusal(409, f"Container {name} is not running")
        numbers = {"KILL": 9, "SIGKILL": 9, "TERM": 15, "SIGTERM": 15, "INT": 2, "SIGINT": 2}
        engine.stop(container, 128 + numbers[self.query.get("signal", "KILL")])
        self._empty()

    def remove(self, engine: FakeEngine, name: str) -> None:
        container = engine.find(name)
        if container.process.running:
            if self.query.get("force") != "1":
                raise Refusal(409, f"cannot remove container {name}: container is running: stop it first")
            engine.stop(container, 137)
        engine.containers.pop(container.id, None)
        engine.emit("container", "destroy", container.id)
        self._empty()

    def resize(self, engine: FakeEngine, name: str) -> None:
        engine.find(name).process.size = (int(self.query["h"]), int(self.query["w"]))
        self._empty(200)

    def wait(self, engine: FakeEngine, name: str) -> None:
        process = engine.find(name).process
        if self.query.get("condition") == "next-exit":
            process.exit_code = None
        answers = (json.dumps({"StatusCode": process.wait()}).encode() for _ in range(1))
        self._stream("application/json", answers)

    def attach(self, engine: FakeEngine, name: str) -> None:
        self._hijack(engine.find(name).process, self.query.get("stdin") == "1")

    def logs(self, engine: FakeEngine, name: str) -> None:
        process = engine.find(name).process
        with process.changed:
            written = list(process.output)
        tail = self.query.get("tail", "all")
        first = 0 if tail == "all" else max(0, len(written) - int(tail))
        stamp = b"2026-01-02T03:04:05.000000006Z " if self.query.get("timestamps") == "1" else b""
        pieces: Iterator[tuple[int, bytes]] = iter(written[first:])
        if self.query.get("follow") == "1":
            pieces = process.output_from(first)
        encoded = ((stamp + data) if process.tty else frame(stream, stamp + data) for stream, data in pieces)
        self._stream(RAW if process.tty else MULTIPLEXED, encoded)

    def stats(self, engine: FakeEngine, name: str) -> None:
        engine.find(name)
        reading = {
            "read": "2026-01-02T03:04:05Z",
            "cpu_stats": {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000, "online_cpus": 2},
            "precpu_stats": {"cpu_usage": {"total_usage": 200}, "system_cpu_usage": 1000, "online_cpus": 2},
            "memory_stats": {"usage": 3 << 20, "limit": 1 << 30, "stats": {"inactive_file": 1 << 20}},
            "pids_stats": {"current": 3},
            "networks": {"eth0": {"rx_bytes": 10, "tx_bytes": 20}},
        }
        self._stream("application/json", iter([json.dumps(reading).encode() + b"\n"]))

    def create_exec(self, engine: FakeEngine, name: str) -> None:
        container = engine.find(name)
        if not container.process.running:
            raise Refusal(409, f"container {name} is not running")
        body = self._body()
        engine.bodies.append(body)
        identity = f"{len(engine.execs) + 1:064x}"
        process = Process(body["Cmd"], body.get("Tty", False), body.get("AttachStdin", False))
        engine.execs[identity] = (container, process)
        self._json({"Id": identity}, 201)

    def start_exec(self, engine: FakeEngine, identity: str) -> None:
        _, process = engine.execs[identity]
        if process.command == ["missing"]:
            process.end(127)
            raise Refusal(400, 'exec: "missing": no such file or directory')
        if self._body().get("Detach"):
            process.start()
            self._empty(200)
            return
        self._hijack(process, process.takes_input, process.start)

    def inspect_exec(self, engine: FakeEngine, identity: str) -> None:
        _, process = engine.execs[identity]
        self._json({"ID": identity, "Running": process.running, "ExitCode": process.exit_code, "Pid": 1})

    def resize_exec(self, engine: FakeEngine, identity: str) -> None:
        engine.execs[identity][1].size = (int(self.query["h"]), int(self.query["w"]))
        self._empty(200)

    def list_images(self, engine: FakeEngine) -> None:
        self._json(list(engine.images.values()))

    def inspect_image(self, engine: FakeEngine, reference: str) -> None:
        self._json(engine.image(reference))

    def tag_image(self, engine: FakeEngine, reference: str) -> None:
        engine.image(reference)["RepoTags"].append(f"{self.query['repo']}:{self.query['tag']}")
        self._empty(201)

    def remove_image(self, engine: FakeEngine, reference: str) -> None:
        image = engine.image(reference)
        users = [c for c in engine.containers.values() if c.config["Image"] == reference]
        if users and self.query.get("force") != "1":
            raise Refusal(409, f"conflict: unable to remove {reference}: container {users[0].name} uses it")
        if len(image["RepoTags"]) > 1:
            image["RepoTags"].remove(reference)
        else:
            del engine.images[image["Id"]]
        engine.emit("image", "untag", image["Id"])
        self._json([{"Untagged": reference}])

    def load(self, engine: FakeEngine) -> None:
        """An upload that begins with "refuse" is refused in the middle; a tar file is looked into for its tags."""
        spool = bytearray()
        for chunk in self._chunks():
            spool += chunk
            if spool.startswith(b"refuse"):
                raise Refusal(400, "the archive is not an image archive")
        engine.uploaded_bytes += len(spool)
        tags = _tags_of(bytes(spool))
        identity = engine.add_image(*tags)
        engine.emit("image", "load", identity)
        lines = [{"stream": f"Loaded image: {tag}\n"} for tag in tags]
        self._stream("application/json", (json.dumps(line).encode() + b"\n" for line in lines))


def _tags_of(archive: bytes) -> list[str]:
    import io

    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        return [str(tag) for image in json.load(manifest) for tag in image["RepoTags"]]


def frame(stream: int, data: bytes) -> bytes:
    """A frame of the multiplexed stream."""
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


ROUTES = (
    ("GET", "/_ping", _Handler.ping),
    ("GET", "/version", _Handler.version),
    ("GET", "/info", _Handler.info),
    ("GET", "/events", _Handler.events),
    ("GET", "/containers/json", _Handler.list_containers),
    ("POST", "/containers/create", _Handler.create),
    ("GET", "/containers/([^/]+)/json", _Handler.inspect),
    ("POST", "/containers/([^/]+)/start", _Handler.start),
    ("POST", "/containers/([^/]+)/stop", _Handler.stop),
    ("POST", "/containers/([^/]+)/restart", _Handler.restart),
    ("POST", "/containers/([^/]+)/kill", _Handler.kill),
    ("POST", "/containers/([^/]+)/resize", _Handler.resize),
    ("POST", "/containers/([^/]+)/wait", _Handler.wait),
    ("POST", "/containers/([^/]+)/attach", _Handler.attach),
    ("GET", "/containers/([^/]+)/logs", _Handler.logs),
    ("GET", "/containers/([^/]+)/stats", _Handler.stats),
    ("POST", "/containers/([^/]+)/exec", _Handler.create_exec),
    ("DELETE", "/containers/([^/]+)", _Handler.remove),
    ("POST", "/exec/([^/]+)/start", _Handler.start_exec),
    ("GET", "/exec/([^/]+)/json", _Handler.inspect_exec),
    ("POST", "/exec/([^/]+)/resize", _Handler.resize_exec),
    ("GET", "/images/json", _Handler.list_images),
    ("POST", "/images/load", _Handler.load),
    ("GET", "/images/(.+)/json", _Handler.inspect_image),
    ("POST", "/images/(.+)/tag", _Handler.tag_image),
    ("DELETE", "/images/(.+)", _Handler.remove_image),
)
