"""Networks through the API: what is made, refused, found, shown and taken away."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.engine.test_containers import create
from tests.harness import RunningEngine


@pytest.fixture(autouse=True)
def _no_networks_left(engine: RunningEngine) -> Iterator[None]:
    yield
    for container in engine.get("/containers/json?all=1"):
        engine.request("DELETE", f"/containers/{container['Id']}?force=1&v=1")
    for network in engine.get('/networks?filters={"type":["custom"]}'):
        assert engine.request("DELETE", f"/networks/{network['Id']}")[0] == 204


def make(engine: RunningEngine, name: str, **body: Any) -> dict[str, Any]:
    id = engine.post("/networks/create", {"Name": name, **body}, expect=201)["Id"]
    return dict(engine.get(f"/networks/{id}"))


def ipam(*configs: dict[str, Any]) -> dict[str, Any]:
    return {"IPAM": {"Config": list(configs)}}


def run(
    engine: RunningEngine, *networks: str, name: str = "", host: dict[str, Any] | None = None, **config: Any
) -> str:
    body = {
        "Image": "busybox",
        "Cmd": ["sleep", "600"],
        "HostConfig": {"NetworkMode": networks[0] if networks else "default", **(host or {})},
        "NetworkingConfig": {"EndpointsConfig": {network: {} for network in networks}},
        **config,
    }
    id = engine.post(f"/containers/create?name={name}", body, expect=201)["Id"]
    engine.post(f"/containers/{id}/start")
    return str(id)


def sh(engine: RunningEngine, container: str, command: str) -> str:
    done = engine.docker("exec", container, "sh", "-c", command)
    return (done.stdout + done.stderr).decode()


def endpoint(engine: RunningEngine, container: str, network: str) -> dict[str, Any]:
    return dict(engine.get(f"/containers/{container}/json")["NetworkSettings"]["Networks"][network])


def links() -> str:
    return subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout


# --- made and shown


def test_a_network_is_made_shown_and_removed(engine: RunningEngine) -> None:
    network = make(engine, "plain", Labels={"color": "red"}, Attachable=True)
    assert (network["Name"], network["Driver"], network["Scope"]) == ("plain", "bridge", "local")
    assert (network["EnableIPv4"], network["EnableIPv6"], network["Internal"]) == (True, False, False)
    assert (network["Attachable"], network["Labels"], network["Containers"]) == (True, {"color": "red"}, {})
    [config] = network["IPAM"]["Config"]
    assert ipaddress.ip_address(config["Gateway"]) == ipaddress.ip_network(config["Subnet"])[1]
    bridge = f"wherry{engine.instance}{network['Id'][:3]}"
    assert bridge in links()
    status, _ = engine.request("DELETE", "/networks/plain")
    assert status == 204
    assert bridge not in links()
    assert engine.message("GET", "/networks/plain") == (404, "network plain not found")


def test_automatic_subnets_overlap_nothing(engine: RunningEngine) -> None:
    subprocess.run(["ip", "link", "add", "netsdummy", "type", "bridge"], check=True)
    try:
        first = ipaddress.ip_network(make(engine, "one")["IPAM"]["Config"][0]["Subnet"])
        engine.request("DELETE", "/networks/one")
        subprocess.run(["ip", "addr", "add", f"{first[5]}/24", "dev", "netsdummy"], check=True)
        subprocess.run(["ip", "link", "set", "netsdummy", "up"], check=True)
        subnets = [make(engine, f"n{number}")["IPAM"]["Config"][0]["Subnet"] for number in range(3)]
        nets = [first, *map(ipaddress.ip_network, subnets)]
        assert not any(a.overlaps(b) for a in nets for b in nets if a is not b)
    finally:
        subprocess.run(["ip", "link", "del", "netsdummy"], check=True)


def test_ipam_as_asked_for(engine: RunningEngine) -> None:
    network = make(
        engine,
        "asked",
        **ipam(
            {
                "Subnet": "10.213.80.0/24",
                "IPRange": "10.213.80.128/25",
                "Gateway": "10.213.80.254",
                "AuxiliaryAddresses": {"router": "10.213.80.129"},
            }
        ),
    )
    assert network["IPAM"]["Config"] == [
        {
            "Subnet": "10.213.80.0/24",
            "IPRange": "10.213.80.128/25",
            "Gateway": "10.213.80.254",
            "AuxiliaryAddresses": {"router": "10.213.80.129"},
        }
    ]
    addresses = [endpoint(engine, run(engine, "asked"), "asked")["IPAddress"] for _ in range(2)]
    assert addresses == ["10.213.80.128", "10.213.80.130"]


def test_an_ipv6_network_has_a_unique_local_subnet(engine: RunningEngine) -> None:
    network = make(engine, "six", EnableIPv6=True)
    subnets = [ipaddress.ip_network(config["Subnet"]) for config in network["IPAM"]["Config"]]
    assert [subnet.version for subnet in subnets] == [4, 6]
    assert subnets[1].prefixlen == 64 and subnets[1].subnet_of(ipaddress.ip_network("fd00::/8"))
    one, two = run(engine, "six", name="one"), run(engine, "six", name="two")
    shown = endpoint(engine, two, "six")
    assert ipaddress.ip_address(shown["GlobalIPv6Address"]) in subnets[1]
    assert shown["IPv6Gateway"] == str(subnets[1][1])
    assert "1 packets received" in sh(engine, one, f"ping -6 -c1 -W2 {shown['GlobalIPv6Address']}")
    assert f"default via {subnets[1][1]} dev eth0" in sh(engine, one, "ip -6 route")
    assert shown["GlobalIPv6Address"] in sh(engine, two, "cat /etc/hosts")


def test_an_ipv6_only_network(engine: RunningEngine) -> None:
    network = make(engine, "six", EnableIPv4=False, EnableIPv6=True)
    assert network["EnableIPv4"] is False
    shown = endpoint(engine, run(engine, "six"), "six")
    assert (shown["IPAddress"], shown["Gateway"]) == ("", "")
    assert shown["GlobalIPv6Address"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"Name": ""}, 400, "name is empty"),
        ({"Name": "bridge"}, 403, "operation is not permitted on predefined bridge network"),
        ({"Name": "x", "Driver": "host"}, 403, 'only one instance of "host" network is allowed'),
        ({"Name": "x", "Driver": "null"}, 403, 'only one instance of "null" network is allowed'),
        ({"Name": "x", "Driver": "weave"}, 404, 'plugin "weave" not found'),
        ({"Name": "x", "Driver": "overlay"}, 503, "This node is not a swarm manager"),
        ({"Name": "x", "EnableIPv4": False}, 400, "IPv4 or IPv6 must be enabled"),
        ({"Name": "x", **ipam({"Subnet": "10.1.0.0"})}, 400, "invalid subnet 10.1.0.0: invalid CIDR block notation"),
        ({"Name": "x", **ipam({"Subnet": "10.1.0.1/16"})}, 400, "invalid subnet 10.1.0.1/16: it should be 10.1.0.0/16"),
        (
            {"Name": "x", **ipam({"Subnet": "10.1.0.0/16", "Gateway": "10.2.0.1"})},
            400,
            "invalid gateway 10.2.0.1: parent subnet 10.1.0.0/16 doesn't contain this address",
        ),
        (
            {"Name": "x", **ipam({"Subnet": "10.1.0.0/16", "IPRange": "10.2.0.0/24"})},
            400,
            "invalid ip-range 10.2.0.0/24: parent subnet 10.1.0.0/16 doesn't contain ip-range",
        ),
        (
            {"Name": "x", **ipam({"Subnet": "10.1.0.0/16"}, {"Subnet": "10.2.0.0/16"})},
            403,
            "bridge driver doesn't support multiple subnets",
        ),
        ({"Name": "x", "Options": {"com.docker.network.bridge.inhibit_ipv4": "true"}}, 501, "inhibit_ipv4"),
        ({"Name": "x", "Options": {"com.docker.network.bridge.enable_icc": "maybe"}}, 400, "enable_icc"),
        ({"Name": "x", "Options": {"com.docker.network.bridge.name": "lo"}}, 409, "interface lo exists already"),
        ({"Name": "x", "Options": {"com.docker.network.driver.mtu": "3"}}, 400, "invalid MTU"),
        ({"Name": "x", "ConfigFrom": {"Network": "nosuch"}}, 404, 'configuration network "nosuch" not found'),
        (
            {"Name": "x", "Options": {"com.docker.network.bridge.gateway_mode_ipv4": "isolated"}},
            400,
            "gateway mode 'isolated' can only be used for an internal network",
        ),
    ],
)
def test_what_cannot_be_made(engine: RunningEngine, body: dict[str, Any], status: int, message: str) -> None:
    before = links()
    found = engine.message("POST", "/networks/create", body)
    assert found[0] == status and message in found[1], found
    assert links() == before


def test_names_and_subnets_are_taken_once(engine: RunningEngine) -> None:
    make(engine, "first", **ipam({"Subnet": "10.213.81.0/24"}))
    assert engine.message("POST", "/networks/create", {"Name": "first"}) == (
        409,
        "network with name first already exists",
    )
    status, message = engine.message(
        "POST", "/networks/create", {"Name": "second", **ipam({"Subnet": "10.213.81.0/25"})}
    )
    assert (status, message) == (403, "invalid pool request: Pool overlaps with other one on this address space")


def test_a_network_made_from_a_configuration(engine: RunningEngine) -> None:
    config = make(engine, "config", ConfigOnly=True, Labels={"a": "b"}, **ipam({"Subnet": "10.213.82.0/24"}))
    assert (config["ConfigOnly"], config["Driver"]) == (True, "null")
    made = make(engine, "made", ConfigFrom={"Network": "config"})
    assert made["IPAM"]["Config"] == [{"Subnet": "10.213.82.0/24", "Gateway": "10.213.82.1"}]
    assert (made["Labels"], made["ConfigFrom"]) == ({"a": "b"}, {"Network": "config"})
    in_use = 'error while removing network: configuration network "config" is in use'
    assert engine.message("DELETE", "/networks/config") == (403, in_use)
    status, message = engine.message(
        "POST", "/networks/create", {"Name": "x", "ConfigFrom": {"Network": "config"}, "Internal": True}
    )
    assert (status, message[:28]) == (403, "user supplied configurations")
    assert engine.request("DELETE", "/networks/made")[0] == 204


def test_a_subnet_of_a_version_that_is_off(engine: RunningEngine) -> None:
    """Docker shows it, and takes an address in it that nobody gets; clients' own tests do so."""
    made = make(engine, "half", **ipam({"Subnet": "2001:db8:389::/64"}))
    assert {"Subnet": "2001:db8:389::/64"} in made["IPAM"]["Config"]
    id = create(engine, "sleep", "60", host={"NetworkMode": "half"})
    settings = {"IPAMConfig": {"IPv6Address": "2001:db8:389::f00d"}}
    engine.post("/networks/half/connect", {"Container": id, "EndpointConfig": settings}, expect=200)
    engine.post(f"/containers/{id}/start")
    shown = engine.get(f"/containers/{id}/json")["NetworkSettings"]["Networks"]["half"]
    assert shown["IPAMConfig"] == settings["IPAMConfig"]
    assert (bool(shown["IPAddress"]), shown["GlobalIPv6Address"]) == (True, "")


def test_lists_and_prunes_by_filters(engine: RunningEngine) -> None:
    make(engine, "alpha", Labels={"team": "a"})
    make(engine, "beta", Labels={"team": "b"}, Internal=True)
    id = run(engine, "beta")

    def names(**filters: list[str]) -> list[str]:
        found = engine.get(f"/networks?filters={quote(json.dumps(filters))}")
        return sorted(network["Name"] for network in found)

    assert names(type=["builtin"]) == ["bridge", "host", "none"]
    assert names(type=["custom"]) == ["alpha", "beta"]
    assert names(dangling=["true"]) == ["alpha"]
    assert names(name=["alp"]) == ["alpha"]
    assert names(label=["team=b"]) == ["beta"]
    assert names(driver=["host"]) == ["host"]
    assert names(scope=["swarm"]) == []
    assert engine.message("GET", '/networks?filters={"what":["x"]}')[0] == 400
    assert engine.post('/networks/prune?filters={"label":["team=z"]}', expect=200) == {"NetworksDeleted": None}
    assert engine.post('/networks/prune?filters={"until":["1h"]}', expect=200) == {"NetworksDeleted": None}
    assert engine.post("/networks/prune", expect=200) == {"NetworksDeleted": ["alpha"]}
    engine.request("DELETE", f"/containers/{id}?force=1")
    assert engine.post("/networks/prune", expect=200) == {"NetworksDeleted": ["beta"]}


def test_a_network_in_use_stays(engine: RunningEngine) -> None:
    network = make(engine, "used")
    id = run(engine, "used", name="web")
    shown = engine.get("/networks/used")["Containers"][id]
    assert shown["Name"] == "web" and shown["IPv4Address"].endswith("/16")
    status, message = engine.message("DELETE", "/networks/used")
    assert status == 403
    assert message == (
        f'error while removing network: network used has active endpoints (name:"web" id:"{shown["EndpointID"][:12]}")'
    )
    assert engine.message("DELETE", "/networks/bridge")[0] == 403
    engine.post(f"/containers/{id}/stop?t=0")
    assert engine.get("/networks/used")["Containers"] == {}
    assert endpoint(engine, id, "used")["NetworkID"] == network["Id"]


def test_events(engine: RunningEngine) -> None:
    since = time.time()
    network = make(engine, "watched")
    id = run(engine, "watched")
    engine.post("/networks/watched/disconnect", {"Container": id}, expect=200)
    engine.request("DELETE", f"/containers/{id}?force=1")
    engine.request("DELETE", "/networks/watched")
    filters = quote(json.dumps({"type": ["network"], "network": [network["Id"]]}))
    _, body = engine.request("GET", f"/events?since={since}&until={time.time()}&filters={filters}")
    events = [json.loads(line) for line in body.splitlines()]
    assert [event["Action"] for event in events] == ["create", "connect", "disconnect", "destroy"]
    assert events[1]["Actor"]["Attributes"] == {"container": id, "name": "watched", "type": "bridge"}


# --- connected and disconnected


def test_connecting_and_disconnecting_a_running_container(engine: RunningEngine) -> None:
    make(engine, "left", **ipam({"Subnet": "10.213.83.0/24"}))
    make(engine, "right", **ipam({"Subnet": "10.213.84.0/24"}))
    id = run(engine, "left", name="walker", host={"PortBindings": {"80/tcp": [{}]}})
    peer = run(engine, "right", name="peer")
    config = {"IPAMConfig": {"IPv4Address": "10.213.84.77"}, "Aliases": ["hiker"], "GwPriority": 5}
    engine.post("/networks/right/connect", {"Container": "walker", "EndpointConfig": config}, expect=200)
    shown = endpoint(engine, id, "right")
    assert (shown["IPAddress"], shown["Aliases"], shown["GwPriority"]) == ("10.213.84.77", ["hiker"], 5)
    assert shown["DNSNames"] == ["walker", "hiker", id[:12]]
    assert "10.213.84.77" in sh(engine, id, "ip addr show eth1")
    assert "default via 10.213.84.1 dev eth1" in sh(engine, id, "ip route")
    assert f"10.213.84.77\t{id[:12]}" in sh(engine, id, "cat /etc/hosts")
    assert "1 packets received" in sh(engine, peer, "ping -c1 -W2 hiker")
    again = engine.message("POST", "/networks/right/connect", {"Container": "walker"})
    assert again == (403, "endpoint with name walker already exists in network right")
    engine.post("/networks/right/disconnect", {"Container": "walker"}, expect=200)
    assert "eth1" not in sh(engine, id, "ip addr")
    assert "default via 10.213.83.1 dev eth0" in sh(engine, id, "ip route")
    assert "10.213.84.77" not in sh(engine, id, "cat /etc/hosts")
    status, message = engine.message("POST", "/networks/right/disconnect", {"Container": "walker"})
    assert (status, message) == (500, f"container {id} is not connected to network right")
    engine.post("/networks/left/disconnect", {"Container": "walker"}, expect=200)
    assert sh(engine, id, "ls /sys/class/net").split() == ["lo"]
    engine.post("/networks/left/connect", {"Container": "walker"}, expect=200)
    assert "default via 10.213.83.1 dev eth0" in sh(engine, id, "ip route")


def test_published_ports_follow_the_gateway(engine: RunningEngine) -> None:
    make(engine, "a-net"), make(engine, "b-net")
    id = run(engine, "a-net", host={"PortBindings": {"80/tcp": [{}]}}, Cmd=["httpd", "-f", "-h", "/etc"])

    sh(engine, id, "until wget -q -O - http://127.0.0.1/hostname; do :; done")

    def fetch() -> bytes:
        port = engine.get(f"/containers/{id}/json")["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/hostname", timeout=5) as answer:
            return bytes(answer.read())

    assert fetch() == f"{id[:12]}\n".encode()
    engine.post("/networks/b-net/connect", {"Container": id}, expect=200)
    engine.post("/networks/a-net/disconnect", {"Container": id}, expect=200)
    assert fetch() == f"{id[:12]}\n".encode()


def test_several_networks_at_create_and_their_settings(engine: RunningEngine) -> None:
    make(engine, "m-net", **ipam({"Subnet": "10.213.85.0/24"}))
    make(engine, "a-net")
    body = {
        "Image": "busybox",
        "Cmd": ["sleep", "600"],
        "HostConfig": {"NetworkMode": "m-net"},
        "NetworkingConfig": {
            "EndpointsConfig": {
                "m-net": {"IPAMConfig": {"IPv4Address": "10.213.85.9"}, "MacAddress": "02:42:AC:00:00:01"},
                "a-net": {
                    "DriverOpts": {
                        "com.docker.network.endpoint.ifname": "lan7",
                        "com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.log_martians=1",
                    }
                },
            }
        },
    }
    id = engine.post("/containers/create", body, expect=201)["Id"]
    shown = engine.get(f"/containers/{id}/json")["NetworkSettings"]["Networks"]
    assert shown["m-net"]["IPAMConfig"] == {"IPv4Address": "10.213.85.9"}
    assert shown["m-net"]["IPAddress"] == ""
    for _ in range(2):
        engine.post(f"/containers/{id}/start")
        assert endpoint(engine, id, "m-net")["IPAddress"] == "10.213.85.9"
        assert endpoint(engine, id, "m-net")["MacAddress"] == "02:42:ac:00:00:01"
        assert sh(engine, id, "ls /sys/class/net").split() == ["eth0", "lan7", "lo"]
        assert sh(engine, id, "cat /proc/sys/net/ipv4/conf/lan7/log_martians") == "1\n"
        assert "dev lan7" in sh(engine, id, "ip route show default")  # a-net comes first by name
        engine.post(f"/containers/{id}/stop?t=0")
    other = engine.post("/containers/create", {**body, "Cmd": ["true"]}, expect=201)["Id"]
    engine.post(f"/containers/{id}/start")
    status, message = engine.message("POST", f"/containers/{other}/start")
    assert "Address already in use" in message, (status, message)


def test_a_stopped_container_is_connected_for_its_next_start(engine: RunningEngine) -> None:
    make(engine, "later")
    id = create(engine, "sleep", "600")
    engine.post("/networks/later/connect", {"Container": id, "EndpointConfig": {"Aliases": ["x"]}}, expect=200)
    assert sorted(engine.get(f"/containers/{id}/json")["NetworkSettings"]["Networks"]) == ["bridge", "later"]
    engine.post(f"/containers/{id}/start")
    assert sh(engine, id, "ls /sys/class/net").split() == ["eth0", "eth1", "lo"]
    assert "nameserver 127.0.0.11" in sh(engine, id, "cat /etc/resolv.conf")
    engine.post("/networks/later/disconnect", {"Container": id}, expect=200)
    assert "127.0.0.11" not in sh(engine, id, "cat /etc/resolv.conf")
    engine.post("/networks/later/connect", {"Container": id}, expect=200)
    assert "nameserver 127.0.0.11" in sh(engine, id, "cat /etc/resolv.conf")
    engine.post("/networks/bridge/disconnect", {"Container": id}, expect=200)
    engine.post(f"/containers/{id}/stop?t=0")
    engine.post("/networks/later/disconnect", {"Container": id}, expect=200)
    assert engine.get(f"/containers/{id}/json")["NetworkSettings"]["Networks"] == {}
    engine.post(f"/containers/{id}/start")
    assert sh(engine, id, "ls /sys/class/net").split() == ["lo"]


def test_networks_that_do_not_go_together(engine: RunningEngine) -> None:
    make(engine, "own")
    on_host, on_none = run(engine, host={"NetworkMode": "host"}), run(engine, host={"NetworkMode": "none"})
    on_bridge = run(engine)
    for container, network, wanted in (
        (on_host, "own", "container sharing network namespace with another container or host cannot be connected"),
        (on_none, "own", "container cannot be connected to multiple networks with one of the networks in private"),
        (on_bridge, "none", "container cannot be connected to multiple networks with one of the networks in private"),
        (on_bridge, "host", "container cannot be disconnected from host network or connected to host network"),
        (on_bridge, "nosuch", "network nosuch not found"),
        ("nosuch", "own", "No such container: nosuch"),
    ):
        status, message = engine.message("POST", f"/networks/{network}/connect", {"Container": container})
        assert status in (400, 404) and message.startswith(wanted), message
    status, message = engine.message("POST", "/networks/host/disconnect", {"Container": on_host})
    assert (status, message[:45]) == (400, "container cannot be disconnected from host ne")


@pytest.mark.parametrize(
    ("network", "settings", "message"),
    [
        ("bridge", {"IPAMConfig": {"IPv4Address": "172.17.0.99"}}, "supported on user defined networks only"),
        ("bridge", {"Aliases": ["x"]}, "network-scoped alias is supported only for containers in user defined"),
        ("chosen", {"IPAMConfig": {"IPv4Address": "172.30.0.99"}}, "only when connecting to networks with user"),
        ("asked", {"IPAMConfig": {"IPv4Address": "10.9.9.9"}}, "no configured subnet contains IP address 10.9.9.9"),
        ("asked", {"IPAMConfig": {"IPv4Address": "what"}}, "invalid IPv4 address: what"),
        ("asked", {"MacAddress": "zz"}, "invalid MAC address"),
    ],
)
def test_settings_that_are_refused(engine: RunningEngine, network: str, settings: dict[str, Any], message: str) -> None:
    make(engine, "chosen")
    make(engine, "asked", **ipam({"Subnet": "10.213.86.0/24"}))
    id = run(engine, "host") if network == "nosuch" else run(engine, "asked" if network != "asked" else "chosen")
    body = {"Container": id, "EndpointConfig": settings}
    status, found = engine.message("POST", f"/networks/{network}/connect", body)
    assert status == 400 and message in found, found
    assert sh(engine, id, "ls /sys/class/net").split() == ["eth0", "lo"]


def test_a_network_that_is_not_there_fails_the_start(engine: RunningEngine) -> None:
    id = create(engine, "true", host={"NetworkMode": "latecomer"})
    status, message = engine.message("POST", f"/containers/{id}/start")
    assert (status, message) == (404, "failed to set up container networking: network latecomer not found")
    make(engine, "latecomer")
    engine.post(f"/containers/{id}/start")
    assert engine.post(f"/containers/{id}/wait", expect=200)["StatusCode"] == 0


# --- packets


def test_isolation_and_internal_networks(engine: RunningEngine) -> None:
    make(engine, "open"), make(engine, "other"), make(engine, "inside", Internal=True)
    make(engine, "hermits", Options={"com.docker.network.bridge.enable_icc": "false"})
    one, two = run(engine, "open", name="one"), run(engine, "open", name="two")
    stranger = run(engine, "other")
    inner, inner2 = run(engine, "inside", name="inner"), run(engine, "inside", name="inner2")
    hermit, hermit2 = run(engine, "hermits", name="hermit"), run(engine, "hermits", name="hermit2")

    def reaches(source: str, container: str, network: str) -> bool:
        address = endpoint(engine, container, network)["IPAddress"]
        return "1 packets received" in sh(engine, source, f"ping -c1 -W1 {address}")

    assert reaches(one, two, "open")
    assert not reaches(stranger, one, "open")
    assert reaches(inner, inner2, "inside")
    assert not reaches(inner, one, "open")
    assert not reaches(hermit, hermit2, "hermits")
    assert "default" not in sh(engine, inner, "ip route")
    assert endpoint(engine, inner, "inside")["Gateway"] == ""
    engine.post("/networks/open/connect", {"Container": inner}, expect=200)
    assert reaches(inner, one, "open")


def test_the_bridge_gets_what_options_say(engine: RunningEngine) -> None:
    options = {
        "com.docker.network.bridge.name": "netsown0",
        "com.docker.network.driver.mtu": "1300",
        "com.docker.network.container_iface_prefix": "ens",
        "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1",
    }
    network = make(engine, "own", Options=options)
    assert network["Options"] == options
    id = run(engine, "own", host={"PortBindings": {"80/tcp": [{}]}})
    assert "mtu 1300" in sh(engine, id, "ip link show ens0")
    assert "netsown0" in links()
    assert engine.get(f"/containers/{id}/json")["NetworkSettings"]["Ports"]["80/tcp"][0]["HostIp"] == "127.0.0.1"


def test_sharing_another_containers_network(engine: RunningEngine) -> None:
    make(engine, "shared")
    donor = run(engine, "shared", name="donor")
    guest = run(engine, host={"NetworkMode": "container:donor"})
    assert engine.get(f"/containers/{guest}/json")["HostConfig"]["NetworkMode"] == f"container:{donor}"
    assert engine.get(f"/containers/{guest}/json")["NetworkSettings"]["Networks"] == {}
    for command in ("hostname", "cat /etc/hosts", "cat /etc/resolv.conf", "readlink /proc/self/ns/net"):
        assert sh(engine, guest, command) == sh(engine, donor, command) != ""
    status, message = engine.message("POST", "/networks/bridge/connect", {"Container": guest})
    assert status == 400 and message.startswith("container sharing network namespace with another container")
    engine.post(f"/containers/{donor}/stop?t=0")
    assert sh(engine, guest, "ls /sys/class/net").split() == ["lo"], "its address may be another's now"
    engine.post(f"/containers/{guest}/stop?t=0")
    assert engine.message("POST", f"/containers/{guest}/start") == (
        409,
        f"cannot join network of a non running container: {donor}",
    )


@pytest.mark.parametrize(
    ("config", "host", "message"),
    [
        ({}, {"PortBindings": {"80/tcp": [{}]}}, "port publishing and the container type network mode"),
        ({"Hostname": "x"}, {}, "hostname and the network mode"),
        ({}, {"Dns": ["1.1.1.1"]}, "dns and the network mode"),
        ({}, {"ExtraHosts": ["a:1.1.1.1"]}, "custom host-to-IP mapping and the network mode"),
        ({"MacAddress": "02:42:ac:11:00:09"}, {}, "mac-address and the network mode"),
        ({"ExposedPorts": {"80/tcp": {}}}, {}, "port exposing and the container type network mode"),
    ],
)
def test_what_a_shared_network_cannot_be_given(
    engine: RunningEngine, config: dict[str, Any], host: dict[str, Any], message: str
) -> None:
    id = create(engine, "true")
    body = {"Image": "busybox", "HostConfig": {"NetworkMode": f"container:{id}", **host}, **config}
    assert engine.message("POST", "/containers/create", body) == (400, f"conflicting options: {message}")


def test_a_macvlan_on_an_interface_of_the_host(engine: RunningEngine) -> None:
    subprocess.run(["ip", "link", "add", "netslan0", "type", "veth", "peer", "name", "netslan1"], check=True)
    try:
        for name in ("netslan0", "netslan1"):
            subprocess.run(["ip", "link", "set", name, "up"], check=True)
        network = make(
            engine, "lan", Driver="macvlan", Options={"parent": "netslan0"}, **ipam({"Subnet": "10.213.87.0/24"})
        )
        assert network["IPAM"]["Config"][0]["Gateway"] == "10.213.87.1"
        one, two = run(engine, "lan", name="one"), run(engine, "lan", name="two")
        address = endpoint(engine, two, "lan")["IPAddress"]
        assert "1 packets received" in sh(engine, one, f"ping -c1 -W2 {address}")
        assert "default via 10.213.87.1 dev eth0" in sh(engine, one, "ip route")
        assert endpoint(engine, one, "lan")["MacAddress"] in sh(engine, one, "ip link show eth0")
        for id in (one, two):
            engine.request("DELETE", f"/containers/{id}?force=1")
        assert engine.request("DELETE", "/networks/lan")[0] == 204
        assert "netslan0" in links(), "what Wherry did not make stays"
        status, message = engine.message(
            "POST", "/networks/create", {"Name": "x", "Driver": "macvlan", "Options": {"parent": "nosuch0"}}
        )
        assert (status, message[:34]) == (400, "invalid subinterface vlan name nos")
    finally:
        subprocess.run(["ip", "link", "del", "netslan0"], check=True)


def test_published_ports_by_gateway_mode_and_version(engine: RunningEngine) -> None:
    """Routed: at the container's own address only; NAT: translated for both IP versions; all gone at the end."""

    def rules(family: str) -> str:
        command = ["nft", "list", "table", family, f"wherry_{engine.instance}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    make(
        engine,
        "routed",
        Options={"com.docker.network.bridge.gateway_mode_ipv4": "routed"},
        **ipam({"Subnet": "10.213.88.0/24"}),
    )
    make(engine, "six", EnableIPv6=True)
    routed = run(engine, "routed", host={"PortBindings": {"80/tcp": [{}]}})
    assert "10.213.88.2 . tcp . 80" in rules("ip")
    six = run(engine, "six", host={"PortBindings": {"80/tcp": [{}]}})
    shown = endpoint(engine, six, "six")
    assert f"{shown['IPAddress']} . 80" in rules("ip")
    assert f"{shown['GlobalIPv6Address']} . 80" in rules("ip6")
    for id in (routed, six):
        engine.post(f"/containers/{id}/stop?t=0")
    assert "10.213.88.2" not in rules("ip") and shown["IPAddress"] not in rules("ip")
    assert shown["GlobalIPv6Address"] not in rules("ip6")
