"""The name server's pure parts: messages, names, and what a container is answered."""

from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.network.dns.host_servers import HostServers, Upstream, asked_servers, parse_host_servers
from runtime.network.dns.message import (
    HEADER_SIZE_BYTES,
    NOERROR,
    NXDOMAIN,
    Answer,
    FormatError,
    Query,
    build_format_error,
    build_reply,
    parse_query,
    reply_code,
    truncated,
)
from runtime.network.dns.names import NameTable
from runtime.network.dns.view import TTL_S, NetworkView, View, answer_locally
from tests.fakes.dns import AAAA, PTR, A, answer_to, query, read_reply

LABELS = st.text("abcXYZ019-_", min_size=1, max_size=63)
NAMES = st.lists(LABELS, min_size=1, max_size=3).map(".".join)
MX = 15


@given(NAMES, st.sampled_from([A, AAAA, PTR, MX]), st.integers(0, 65535), st.sampled_from([0, 100, 1232, 65535]))
def test_a_query_is_read_as_it_was_written(name, type, id, udp_size):
    read = parse_query(query(name, type, id, udp_size))
    assert (read.text, read.type, read.id) == (name.lower(), type, id)
    assert read.udp_size_bytes == max(udp_size, 512)
    assert read.has_edns == bool(udp_size)


def survives(data: bytes) -> None:
    """Any bytes are a query or a FormatError, and the answer to either is one that clients can read."""
    try:
        read = parse_query(data)
    except FormatError:
        refusal = build_format_error(data)
        assert refusal is None or read_reply(refusal).rcode == 1
        return
    assert len(build_reply(read, answers=[Answer(IPv4Address("10.0.0.1"))] * 100, limit_bytes=512)) <= 512
    with pytest.raises(FormatError):
        reply_code(data, read, read.id)


@given(st.binary(max_size=600))
def test_noise_does_no_harm(data):
    survives(data)


@given(NAMES, st.data())
def test_damaged_queries_do_no_harm(name, data):
    whole = bytearray(query(name, udp_size=1232))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    survives(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


@pytest.mark.parametrize(
    "data",
    [
        query("web")[:-1],
        query("web")[:HEADER_SIZE_BYTES],
        query("web") + b"\0" * 5000,
        query("web")[:HEADER_SIZE_BYTES] + b"\xc0\x0c\0\1\0\1",  # a name that points to itself
        query(".".join(["a" * 60] * 5)),
        b"\0\7\x01\0\0\1\xff\xff\xff\xff\xff\xff" + query("web")[HEADER_SIZE_BYTES:],  # 200 000 records promised
        b"\0\7\x81\0" + query("web")[4:],  # a reply
    ],
)
def test_hostile_queries_are_refused(data):
    with pytest.raises(FormatError):
        parse_query(data)


@given(NAMES, st.lists(st.ip_addresses(), max_size=200), st.integers(512, 4096))
def test_replies_hold_what_fits_and_say_when_it_does_not(name, addresses, limit):
    data = build_reply(parse_query(query(name)), answers=map(Answer, addresses), ttl_s=TTL_S, limit_bytes=limit)
    reply = read_reply(data)
    assert len(data) <= limit
    assert (reply.question, reply.id, reply.rcode) == (name, 7, NOERROR)
    assert reply.answers == [str(address) for address in addresses][: len(reply.answers)]
    assert reply.truncated == (len(reply.answers) < len(addresses))


def test_a_reply_must_be_to_the_query_that_was_sent():
    asked = parse_query(query("example.org", id=9))
    assert reply_code(answer_to(query("EXAMPLE.org", id=9), "192.0.2.1"), asked, 9) == NOERROR
    for forged in (
        answer_to(query("example.org", id=10), "192.0.2.1"),
        answer_to(query("example.net", id=9), "192.0.2.1"),
        answer_to(query("example.org", AAAA, id=9), "192.0.2.1"),
    ):
        with pytest.raises(FormatError):
            reply_code(forged, asked, 9)


def test_a_long_reply_is_cut_to_its_question():
    asked = parse_query(query("example.org", id=9))
    reply = read_reply(truncated(answer_to(query("example.org"), *["192.0.2.1"] * 100), asked))
    assert (reply.id, reply.truncated, reply.question, reply.answers) == (9, True, "example.org", [])


# --- what a container is answered

FRONT, BACK = "network-1", "network-2"
GATEWAY = IPv4Address("10.1.0.1")


@pytest.fixture
def table():
    names = NameTable()
    names.add(FRONT, "web", ["web", "aaaaaaaaaaaa", "www"], [ip_address("10.1.0.2")])
    names.add(FRONT, "web2", ["web2", "www"], [ip_address("10.1.0.3"), ip_address("fd00::3")])
    names.add(BACK, "db", ["db.internal"], [ip_address("10.2.0.2")])
    return names


def view(*networks: str, links: dict[str, str] | None = None, internal: bool = False, ndots: bool = False) -> View:
    shown = {FRONT: "front", BACK: "back.end"}
    host = () if internal else (GATEWAY,)
    known = tuple(NetworkView(one, shown[one], links or {}) for one in networks)
    return View(known, not internal, ndots_set=ndots, host=host, gateway=host)


def asked(name: str, type: int = A) -> Query:
    return parse_query(query(name, type))


def found(local) -> list[str] | None:
    return None if local is None else sorted(str(answer.data) for answer in local.answers)


@pytest.mark.parametrize(
    ("name", "type", "networks", "expected"),
    [
        ("web", A, [FRONT], ["10.1.0.2"]),
        ("WEB", A, [FRONT], ["10.1.0.2"]),
        ("aaaaaaaaaaaa", A, [FRONT], ["10.1.0.2"]),
        ("www", A, [FRONT], ["10.1.0.2", "10.1.0.3"]),
        ("www", AAAA, [FRONT], ["fd00::3"]),
        ("web", AAAA, [FRONT], []),  # a name without such an address: no error, nothing
        ("web", MX, [FRONT], []),
        ("web.front", A, [FRONT], ["10.1.0.2"]),
        ("web.back.end", A, [FRONT, BACK], None),
        ("db.internal", A, [FRONT], None),
        ("db.internal", A, [FRONT, BACK], ["10.2.0.2"]),
        ("db.internal.back.end", A, [BACK], ["10.2.0.2"]),
        ("other", A, [FRONT], None),
        ("host.docker.internal", A, [FRONT], ["10.1.0.1"]),
        ("host.docker.internal", AAAA, [FRONT], []),
        ("gateway.docker.internal", A, [FRONT], ["10.1.0.1"]),
        ("2.0.1.10.in-addr.arpa", PTR, [FRONT], ["web.front"]),
        ("2.0.2.10.in-addr.arpa", PTR, [FRONT, BACK], ["db.internal.back.end"]),
        ("2.0.2.10.in-addr.arpa", PTR, [FRONT], None),
        ("3." + "0." * 27 + "0.0.d.f.ip6.arpa", PTR, [FRONT], ["web2.front"]),
        ("x.in-addr.arpa", PTR, [FRONT], None),
    ],
)
def test_a_container_knows_the_names_on_its_networks(table, name, type, networks, expected):
    assert found(answer_locally(asked(name, type), view(*networks), table)) == expected


def test_links_are_names_for_one_container_only(table):
    linked = view(FRONT, links={"server": "web", "gone": "nobody", "web2": "web"})
    assert found(answer_locally(asked("server"), linked, table)) == ["10.1.0.2"]
    assert found(answer_locally(asked("server.front"), linked, table)) == ["10.1.0.2"]
    assert found(answer_locally(asked("web2"), linked, table)) == ["10.1.0.2"]  # before others' names
    assert answer_locally(asked("gone"), linked, table) is None
    assert answer_locally(asked("server"), view(FRONT), table) is None


def test_an_internal_network_has_no_way_out(table):
    internal = view(FRONT, internal=True)
    assert found(answer_locally(asked("web"), internal, table)) == ["10.1.0.2"]
    local = answer_locally(asked("9.9.9.9.in-addr.arpa", PTR), internal, table)
    assert local is not None
    assert local.rcode == NXDOMAIN
    assert answer_locally(asked("host.docker.internal"), internal, table) is None


def test_with_ndots_a_single_label_is_not_asked_elsewhere(table):
    assert found(answer_locally(asked("other"), view(FRONT, ndots=True), table)) == []
    assert answer_locally(asked("other.org"), view(FRONT, ndots=True), table) is None


def test_namesakes_come_in_changing_order(table):
    orders = {
        tuple(str(answer.data) for answer in local.answers)
        for _ in range(100)
        if (local := answer_locally(asked("www"), view(FRONT), table))
    }
    assert len(orders) == 2


def test_who_has_left_is_no_longer_known(table):
    table.remove(FRONT, "web")
    table.remove(FRONT, "web")
    assert found(answer_locally(asked("www"), view(FRONT), table)) == ["10.1.0.3"]
    assert answer_locally(asked("web"), view(FRONT), table) is None
    assert answer_locally(asked("2.0.1.10.in-addr.arpa", PTR), view(FRONT), table) is None


def test_names_too_long_for_dns_do_not_break_an_answer(table):
    table.add(FRONT, "long", ["x" * 300], [ip_address("10.1.0.9")])
    local = answer_locally(asked("9.0.1.10.in-addr.arpa", PTR), view(FRONT), table)
    assert local is not None
    [name] = read_reply(build_reply(asked("9.0.1.10.in-addr.arpa", PTR), answers=local.answers)).answers
    assert name == "x" * 63 + ".front"


# --- the host's servers

RESOLV_CONF = """\
# a comment
search example.org
nameserver 127.0.0.53
nameserver 192.0.2.53
nameserver nonsense
nameserver fe80::1%eth0
nameserver 192.0.2.54
"""


def test_the_hosts_servers_are_read_from_resolv_conf():
    assert parse_host_servers(RESOLV_CONF) == (
        Upstream("127.0.0.53", from_host=True),
        Upstream("192.0.2.53", from_host=False),
        Upstream("fe80::1%eth0", from_host=True),
    )
    assert asked_servers(("127.0.0.1", "2001:db8::1")) == (
        Upstream("127.0.0.1", from_host=False),
        Upstream("2001:db8::1", from_host=True),
    )


def test_a_changed_resolv_conf_is_followed(tmp_path):
    path = tmp_path / "resolv.conf"
    servers = HostServers(path)
    assert servers.current() == ()
    for address in ("192.0.2.1", "192.0.2.2"):
        (tmp_path / "new").write_text(f"nameserver {address}\n")
        (tmp_path / "new").replace(path)
        assert servers.current() == (Upstream(address, from_host=False),)
    path.unlink()
    assert servers.current() == ()
