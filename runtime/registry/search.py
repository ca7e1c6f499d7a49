"""`docker search`: the search of Docker's old index API (v1), which Docker Hub still serves and few others do."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from runtime.errors import SystemFault
from runtime.oci.reference import DEFAULT_DOMAIN
from runtime.registry.errors import RegistryError
from runtime.registry.hosts import RegistrySettings
from runtime.registry.transport import Credentials, Transport, read_all

INDEX = "index.docker.io"
ANSWER_BYTES_MAX = 4 << 20


@dataclass(frozen=True)
class FoundImage:
    name: str
    description: str
    stars: int
    is_official: bool


def search(term: str, limit: int, credentials: Credentials, settings: RegistrySettings) -> list[FoundImage]:
    """`term` may begin with a registry's host. Raises RegistryError, SystemFault."""
    host, slash, rest = term.partition("/")
    if not slash or not (any(mark in host for mark in ".:") or host == "localhost"):
        host, rest = DEFAULT_DOMAIN, term
    endpoints = settings.endpoints(host, pulling=False)
    if host == DEFAULT_DOMAIN:
        endpoints = [replace(end, url=f"https://{INDEX}", host=INDEX) for end in endpoints]
        rest = rest.removeprefix("library/")
    for endpoint in endpoints:
        transport = Transport(endpoint, credentials, settings)
        try:
            response = transport.request("GET", "/v1/search", params={"q": rest, "n": str(limit)})
            document = json.loads(read_all(response, ANSWER_BYTES_MAX))
            return [_image(entry) for entry in document["results"]][:limit]
        except RegistryError as error:
            if error.status == 0 and endpoint is not endpoints[-1]:
                continue
            if error.status == 404:
                raise SystemFault(f"{endpoint.host} cannot be searched: it has no search API (v1)") from error
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SystemFault(f"{endpoint.host} answered the search with something else: {error}") from error
        finally:
            transport.close()
    raise AssertionError("a registry has an endpoint")


def _image(entry: dict[str, object]) -> FoundImage:
    stars = entry.get("star_count")
    return FoundImage(
        str(entry["name"]),
        str(entry.get("description") or ""),
        stars if isinstance(stars, int) else 0,
        bool(entry.get("is_official")),
    )
