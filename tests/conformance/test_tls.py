"""The engine over TCP: only with certificates on both sides, and then all of it, attached streams included."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.daemon.hosts import TcpHost, TlsFiles, UnixHost, parse_hosts
from runtime.errors import InvalidParameter
from tests.harness import RunningEngine

NO_FILES = TlsFiles(False, None, None, None)
SIGN = "openssl x509 -req -in request -CA ../ca.pem -CAkey ../ca.key -CAcreateserial -extfile extensions -out cert.pem"


def test_hosts() -> None:
    assert parse_hosts(["unix:///run/x.sock"], NO_FILES) == [UnixHost(Path("/run/x.sock"))]
    for host in ("unix://relative", "fd://", "ssh://x", "tcp://", "x", "tcp://:99999"):
        with pytest.raises(InvalidParameter, match=host):
            parse_hosts([host], NO_FILES)


def test_tcp_without_certificates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="needs --tlsverify"):
        parse_hosts(["tcp://127.0.0.1:2375"], NO_FILES)
    missing = TlsFiles(True, tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem")
    with pytest.raises(InvalidParameter, match=r"--tlscacert .* cannot be used: No such file"):
        parse_hosts(["tcp://127.0.0.1:2376"], missing)


@dataclass
class Authority:
    """Signs certificates; each is a directory as `docker --tlsverify` wants it: ca.pem, cert.pem, key.pem."""

    root: Path

    def make(self) -> Authority:
        self.root.mkdir()
        openssl("req", "-x509", "-subj", "/CN=Test authority", "-out", "ca.pem", "-keyout", "ca.key", where=self.root)
        return self

    def sign(self, name: str, extensions: str) -> Path:
        place = self.root / name
        place.mkdir()
        (place / "ca.pem").symlink_to("../ca.pem")
        (place / "extensions").write_text(extensions)
        openssl("req", "-subj", f"/CN={name}", "-out", "request", "-keyout", "key.pem", where=place)
        subprocess.run(
            SIGN.split(),
            cwd=place,
            check=True,
            capture_output=True,
        )
        return place


def openssl(*arguments: str, where: Path) -> None:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run(["openssl", arguments[0], *key, *arguments[1:]], cwd=where, check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority").make()


@pytest.fixture(scope="module")
def secure(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority, busybox_archive: Path
) -> Iterator[tuple[RunningEngine, int]]:
    server = authority.sign("server", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    files = ["--tlscacert", str(server / "ca.pem"), "--tlscert", str(server / "cert.pem")]
    engine = RunningEngine(
        tmp_path_factory.mktemp("secure"),
        *("--host", f"tcp://127.0.0.1:{port}", "--tlsverify", *files, "--tlskey", str(server / "key.pem")),
    )
    engine.load(busybox_archive)
    yield engine, port
    engine.close()


def docker(port: int, certificates: Path, *arguments: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "DOCKER_CERT_PATH": str(certificates), "DOCKER_CONFIG": str(certificates)}
    command = ["docker", "--host", f"tcp://127.0.0.1:{port}", "--tlsverify", *arguments]
    return subprocess.run(command, env=environment, input=input, capture_output=True, timeout=60, check=False)


def test_the_docker_cli_with_a_certificate(secure: tuple[RunningEngine, int], authority: Authority) -> None:
    _, port = secure
    client = authority.sign("client", "extendedKeyUsage=clientAuth")
    assert docker(port, client, "version", "--format", "{{.Server.Os}}").stdout == b"linux\n"
    assert docker(port, client, "run", "--rm", "busybox", "echo", "hi").stdout == b"hi\n"
    # wc sees the end of its input only if the half-closed connection gets through, and answers after it.
    done = docker(port, client, "run", "--rm", "-i", "busybox", "wc", "-c", input=b"x" * 1_000_000)
    assert done.stdout == b"1000000\n", done
    done = docker(port, client, "run", "--rm", "busybox", "head", "-c", "3000000", "/dev/zero")
    assert len(done.stdout) == 3_000_000


def test_clients_without_the_right_certificate(
    secure: tuple[RunningEngine, int], authority: Authority, tmp_path: Path
) -> None:
    engine, port = secure
    stranger = Authority(tmp_path / "other").make().sign("stranger", "extendedKeyUsage=clientAuth")
    (stranger / "ca.pem").unlink()
    (stranger / "ca.pem").symlink_to(authority.root / "ca.pem")
    done = docker(port, stranger, "version")
    assert done.returncode == 1
    assert b"tls" in done.stderr
    anonymous = ssl.create_default_context(cafile=authority.root / "ca.pem")
    with (
        pytest.raises((ssl.SSLError, ConnectionError)),
        socket.create_connection(("127.0.0.1", port)) as plain,
        anonymous.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
    ):
        wrapped.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wrapped.recv(1)
    with socket.create_connection(("127.0.0.1", port)) as plain:
        plain.settimeout(10)
        plain.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP/1.1 200" not in plain.recv(65536)
    assert engine.request("GET", "/_ping")[0] == 200
    assert "Traceback" not in engine.log()


def test_a_tcp_host_prints_as_it_is_given(authority: Authority) -> None:
    place = authority.sign("again", "extendedKeyUsage=serverAuth")
    files = TlsFiles(True, place / "ca.pem", place / "cert.pem", place / "key.pem")
    hosts = parse_hosts(["tcp://[::1]:99", "tcp://127.0.0.1"], files)
    assert [str(host) for host in hosts] == ["tcp://[::1]:99", "tcp://127.0.0.1:2376"]
    assert all(isinstance(host, TcpHost) for host in hosts)
