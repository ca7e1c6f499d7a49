"""Whether a registry believes a user: `docker login`, by the challenge of `GET /v2/`.

https://distribution.github.io/distribution/spec/auth/token/ and RFC 6750, RFC 7617.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from runtime.errors import InvalidParameter, SystemFault, Unauthorized

HUB = "registry-1.docker.io"
HUB_NAMES = ("", "docker.io", "index.docker.io", HUB)
CERTIFICATES = Path("/etc/docker/certs.d")  # HOST:PORT/ca.crt below it, as for Docker
CLIENT_ID = "wherry"
TIMEOUT_S = 15

_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Credentials:
    """A password, or the token that stands for one."""

    username: str
    password: str
    identity_token: str = ""


def login(address: str, credentials: Credentials) -> str:
    """The registry's identity token, or ""; slow, for a worker thread.

    Raises Unauthorized, InvalidParameter (no such address), SystemFault (no answer).
    """
    host = _host_of(address)
    if not credentials.identity_token and not credentials.username:
        raise InvalidParameter("a username is needed to log in: give one with --username")
    with requests.Session() as session:
        authority = CERTIFICATES / host / "ca.crt"
        if authority.exists():
            session.verify = str(authority)
        return _login(session, host, credentials)


def _host_of(address: str) -> str:
    host = urlsplit(address if "://" in address else f"//{address}").netloc.rpartition("@")[2]
    if host in HUB_NAMES:
        return HUB
    if not re.fullmatch(r"[\w.-]+(:\d+)?|\[[0-9a-fA-F:]+\](:\d+)?", host):
        raise InvalidParameter(f"invalid registry address {address!r}: give a host name, and a port if it needs one")
    return host


def is_insecure(host: str) -> bool:
    """Registries on this machine may speak plain HTTP, as /info says (RegistryConfig)."""
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _login(session: requests.Session, host: str, credentials: Credentials) -> str:
    url, response = _challenge(session, host)
    if response.status_code == 200:
        return ""
    scheme, _, rest = response.headers.get("WWW-Authenticate", "").partition(" ")
    parameters = dict(_PARAMETER.findall(rest))
    if response.status_code != 401 or scheme.lower() not in ("basic", "bearer"):
        raise SystemFault(f"login attempt to {url} failed with status: {response.status_code} {response.reason}")
    if scheme.lower() == "basic":
        answer = _get(session, url, auth=(credentials.username, credentials.password))
        token = ""
    else:
        access, token = _fetch_token(session, parameters, credentials)
        answer = _get(session, url, headers={"Authorization": f"Bearer {access}"})
    if answer.status_code != 200:
        raise Unauthorized(f"login attempt to {url} failed with status: {answer.status_code} {answer.reason}")
    return token


def _challenge(session: requests.Session, host: str) -> tuple[str, requests.Response]:
    url = f"https://{host}/v2/"
    try:
        return url, _get(session, url)
    except SystemFault:
        if not is_insecure(host):
            raise
    url = f"http://{host}/v2/"
    return url, _get(session, url)


def _fetch_token(session: requests.Session, challenge: dict[str, str], credentials: Credentials) -> tuple[str, str]:
    """The access token, and the identity token where the server gives one."""
    realm = challenge.get("realm", "")
    if urlsplit(realm).scheme not in ("http", "https"):
        raise SystemFault(f"the registry names no token server to log in at (realm {realm!r})")
    form = {"service": challenge.get("service", ""), "client_id": CLIENT_ID}
    if credentials.identity_token:
        form |= {"grant_type": "refresh_token", "refresh_token": credentials.identity_token}
        response = _ask(session, "POST", realm, data=form)
    else:
        query = {**form, "account": credentials.username, "offline_token": "true"}
        response = _get(session, realm, params=query, auth=(credentials.username, credentials.password))
    try:
        document: Any = response.json()
    except ValueError:
        document = {}
    if response.status_code in (401, 403):
        raise Unauthorized(_said(document) or "unauthorized: incorrect username or password")
    access = document.get("token") or document.get("access_token") if isinstance(document, dict) else None
    if response.status_code != 200 or not access:
        raise SystemFault(f"the token server {realm} answered {response.status_code} {response.reason} and no token")
    return str(access), str(document.get("refresh_token") or "")


def _said(document: Any) -> str:
    """The first of a registry's errors, as moby shows it: `unauthorized: incorrect username or password`."""
    try:
        first = document["errors"][0]
        return f"{str(first['code']).lower().replace('_', ' ')}: {first['message']}"
    except (KeyError, IndexError, TypeError):
        return ""


def _get(session: requests.Session, url: str, **options: Any) -> requests.Response:
    return _ask(session, "GET", url, **options)


def _ask(session: requests.Session, method: str, url: str, **options: Any) -> requests.Response:
    try:
        return session.request(method, url, timeout=TIMEOUT_S, **options)
    except requests.RequestException as error:
        reason = getattr(error.args[0], "reason", error) if error.args else error
        raise SystemFault(f'{method} "{url}": {reason}') from None
