"""Whether a registry believes a user: `docker login`, by the challenge of `GET /v2/`."""

from __future__ import annotations

from runtime.errors import InvalidParameter, SystemFault, Unauthorized
from runtime.registry.errors import RegistryError
from runtime.registry.hosts import HUB, RegistrySettings, host_of
from runtime.registry.transport import Credentials, Transport

__all__ = ["Credentials", "login"]


def login(address: str, credentials: Credentials, settings: RegistrySettings | None = None) -> str:
    """The registry's identity token, or ""; slow, for a worker thread.

    Raises Unauthorized, InvalidParameter (no such address), SystemFault (no answer).
    """
    settings = settings or RegistrySettings()
    host = host_of(address)
    if not credentials.identity_token and not credentials.username:
        raise InvalidParameter("a username is needed to log in: give one with --username")
    endpoints = settings.endpoints("docker.io" if host == HUB else host, pulling=False)
    for endpoint in endpoints:
        transport = Transport(endpoint, credentials, settings, wants_identity=True)
        url = f"{endpoint.url}/v2/"
        try:
            transport.request("GET", url).close()
            return transport.identity_token
        except RegistryError as error:
            if error.status == 0 and endpoint is not endpoints[-1]:
                continue
            if error.status == 401:
                raise Unauthorized(f"login attempt to {url} failed with status: 401 Unauthorized") from None
            if error.status:
                raise SystemFault(f"login attempt to {url} failed with status: {error.status}") from None
            raise
        finally:
            transport.close()
    raise AssertionError("a registry has an endpoint")
