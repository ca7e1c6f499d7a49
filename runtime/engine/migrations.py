"""How a store written by an older Wherry becomes one of today: a step for each schema version."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from typing import Any

Document = dict[str, Any]


def _documents(db: sqlite3.Connection, kind: str) -> list[tuple[str, Document]]:
    rows = db.execute("SELECT id, value FROM objects WHERE kind = ?", (kind,)).fetchall()
    return [(id, json.loads(text)) for id, text in rows]


def _replace(db: sqlite3.Connection, kind: str, id: str, document: Document) -> None:
    text = json.dumps(document, separators=(",", ":"))
    db.execute("UPDATE objects SET value = ? WHERE kind = ? AND id = ?", (text, kind, id))


def several_networks(db: sqlite3.Connection) -> None:
    """1 → 2: a network has several subnets, a container several networks.

    What a running container holds of its network is forgotten; it is told again at its next start.
    """
    by_name = {}
    for id, old in _documents(db, "network"):
        by_name[old["name"]] = id
        _replace(db, "network", id, _network(old))
    for id, old in _documents(db, "container"):
        name = old["host_config"].get("NetworkMode") or "bridge"
        name = "bridge" if name == "default" else name
        del old["network"]
        networks = {by_name[name]: {"name": name, "config": _endpoint(old, name), "endpoint": None}}
        _replace(db, "container", id, {**old, "networks": networks})


def _network(old: Document) -> Document:
    subnets = []
    if old["subnet"]:
        own = {"subnet": old["subnet"], "gateway": old["gateway"]}
        subnets.append({**own, "ip_range": None, "auxiliary": {}, "chosen": True})
    return {
        "name": old["name"],
        "driver": old["driver"],
        "created_ns": old["created_ns"],
        "interface": old["bridge"],
        "subnets": subnets,
    }


def _endpoint(container: Document, network: str) -> Document:
    """The addresses that were asked for."""
    asked = ((container["networking"] or {}).get("EndpointsConfig") or {}).get(network) or {}
    address = (asked.get("IPAMConfig") or {}).get("IPv4Address")
    mac = asked.get("MacAddress") or container["config"].get("MacAddress")
    return {name: value for name, value in (("ipv4", address), ("mac_address", mac)) if value}


# The one at index n makes schema n + 2 of schema n + 1.
MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (several_networks,)
SCHEMA_VERSION = len(MIGRATIONS) + 1
