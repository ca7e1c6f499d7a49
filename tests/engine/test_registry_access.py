"""Who may pull and push, and which registries are believed to be what they say: certificates, passwords, tokens."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import bcrypt
import pytest

from tests.engine.test_pull import layers, pull
from tests.fakes.certificates import make_certificates
from tests.fakes.images import docker_archive
from tests.fakes.registries import docker_registry
from tests.harness import RunningEngine

GOOD = "Basic " + base64.b64encode(b"ada:secret").decode()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.crt, and cert.pem with key.pem for 127.0.0.1 signed by it."""
    place = tmp_path_factory.mktemp("certificates")
    make_certificates(place, "IP:127.0.0.1,DNS:localhost")
    return place


class TokenServer(BaseHTTPRequestHandler):
    """Signs nothing itself: it hands out what the registry's own rootcertbundle can check."""

    key = Path()
    asked: list[dict[str, list[str]]] = []

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        type(self).asked.append(query)
        if self.headers.get("Authorization", "") != GOOD:
            self._say(401, {"errors": [{"code": "UNAUTHORIZED", "message": "incorrect username or password"}]})
            return
        self._say(200, {"token": self._token(query.get("scope", []))})

    def _token(self, scopes: list[str]) -> str:
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(subprocess.run(["date", "+%s"], capture_output=True, check=True).stdout)
        claims = {"iss": "test", "sub": "ada", "aud": "registry", "exp": now + 300, "nbf": now - 10, "iat": now}
        certificate = (self.key / "cert.pem").read_text().split("-----")[2].replace("\n", "")
        head = {"typ": "JWT", "alg": "ES256", "x5c": [certificate]}
        text = b".".join(_b64(json.dumps(part).encode()) for part in (head, {**claims, "jti": "1", "access": access}))
        return (text + b"." + _b64(_signature(self.key / "key.pem", text))).decode()

    def _say(self, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _signature(key: Path, text: bytes) -> bytes:
    """JOSE wants the two numbers of an ECDSA signature as they are, openssl wraps them in DER."""
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    command = ["openssl", "dgst", "-sha256", "-sign", str(key)]
    der = subprocess.run(command, input=text, capture_output=True, check=True).stdout
    return b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(der))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Iterator[dict[str, str]]:
    """Addresses by what is asked for: a `password` over TLS, a `token`."""
    root = tmp_path_factory.mktemp("secured")
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4, prefix=b"2a")).decode()
    (root / "htpasswd").write_text(f"ada:{hashed}\n")
    TokenServer.key = certificates
    server = ThreadingHTTPServer(("127.0.0.1", 0), TokenServer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    tls = f"  tls: {{certificate: {certificates}/cert.pem, key: {certificates}/key.pem}}\n"
    password = f"auth:\n  htpasswd: {{realm: test, path: {root}/htpasswd}}\n"
    token = (
        f"auth:\n  token:\n    realm: http://127.0.0.1:{server.server_port}/token\n    service: registry\n"
        f"    issuer: test\n    rootcertbundle: {certificates}/ca.crt\n"
    )
    with ExitStack() as stack:
        stack.callback(server.server_close)
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        yield {
            "password": stack.enter_context(docker_registry(root / "password", tls + password)),
            "token": stack.enter_context(docker_registry(root / "token", token)),
        }


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    running = RunningEngine(tmp_path_factory.mktemp("access"))
    archive = tmp_path_factory.mktemp("image") / "image.tar"
    running.load(docker_archive(archive, layers("access"), ["box:1"], {"Cmd": ["true"]}))
    yield running
    running.close()


def authorization(password: str = "secret", **more: str) -> dict[str, str]:
    document = {"username": "ada", "password": password, **more}
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(document).encode()).decode()}


def send(engine: RunningEngine, path: str, headers: dict[str, str]) -> tuple[int, str]:
    """The status, and the last line of the stream or the message."""
    status, body = engine.request("POST", path, headers=headers)
    last = json.loads(body.splitlines()[-1])
    return status, last.get("message") or last.get("error") or last.get("status") or json.dumps(last)


@pytest.mark.parametrize("kind", ["password", "token"])
def test_pull_and_push_with_credentials(engine: RunningEngine, secured: dict[str, str], kind: str) -> None:
    address = secured[kind]
    engine.post(f"/images/box:1/tag?repo={address}/box&tag=1", expect=201)
    status, said = send(engine, f"/images/{address}/box/push?tag=1", authorization())
    assert status == 200 and "Digest" in said, said
    engine.request("DELETE", f"/images/{address}/box:1")
    status, said = send(engine, f"/images/create?fromImage={address}/box&tag=1", authorization())
    assert status == 200 and said.startswith("Status: "), said


def test_without_and_with_wrong_credentials(engine: RunningEngine, secured: dict[str, str]) -> None:
    pulling = f"/images/create?fromImage={secured['password']}/box&tag=1"
    status, said = send(engine, pulling, {})
    assert status == 500 and said.endswith("no basic auth credentials"), said
    status, said = send(engine, pulling, authorization("wrong"))
    assert status == 500 and said.startswith("unauthorized: authentication required"), said
    pulling = f"/images/create?fromImage={secured['token']}/box&tag=1"
    for headers in ({}, authorization("wrong")):
        status, said = send(engine, pulling, headers)
        assert status >= 400 and "unauthorized: incorrect username or password" in said, said


def test_a_token_is_asked_for_what_is_needed(engine: RunningEngine, secured: dict[str, str]) -> None:
    TokenServer.asked.clear()
    engine.post(f"/images/box:1/tag?repo={secured['token']}/scoped&tag=1", expect=201)
    send(engine, f"/images/{secured['token']}/scoped/push?tag=1", authorization())
    assert TokenServer.asked[0]["scope"] == ["repository:scoped:pull,push"]
    assert TokenServer.asked[0]["service"] == ["registry"] and TokenServer.asked[0]["account"] == ["ada"]


def test_docker_login_and_logout(engine: RunningEngine, secured: dict[str, str]) -> None:
    address = secured["password"]
    wrong = engine.docker("login", "-u", "ada", "--password-stdin", address, input=b"wrong")
    assert wrong.returncode != 0 and b"401 Unauthorized" in wrong.stderr
    done = engine.docker("login", "-u", "ada", "--password-stdin", address, input=b"secret")
    assert b"Login Succeeded" in done.stdout, done.stderr
    engine.docker("tag", "box:1", f"{address}/viacli:1")
    pushed = engine.docker("push", f"{address}/viacli:1")
    assert pushed.returncode == 0, pushed.stderr
    engine.docker("logout", address)
    assert b"no basic auth credentials" in engine.docker("pull", f"{address}/viacli:1").stderr


def test_a_private_authority(
    tmp_path: Path, secured: dict[str, str], certificates: Path, engine: RunningEngine
) -> None:
    """Loopback needs no authority by its address, so the registry is asked by a name that is not loopback's."""
    from runtime.errors import SystemFault
    from runtime.registry.hosts import Endpoint, RegistrySettings
    from runtime.registry.transport import Credentials, Transport

    address = secured["password"]
    trusted = tmp_path / address
    trusted.mkdir()
    settings, credentials = RegistrySettings(), Credentials("ada", "secret")
    endpoint = Endpoint(f"https://{address}", address, True, (trusted,))
    with pytest.raises(SystemFault, match=r"x509: certificate signed by unknown authority .*certs.d/127.0.0.1"):
        Transport(Endpoint(f"https://{address}", address, True, (trusted,)), credentials, settings).request(
            "GET", "/v2/"
        )
    (trusted / "ca.crt").write_bytes((certificates / "ca.crt").read_bytes())
    transport = Transport(endpoint, credentials, settings)
    transport.request("GET", "/v2/").close()
    transport.close()


def test_mirrors_come_first_and_the_hub_s_password_stays_at_home(
    tmp_path: Path, secured: dict[str, str], engine: RunningEngine
) -> None:
    with docker_registry(tmp_path / "mirror") as mirror:
        engine.post(f"/images/box:1/tag?repo={mirror}/library/onlyhere&tag=1", expect=201)
        _, said = send(engine, f"/images/{mirror}/library/onlyhere/push?tag=1", {})
        assert "Digest" in said
        running = RunningEngine(tmp_path / "mirrored", "--registry-mirror", f"http://{mirror}")
        try:
            lines = pull(running, "onlyhere", "1")
            assert lines[-1]["status"] == "Status: Downloaded newer image for onlyhere:1"
            assert running.get("/info")["RegistryConfig"]["Mirrors"] == [f"http://{mirror}"]
        finally:
            running.close()
