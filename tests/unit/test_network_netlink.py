"""The netlink codec, against bytes the kernel's headers define, and reading by an ordinary user."""

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.linux import netlink
from runtime.linux.netlink import NetlinkSocket, Request, VethEnd, attribute, nested, parse_attributes


def test_an_attribute_is_padded_to_four_bytes_and_its_length_is_not():
    assert attribute(3, b"lo\0") == struct.pack("=HH", 7, 3) + b"lo\0\0"


@given(st.dictionaries(st.integers(1, 100), st.binary(max_size=40)))
def test_attributes_survive_the_way_there_and_back(attributes):
    encoded = b"".join(attribute(kind, value) for kind, value in attributes.items())
    assert parse_attributes(encoded) == attributes


def test_nesting_is_flagged_and_the_flag_read_away():
    encoded = nested(18, attribute(1, b"veth"))
    assert struct.unpack_from("=HH", encoded) == (12, 18 | netlink.NLA_F_NESTED)
    assert parse_attributes(parse_attributes(encoded)[18]) == {1: b"veth"}


def test_a_malformed_attribute_is_an_error_and_no_endless_loop():
    with pytest.raises(OSError) as raised:
        parse_attributes(bytes(8))
    assert raised.value.errno == errno.EBADMSG


def test_a_veth_names_both_ends_and_the_namespace_of_the_far_one():
    request = netlink.create_veth(VethEnd("near", master_index=7), VethEnd("far", netns_fd=5))
    attributes = parse_attributes(request.body[16:])
    assert attributes[netlink.IFLA_IFNAME] == b"near\0"
    assert attributes[netlink.IFLA_MASTER] == struct.pack("=I", 7)
    info = parse_attributes(attributes[netlink.IFLA_LINKINFO])
    peer = parse_attributes(info[netlink.IFLA_INFO_DATA])[netlink.VETH_INFO_PEER]
    assert parse_attributes(peer[16:]) == {
        netlink.IFLA_IFNAME: b"far\0",
        netlink.IFLA_NET_NS_FD: struct.pack("=I", 5),
    }


def test_the_loopback_is_there_for_anyone_to_read():
    with NetlinkSocket() as route:
        loopback = route.link("lo")
        assert (loopback.name, loopback.kind) == ("lo", "")
        assert loopback in route.links()


def test_an_absent_link_is_an_os_error_that_names_it():
    with NetlinkSocket() as route, pytest.raises(OSError) as raised:
        route.link("wherryabsent")
    assert (raised.value.errno, raised.value.filename) == (errno.ENODEV, "link wherryabsent")


def test_the_first_of_several_failures_is_raised_with_the_kernels_own_words():
    absurd = Request(netlink.RTM_NEWADDR, b"", 0, "the second")
    with NetlinkSocket() as route, pytest.raises(OSError) as raised:
        route.change(netlink.set_link("wherryabsent", up=True), absurd)
    assert raised.value.filename == "link wherryabsent"
    assert raised.value.errno in (errno.ENODEV, errno.EPERM)


def test_the_socket_is_in_step_again_after_a_failure():
    with NetlinkSocket() as route:
        with pytest.raises(OSError):
            route.link("wherryabsent")
        assert route.link("lo").name == "lo"
