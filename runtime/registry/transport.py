"""HTTP to one registry: certificates, proxies of the environment, and the challenges of basic and token authentication.

RFC 7235, RFC 6750, RFC 7617; https://distribution.github.io/distribution/spec/auth/token/
"""

from __future__ import annotations

import json
import re
import ssl
import threading
import warnings
from base64 import b64encode
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies

from runtime.errors import Unauthorized
from runtime.registry.errors import RegistryError, answered
from runtime.registry.hosts import Endpoint, RegistrySettings, is_loopback

CLIENT_ID = "wherry"
CONNECTIONS_MAX = 8
ERROR_BYTES_MAX = 1 << 16
_CHALLENGE = re.compile(r"\s*(basic|bearer)\s+(.*)", re.IGNORECASE | re.DOTALL)
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Credentials:
    """A password, or the token that stands for one; a `registry_token` is sent as it is."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""


ANONYMOUS = Credentials()


class Transport:
    """Requests to one endpoint with one user's credentials. Thread-safe."""

    def __init__(
        self,
        endpoint: Endpoint,
        credentials: Credentials,
        settings: RegistrySettings,
        wants_identity: bool = False,
    ) -> None:
        """`wants_identity`: ask a token server for a token that stands for the password from now on."""
        self.endpoint = endpoint
        self._wants_identity = wants_identity
        self._credentials = ANONYMOUS if endpoint.is_mirror else credentials
        self._timeout_s = (settings.connect_timeout_s, settings.read_timeout_s)
        self._lock = threading.Lock()
        self._authorizations: dict[str, str] = {}  # by scope
        if self._credentials.registry_token:
            self._authorizations[""] = f"Bearer {self._credentials.registry_token}"
        self.identity_token = ""  # what a token server gave for the password
        self._session = _session(endpoint)

    def close(self) -> None:
        self._session.close()

    def request(
        self,
        method: str,
        url: str,
        *,
        scope: str = "",
        expect: tuple[int, ...] = (200,),
        **options: Any,
    ) -> requests.Response:
        """The answer, with one of the statuses in `expect`; `url` may be a path. `scope`: what a token is asked for.

        `options` are those of `requests`. Raises RegistryError, Unauthorized (of a token server).
        """
        url = urljoin(self.endpoint.url, url)
        response = self._attempt(method, url, scope, options)
        if response.status_code == 401 and self._authorize(response, scope):
            if rewind := getattr(options.get("data"), "rewind", None):
                rewind()
            response.close()
            response = self._attempt(method, url, scope, options)
        if response.status_code not in expect:
            raise _refusal(method, url, response)
        return response

    def _attempt(self, method: str, url: str, scope: str, options: dict[str, Any]) -> requests.Response:
        headers = dict(options.get("headers") or {})
        if urlsplit(url).netloc == self.endpoint.host:  # uploads may lead elsewhere
            known = self._authorizations.get(scope) or self._authorizations.get("")
            if known:
                headers["Authorization"] = known
        return self._send(method, url, **{**options, "headers": headers})

    def _send(self, method: str, url: str, **options: Any) -> requests.Response:
        options.setdefault("timeout", self._timeout_s)
        options.setdefault("stream", True)  # nobody sends us more than we mean to read
        # Never for this machine's own, as Go's ProxyFromEnvironment.
        proxies = {} if is_loopback(urlsplit(url).hostname or "") else get_environ_proxies(url)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
                return self._session.request(method, url, proxies=proxies, **options)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise unreachable(method, url, error) from error

    # --- authentication -----------------------------------------------------------------------------------

    def _authorize(self, response: requests.Response, scope: str) -> bool:
        """Answers a challenge; False when there is nothing more to offer."""
        match = _CHALLENGE.match(response.headers.get("WWW-Authenticate", ""))
        if match is None:
            return False
        sent = response.request.headers.get("Authorization", "")
        if match[1].lower() == "basic":
            if sent.startswith("Basic "):
                return False
            if not self._credentials.username:
                what = _what(response.request.method or "GET", response.url)
                raise RegistryError(f"{what}: no basic auth credentials", "UNAUTHORIZED", 401)
            self._authorizations[""] = basic(self._credentials)
            return True
        parameters = dict(_PARAMETER.findall(match[2]))
        asked = scope or parameters.get("scope", "")
        with self._lock:  # layers are fetched at the same time, a token once
            known = self._authorizations.get(scope, "")
            if known and known != sent:
                return True
            if self._credentials.registry_token and sent:
                return False
            self._authorizations[scope] = f"Bearer {self._fetch_token(parameters, asked)}"
        return True

    def _fetch_token(self, challenge: dict[str, str], scope: str) -> str:
        realm, credentials = challenge.get("realm", ""), self._credentials
        if urlsplit(realm).scheme not in ("http", "https"):
            raise RegistryError(f"the registry names no token server to log in at (realm {realm!r})", "UNKNOWN", 401)
        query = {"service": challenge.get("service", "")}
        scopes = [("scope", part) for part in scope.split()]
        headers = {}
        if credentials.identity_token:
            form = {**query, "client_id": CLIENT_ID, "grant_type": "refresh_token"}
            form["refresh_token"] = credentials.identity_token
            response = self._send("POST", realm, data=[*form.items(), *([("scope", scope)] if scope else [])])
        else:
            if credentials.username:
                headers["Authorization"] = basic(credentials)
                query |= {"account": credentials.username, "client_id": CLIENT_ID}
                query |= {"offline_token": "true"} if self._wants_identity else {}
            response = self._send("GET", realm, params=[*query.items(), *scopes], headers=headers)
        document = _document(response)
        if response.status_code in (401, 403):
            error = answered(response.status_code, response.reason, _what("GET", realm), document)
            said = isinstance(document, dict) and document.get("errors")
            raise Unauthorized(str(error) if said else "unauthorized: incorrect username or password")
        token = document.get("token") or document.get("access_token") if isinstance(document, dict) else None
        if response.status_code != 200:
            raise answered(
                response.status_code,
                response.reason,
                _what("GET", realm),
                document,
                response.headers.get("Retry-After", ""),
            )
        if not token:
            raise RegistryError(
                f"the token server {realm} answered {response.status_code} and no token", "UNKNOWN", 200
            )
        self.identity_token = str(document.get("refresh_token") or "")
        return str(token)


def basic(credentials: Credentials) -> str:
    return "Basic " + b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()


def unreachable(method: str, url: str, error: Exception) -> RegistryError:
    """Docker's words for a connection that failed."""
    cause: Any = error.args[0] if error.args else error
    cause = getattr(cause, "reason", cause)
    text, host = str(cause), urlsplit(url).netloc
    if "WRONG_VERSION_NUMBER" in text or "HTTP_REQUEST" in text or "record layer failure" in text:
        text = f"http: server gave HTTP response to HTTPS client (start the engine with --insecure-registry {host})"
    elif "CERTIFICATE_VERIFY_FAILED" in text:
        detail = text.partition("verify failed: ")[2].partition(" (_ssl")[0]
        text = (
            f"tls: failed to verify certificate: x509: certificate signed by unknown authority ({detail}): "
            f"put the registry's authority into /etc/docker/certs.d/{host}/ca.crt"
        )
    elif "Connection refused" in text:
        text = f"dial tcp {host}: connect: connection refused"
    elif "Name or service not known" in text or "Temporary failure in name resolution" in text:
        text = f"dial tcp: lookup {urlsplit(url).hostname}: no such host"
    elif "IncompleteRead" in text:
        text = "unexpected EOF"
    elif isinstance(error, requests.Timeout):
        text = "net/http: request canceled while waiting for connection (Client.Timeout exceeded)"
    if isinstance(error, requests.TooManyRedirects) and error.response is not None:  # an answer, though no good one
        return RegistryError(f"{_what(method, url)}: {text}", "UNKNOWN", error.response.status_code)
    return RegistryError(f"{_what(method, url)}: {text}")


def _what(method: str, url: str) -> str:
    return f'{method.capitalize()} "{url}"'


def _refusal(method: str, url: str, response: requests.Response) -> RegistryError:
    with response:
        retry_after = response.headers.get("Retry-After", "")
        return answered(response.status_code, response.reason, _what(method, url), _document(response), retry_after)


def read_all(response: requests.Response, limit_bytes: int) -> bytes:
    """The body, at most `limit_bytes` + 1 of it. Raises RegistryError when it breaks off."""
    try:
        with response:
            return bytes(response.raw.read(limit_bytes + 1, decode_content=True) or b"")
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise unreachable(response.request.method or "GET", response.url, error) from error


def _document(response: requests.Response) -> Any:
    try:
        return json.loads(read_all(response, ERROR_BYTES_MAX) or b"null")
    except (ValueError, RecursionError, RegistryError):
        return None


def _session(endpoint: Endpoint) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # ~/.netrc of root is nobody's business; proxies are looked up for each request
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers["User-Agent"] = CLIENT_ID
    session.headers["Accept-Encoding"] = "identity"  # digests are of the bytes as they are
    session.verify = endpoint.verify
    if endpoint.url.startswith("https:"):  # reading the authorities takes longer than a question
        session.mount("https://", _Https(endpoint))
    session.mount("http://", HTTPAdapter(pool_maxsize=CONNECTIONS_MAX))
    return session


class _Https(HTTPAdapter):
    """Trusts the system's authorities and the registry's own, and shows the client's certificate if there is one."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._context = _tls(endpoint)
        super().__init__(pool_maxsize=CONNECTIONS_MAX)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, ssl_context=self._context, **options)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        return super().proxy_manager_for(proxy, ssl_context=self._context, **options)


def _tls(endpoint: Endpoint) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not endpoint.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for directory in endpoint.certificates:
        if not directory.is_dir():
            continue
        for authority in sorted(directory.glob("*.crt")):
            context.load_verify_locations(authority)
        for certificate in sorted(directory.glob("*.cert")):
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    return context
