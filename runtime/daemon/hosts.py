"""`--host` and the `--tls` options, read and checked before anything is opened."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from runtime.errors import InvalidParameter

DEFAULT_TLS_PORT = 2376  # registered with IANA as docker-s


@dataclass(frozen=True)
class UnixHost:
    path: Path

    def __str__(self) -> str:
        return f"unix://{self.path}"


@dataclass(frozen=True)
class TcpHost:
    """Served with TLS, to clients with a certificate of the given authority."""

    address: str
    port: int
    tls: ssl.SSLContext

    def __str__(self) -> str:
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"tcp://{address}:{self.port}"


Host = UnixHost | TcpHost


@dataclass(frozen=True)
class TlsFiles:
    """PEM files; `verify` is `--tlsverify`, without which nothing is served over TCP."""

    verify: bool
    authority: Path | None
    certificate: Path | None
    key: Path | None


def parse_hosts(texts: Sequence[str], tls: TlsFiles) -> list[Host]:
    """Raises InvalidParameter in a sentence for what cannot, or should not, be served."""
    return [_parse_host(text, tls) for text in texts]


def _parse_host(text: str, tls: TlsFiles) -> Host:
    scheme, separator, rest = text.partition("://")
    if scheme == "unix" and separator and rest.startswith("/"):
        return UnixHost(Path(rest))
    if scheme != "tcp" or not rest:
        raise InvalidParameter(
            f"--host {text} is not supported: give unix:// and an absolute path, or tcp://ADDRESS:PORT with --tlsverify"
        )
    try:
        parts = urlsplit(text)
        address, port = parts.hostname, parts.port or DEFAULT_TLS_PORT
    except ValueError:
        address, port = None, 0
    if not address:
        raise InvalidParameter(f"--host {text}: give an address and a port, such as tcp://127.0.0.1:{DEFAULT_TLS_PORT}")
    return TcpHost(address, port, _server_context(text, tls))


def _server_context(host: str, files: TlsFiles) -> ssl.SSLContext:
    if not (files.verify and files.authority and files.certificate and files.key):
        raise InvalidParameter(
            f"--host {host} needs --tlsverify, --tlscacert, --tlscert and --tlskey: whoever can connect is root on "
            "this machine, so only clients with a certificate are served over TCP"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(files.authority)
    except (OSError, ssl.SSLError) as error:
        raise InvalidParameter(f"--tlscacert {files.authority} cannot be used: {_reason(error)}") from None
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise InvalidParameter(
            f"--tlscert {files.certificate} with --tlskey {files.key} cannot be used: {_reason(error)}"
        ) from None
    return context


def _no_password() -> str:
    """Instead of OpenSSL asking on the terminal of a service."""
    raise ValueError("the key is encrypted; give one without a password")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
