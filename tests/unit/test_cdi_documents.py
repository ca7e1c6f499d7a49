"""CDI specs in YAML: read by PyYAML where it is installed, and else refused with the remedy."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from runtime.engine.cdi import Registry

SPEC = {"cdiVersion": "0.6.0", "kind": "example.test/toy", "devices": [{"name": "a"}]}


def test_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every JSON document is one in YAML too, so the real parser is not needed to see that it is asked."""
    (tmp_path / "toy.yaml").write_text(json.dumps(SPEC))
    (tmp_path / "torn.yml").write_text("{")
    monkeypatch.setitem(sys.modules, "yaml", SimpleNamespace(safe_load=json.loads, YAMLError=ValueError))
    registry = Registry.read([tmp_path])
    assert list(registry.devices) == ["example.test/toy=a"]
    assert len(registry.unread) == 1 and "torn.yml cannot be used: it is not YAML" in registry.unread[0]


def test_without_a_parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy.yaml").write_text(json.dumps(SPEC))
    monkeypatch.setitem(sys.modules, "yaml", None)
    registry = Registry.read([tmp_path])
    assert not registry.devices
    assert "it is YAML: install PyYAML (on Debian: apt install python3-yaml)" in registry.unread[0]
