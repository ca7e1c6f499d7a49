"""Which of a registry's addresses is asked first, and through which proxy."""

from __future__ import annotations

import pytest

from runtime.oci.reference import parse
from runtime.registry import client
from runtime.registry.cancellation import Cancellation
from runtime.registry.client import Repository
from runtime.registry.errors import RegistryError
from runtime.registry.hosts import Endpoint, RegistrySettings
from runtime.registry.transport import ANONYMOUS, Transport


@pytest.mark.parametrize("known, first", [("", "https"), ("http", "http"), ("https", "https")])
def test_what_answered_last_is_asked_first(monkeypatch: pytest.MonkeyPatch, known: str, first: str) -> None:
    """Making TLS ready takes longer than a whole question to a registry that speaks plain HTTP."""
    monkeypatch.setattr(client, "_schemes", {"127.0.0.1:5000": known} if known else {})
    repository = Repository(parse("127.0.0.1:5000/a"), ANONYMOUS, RegistrySettings(), Cancellation())
    assert repository._endpoints[0].url.startswith(f"{first}:")
    assert len(repository._endpoints) == 2


@pytest.mark.parametrize(
    "host, proxy",
    [
        ("registry.example:5000", "http://proxy:3128"),
        ("inside.example", None),
        ("127.0.0.1:5000", None),
        ("localhost:5000", None),
    ],
)
def test_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch, host: str, proxy: str | None) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "inside.example")
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    transport = Transport(Endpoint(f"http://{host}", host, False), ANONYMOUS, RegistrySettings())
    seen = []

    def request(method: str, url: str, *, proxies: dict[str, str], **options: object) -> None:
        seen.append(proxies.get("http"))
        raise OSError("enough")

    monkeypatch.setattr(transport._session, "request", request)
    with pytest.raises(RegistryError):
        transport.request("GET", "/v2/")
    assert seen == [proxy]
    transport.close()
