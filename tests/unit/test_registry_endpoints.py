"""Which of a registry's addresses is asked first."""

from __future__ import annotations

import pytest

from runtime.oci.reference import parse
from runtime.registry import client
from runtime.registry.cancellation import Cancellation
from runtime.registry.client import Repository
from runtime.registry.hosts import RegistrySettings
from runtime.registry.transport import ANONYMOUS


@pytest.mark.parametrize("known, first", [("", "https"), ("http", "http"), ("https", "https")])
def test_what_answered_last_is_asked_first(monkeypatch: pytest.MonkeyPatch, known: str, first: str) -> None:
    """Making TLS ready takes longer than a whole question to a registry that speaks plain HTTP."""
    monkeypatch.setattr(client, "_schemes", {"127.0.0.1:5000": known} if known else {})
    repository = Repository(parse("127.0.0.1:5000/a"), ANONYMOUS, RegistrySettings(), Cancellation())
    assert repository._endpoints[0].url.startswith(f"{first}:")
    assert len(repository._endpoints) == 2
