"""A file from the web: what `docker import URL` reads."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import requests
import urllib3

from runtime.errors import SystemFault
from runtime.registry.hosts import Endpoint, RegistrySettings
from runtime.registry.transport import ANONYMOUS, Transport, unreachable


@contextmanager
def opened(url: str, settings: RegistrySettings) -> Iterator[io.BufferedReader]:
    """The body while it arrives. Raises RegistryError, SystemFault for an answer other than 200."""
    parts = urlsplit(url)
    transport = Transport(Endpoint(f"{parts.scheme}://{parts.netloc}", parts.netloc, True), ANONYMOUS, settings)
    try:
        with transport.request("GET", url, expect=tuple(range(200, 600))) as response:
            if response.status_code != 200:
                raise SystemFault(f"got HTTP status code {response.status_code} {response.reason} from {url}")
            yield io.BufferedReader(_Body(response), 1 << 18)
    finally:
        transport.close()


class _Body(io.RawIOBase):
    def __init__(self, response: requests.Response) -> None:
        self._response = response

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            data = self._response.raw.read(len(buffer), decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise unreachable("GET", self._response.url, error) from error
        buffer[: len(data)] = data
        return len(data)
