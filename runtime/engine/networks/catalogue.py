"""The networks of one engine: durable, found by name or id."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator

from runtime.engine.networks.model import BRIDGE, PREDEFINED, Network, Subnet
from runtime.engine.settings import EngineSettings
from runtime.engine.store import Store
from runtime.errors import InvalidParameter, NotFound
from runtime.network.ipam import choose_subnet, host_networks


class Catalogue:
    """Reads what the store has, and completes it with the predefined networks."""

    def __init__(self, settings: EngineSettings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._networks: dict[str, Network] = store.all("network", Network.from_document)
        for name, driver in PREDEFINED.items():
            if not any(network.name == name for network in self):
                self.add(self._predefined(name, driver))
        self.default = self.find("bridge")

    def _predefined(self, name: str, driver: str) -> Network:
        if driver != BRIDGE:
            return Network(secrets.token_hex(32), name, driver, time.time_ns())
        subnet = choose_subnet(host_networks())
        interface = self._settings.bridge_name
        options = {
            "com.docker.network.bridge.default_bridge": "true",
            "com.docker.network.bridge.enable_icc": "true",
            "com.docker.network.bridge.enable_ip_masquerade": "true",
            "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",
            "com.docker.network.bridge.name": interface,
            "com.docker.network.driver.mtu": "1500",
        }
        subnets = (Subnet(subnet, subnet[1], chosen=True),)
        return Network(secrets.token_hex(32), name, driver, time.time_ns(), subnets, interface, options=options)

    def __iter__(self) -> Iterator[Network]:
        return iter(list(self._networks.values()))

    def get(self, id: str) -> Network | None:
        return self._networks.get(id)

    def find(self, name: str) -> Network:
        """By id, name, or the beginning of an id; raises NotFound, InvalidParameter when several match."""
        if network := self._networks.get(name):
            return network
        for network in self._networks.values():
            if name == network.name:
                return network
        matches = [network for network in self._networks.values() if name and network.id.startswith(name)]
        if len(matches) > 1:
            raise InvalidParameter(f"network {name} is ambiguous ({len(matches)} matches found on ID prefix)")
        if not matches:
            raise NotFound(f"network {name} not found")
        return matches[0]

    def new_id(self) -> tuple[str, str]:
        """An id, and a bridge name made of the engine's mark and the id, both nobody's (IFNAMSIZ allows 15)."""
        taken = {network.interface for network in self._networks.values()}
        while True:
            id = secrets.token_hex(32)
            interface = self._settings.bridge_name + id[:3]
            if interface not in taken:
                return id, interface

    def add(self, network: Network) -> None:
        self._store.put("network", network.id, network.to_document())
        self._networks[network.id] = network

    def remove(self, network: Network) -> None:
        self._networks.pop(network.id, None)
        self._store.note("network", network.id, None)
