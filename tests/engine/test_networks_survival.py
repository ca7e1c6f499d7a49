"""Networks outlive the engine, and what was taken from the kernel by hand is put back."""

from __future__ import annotations

import subprocess

from tests.engine.conftest import NewEngine
from tests.engine.test_networks import endpoint, ipam, links, make, run, sh
from tests.harness import RunningEngine


def bridge_of(engine: RunningEngine, network: str) -> str:
    return f"wherry{engine.instance}{engine.get(f'/networks/{network}')['Id'][:3]}"


def test_containers_on_several_networks_outlive_the_engine(new_engine: NewEngine) -> None:
    engine = new_engine()
    make(engine, "left", EnableIPv6=True, **ipam({"Subnet": "10.213.90.0/24"}))
    make(engine, "right", **ipam({"Subnet": "10.213.91.0/24"}))
    one = run(engine, "left", name="one", host={"PortBindings": {"80/tcp": [{}]}})
    two = run(engine, "right", name="two")
    guest = run(engine, host={"NetworkMode": "container:one"})
    engine.post("/networks/right/connect", {"Container": "one"}, expect=200)
    before = engine.get(f"/containers/{one}/json")["NetworkSettings"]
    left = bridge_of(engine, "left")
    engine.kill()
    subprocess.run(["ip", "link", "del", left], check=True)
    engine.restart()
    assert engine.get(f"/containers/{one}/json")["NetworkSettings"] == before
    assert left in links(), "made again"
    three = run(engine, "left", name="three")
    assert endpoint(engine, three, "left")["IPAddress"] == "10.213.90.3", "the second address was kept"
    for target in ("one", endpoint(engine, one, "left")["GlobalIPv6Address"]):
        assert "1 packets received" in sh(engine, three, f"ping -c1 -W5 {target}"), target
    assert "1 packets received" in sh(engine, two, "ping -c1 -W5 one")
    assert "1 packets received" in sh(engine, one, "ping -c1 -W5 two")
    status, message = engine.message("DELETE", "/networks/right")
    assert status == 403 and 'name:"one"' in message
    engine.post("/networks/right/disconnect", {"Container": "one"}, expect=200)
    assert sorted(sh(engine, guest, "ls /sys/class/net").split()) == ["eth0", "lo"]
    engine.post(f"/containers/{one}/stop?t=0")
    assert sh(engine, guest, "ls /sys/class/net").split() == ["lo"]


def test_a_bridge_taken_away_is_made_again_for_the_next_container(new_engine: NewEngine) -> None:
    engine = new_engine()
    make(engine, "net")
    subprocess.run(["ip", "link", "del", bridge_of(engine, "net")], check=True)
    id = run(engine, "net")
    gateway = endpoint(engine, id, "net")["Gateway"]
    assert "1 packets received" in sh(engine, id, f"ping -c1 -W2 {gateway}")
    engine.kill()  # `new_engine` shuts it down and looks for leftovers
