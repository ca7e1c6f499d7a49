"""Subnets and addresses: pure bookkeeping."""

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import Conflict, InvalidParameter
from runtime.network.bridge import BridgeConfig
from runtime.network.ipam import AddressPool, choose_subnet
from runtime.network.sandbox import mac_of

SUBNET = IPv4Network("10.0.0.0/29")
GATEWAY = IPv4Address("10.0.0.1")


def test_the_lowest_free_address_is_handed_out():
    pool = AddressPool(SUBNET, GATEWAY)
    first = pool.allocate()
    assert str(first) == "10.0.0.2"
    assert str(pool.allocate()) == "10.0.0.3"
    pool.release(first)
    assert str(pool.allocate()) == "10.0.0.2"
    assert str(pool.allocate()) == "10.0.0.4"


def test_a_full_pool_says_so_and_a_released_address_comes_round():
    pool = AddressPool(SUBNET, GATEWAY, reserved=[IPv4Address("10.0.0.4")])
    assert [str(pool.allocate()) for _ in range(4)] == ["10.0.0.2", "10.0.0.3", "10.0.0.5", "10.0.0.6"]
    with pytest.raises(Conflict, match=r"no available IPv4 addresses.*10\.0\.0\.0/29"):
        pool.allocate()
    pool.release(IPv4Address("10.0.0.3"))
    assert str(pool.allocate()) == "10.0.0.3"


def test_a_range_narrows_only_what_is_not_asked_for():
    pool = AddressPool(SUBNET, GATEWAY, ip_range=IPv4Network("10.0.0.4/30"))
    assert str(pool.allocate()) == "10.0.0.4"
    assert str(pool.allocate(IPv4Address("10.0.0.2"))) == "10.0.0.2"


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [
        ("10.0.0.1", Conflict),
        ("10.0.0.0", Conflict),
        ("10.0.0.7", Conflict),
        ("10.0.0.2", Conflict),
        ("10.0.0.8", InvalidParameter),
    ],
)
def test_an_address_that_cannot_be_had_is_refused(wanted, kind):
    pool = AddressPool(SUBNET, GATEWAY)
    pool.allocate()
    with pytest.raises(kind, match=wanted):
        pool.allocate(IPv4Address(wanted))


@pytest.mark.parametrize(
    "arguments",
    [{"gateway": IPv4Address("10.0.1.1")}, {"gateway": GATEWAY, "ip_range": IPv4Network("10.0.1.0/24")}],
)
def test_a_pool_must_hold_its_gateway_and_range(arguments):
    with pytest.raises(InvalidParameter, match="outside the subnet"):
        AddressPool(SUBNET, **arguments)


@given(st.lists(st.booleans(), max_size=60))
def test_no_address_is_ever_given_twice(allocate_or_release):
    pool = AddressPool(IPv4Network("10.0.0.0/28"), GATEWAY)
    held = []
    for allocate in allocate_or_release:
        if allocate and len(held) < 13:
            address = pool.allocate()
            assert address not in held
            held.append(address)
        elif held:
            pool.release(held.pop(0))


def test_a_subnet_overlaps_none_in_use():
    assert str(choose_subnet([])) == "172.17.0.0/16"
    in_use = [IPv4Network("172.16.0.0/12"), IPv4Network("192.168.1.0/24")]
    assert str(choose_subnet(in_use)) == "192.168.16.0/20"


def test_no_subnet_left_is_an_error_with_a_remedy():
    with pytest.raises(Conflict, match="name a subnet"):
        choose_subnet([IPv4Network("172.16.0.0/12"), IPv4Network("192.168.0.0/16")])


def test_a_mac_follows_from_its_address():
    assert mac_of(IPv4Address("172.17.0.2")) == "02:42:ac:11:00:02"


@pytest.mark.parametrize("name", ["", "a" * 16, 'b" }', "..", "all", "a/b"])
def test_a_bridge_name_that_would_mean_more_than_a_name_is_refused(name):
    with pytest.raises(InvalidParameter, match="Invalid bridge name"):
        BridgeConfig(name, IPv4Interface("10.0.0.1/24"))
