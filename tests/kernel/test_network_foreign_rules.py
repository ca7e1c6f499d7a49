"""Other firewalls, as this host's own nft(8) makes them."""

import pytest
from network_lab import BRIDGE, as_a_host_of_its_own, lab

from runtime.linux.nftables import Nftables
from runtime.network.foreign_rules import forward_blocks

OURS = BRIDGE.name


def base(policy: str, *rules: str, hook: str = "forward", name: str = "gate") -> str:
    return chain(name, f"type filter hook {hook} priority 0; policy {policy}", *rules)


def chain(name: str, *rules: str) -> str:
    return f"chain {name} {{\n" + "\n".join(rules) + "\n}"


def table(name: str, *contents: str) -> str:
    return f"table {name} {{\n" + "\n".join(contents) + "\n}"


def ufw(*rules: str) -> str:
    return table("ip filter", chain("ufw-user", *rules), base("drop", "jump ufw-user", name="FORWARD"))


def named(block) -> tuple[str, str, str, str]:
    return block.family, block.table, block.chain, block.maker


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (table("ip wall", base("drop")), [("ip", "wall", "gate", "")]),
        (table("inet wall", base("accept", "counter drop")), [("inet", "wall", "gate", "")]),
        (ufw(), [("ip", "filter", "FORWARD", "ufw")]),
        (
            table("ip filter", chain("DOCKER-USER"), base("drop", name="FORWARD")),
            [("ip", "filter", "FORWARD", "docker")],
        ),
        (
            table("inet firewalld", base("accept", "ct state established accept", "reject", name="filter_FORWARD")),
            [("inet", "firewalld", "filter_FORWARD", "firewalld")],
        ),
        # No harm: they accept, or look at others, or have been told of our bridge.
        (table("ip wall", base("accept", "iifname eth0 drop")), []),
        (table("ip wall", base("drop", "accept")), []),
        (table("ip wall", base("drop", hook="input")), []),
        (table("ip6 wall", base("drop")), []),
        (ufw(f"iifname {OURS} accept", f"oifname {OURS} accept"), []),
        (table("ip wall", base("drop", 'iifname "wherry*" accept')), []),
        (table("ip wall", f"set told {{ type ifname; elements = {{ {OURS} }}; }}", base("drop")), []),
    ],
)
@as_a_host_of_its_own
def test_chains_that_drop_what_our_bridges_forward_are_named(rules, expected):
    with lab(), Nftables() as nftables:
        assert forward_blocks([OURS]) == []
        nftables.run(rules)
        assert [named(block) for block in forward_blocks([OURS])] == expected


@as_a_host_of_its_own
def test_the_remedy_for_a_plain_chain_works():
    with lab(), Nftables() as nftables:
        nftables.run(table("ip wall", base("drop")))
        [block] = forward_blocks([OURS, "wherryother"])
        assert "chain gate of the firewall table ip wall" in str(block)
        for command in str(block).partition("Remedy: ")[2].split("; "):
            nftables.run(command.removeprefix("sudo nft "))
        assert forward_blocks([OURS, "wherryother"]) == []
