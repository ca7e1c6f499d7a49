"""Other firewalls on this host that drop what our bridges forward.

nftables asks every table, and a drop anywhere is final: no rule of ours can overrule it, so people must be told.
iptables shows up here, too, as long as it is iptables-nft, the default since Debian 10 and Fedora 32.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.linux.nftables import Nftables
from runtime.network.faults import kernel_faults_explained

_FAMILIES = ("ip", "inet")
_OWN_TABLES = "wherry"
_ANY_BRIDGE = "wherry"  # what the names of all our bridges begin with

# By whom, how its table is known, and how it is told to let a bridge's packets through.
_REMEDIES = {
    "ufw": 'for way in in out; do sudo ufw route allow "$way" on {bridge}; done',
    "docker": "sudo iptables -I DOCKER-USER -i {any}+ -j ACCEPT; sudo iptables -I DOCKER-USER -o {any}+ -j ACCEPT",
    "firewalld": "sudo firewall-cmd --permanent --zone=trusted --add-interface={any}+; sudo firewall-cmd --reload",
    "": 'sudo nft insert rule {chain} iifname "{any}*" accept; sudo nft insert rule {chain} oifname "{any}*" accept',
}


@dataclass(frozen=True, slots=True)
class ForwardBlock:
    """A chain that drops forwarded packets it was not told to accept; `maker` is a key of `_REMEDIES`."""

    family: str
    table: str
    chain: str
    maker: str
    bridges: tuple[str, ...]

    def __str__(self) -> str:
        remedy = _REMEDIES[self.maker].format(
            any=_ANY_BRIDGE, bridge=self.bridges[0], chain=f"{self.family} {self.table} {self.chain}"
        )
        return (
            f"The chain {self.chain} of the firewall table {self.family} {self.table} drops packets that "
            f"{', '.join(self.bridges)} forwards: containers do not reach the outside, nor it their published ports. "
            f"Remedy: {remedy}"
        )


def forward_blocks(bridges: Sequence[str]) -> list[ForwardBlock]:
    """What stands in the way of these bridges. Raises SystemFault, NotSupported or PermissionDenied."""
    with kernel_faults_explained("read the firewall's rules"), Nftables(json=True) as nftables:
        found = []
        for chain in _forward_chains(_objects(nftables.run("list chains"), "chain")):
            listed = nftables.run(f"list table {chain['family']} {chain['table']}")
            if block := find_block(chain, json.loads(listed)["nftables"], bridges):
                found.append(block)
        return found


def _forward_chains(chains: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for chain in chains:
        forward = chain.get("hook") == "forward" and chain.get("type") == "filter"
        if forward and chain["family"] in _FAMILIES and not chain["table"].startswith(_OWN_TABLES):
            yield chain


def find_block(chain: dict[str, Any], table: Sequence[dict[str, Any]], bridges: Sequence[str]) -> ForwardBlock | None:
    """`chain` is a base chain, `table` the objects of its whole table, as nft's JSON has them (libnftables-json(5)).

    Rules are not followed: a bridge that is mentioned at all is one that somebody has seen to.
    """
    own_rules = [one["rule"]["expr"] for one in table if "rule" in one and one["rule"]["chain"] == chain["name"]]
    outcomes = [verdict for rule in own_rules if (verdict := _unconditional(rule))]
    if outcomes[:1] == ["accept"] or (not outcomes and chain.get("policy") != "drop"):
        return None
    mentioned = set(_strings(list(table)))
    affected = tuple(bridge for bridge in bridges if not any(_names(text, bridge) for text in mentioned))
    if not affected:
        return None
    chains = {one["chain"]["name"] for one in table if "chain" in one}
    return ForwardBlock(chain["family"], chain["table"], chain["name"], _maker(chain["table"], chains), affected)


def _unconditional(rule: Sequence[dict[str, Any]]) -> str:
    """The verdict of a rule that every packet meets, "" if it is not one of those."""
    *others, last = rule or [{}]
    if any(set(one) - {"counter", "log", "limit"} for one in others):
        return ""
    verdict = next(iter(last), "")
    return "drop" if verdict in ("drop", "reject") else verdict if verdict == "accept" else ""


def _maker(table: str, chains: set[str]) -> str:
    if any(name.startswith("ufw-") for name in chains):
        return "ufw"
    if "DOCKER-USER" in chains:
        return "docker"
    return "firewalld" if table == "firewalld" else ""


def _names(text: str, bridge: str) -> bool:
    return text == bridge or (text.endswith("*") and len(text) > 1 and bridge.startswith(text[:-1]))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)


def _objects(listing: str, kind: str) -> list[dict[str, Any]]:
    return [one[kind] for one in json.loads(listing)["nftables"] if kind in one]
