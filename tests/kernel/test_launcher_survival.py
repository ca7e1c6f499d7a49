"""The launcher among others: engines that come and go, its own death, and what is remembered."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from launched import Lab, lab, shared_lab, wait_for

from runtime.cgroups import open_cgroup, remove_subtree
from runtime.errors import ProcessFault, Unavailable
from runtime.launcher import protocol
from tests.fakes.bundles import make_spec

__all__ = ["lab", "shared_lab"]


@pytest.fixture
def own_lab(tmp_path: Path) -> Iterator[Lab]:
    """A launcher the test may kill."""
    lab = Lab(tmp_path)
    yield lab
    lab.close()


def test_exit_is_told_until_acknowledged(own_lab: Lab) -> None:
    reading, writing = os.pipe()
    box = own_lab.start(make_spec("sh", "-c", "read line; exit 4"), fds={"stdin": reading})
    os.close(reading)
    own_lab.client.close()
    os.close(writing)  # ends the program, with no engine there
    wait_for(box.started.pidfd)
    for _ in range(2):
        with own_lab.launcher.client() as client:
            event = client.next_exit()
            assert (event["id"], event["code"], event["pid"]) == (box.name, 4, box.started.pid)
            [record] = client.list()
            assert record["exited"] is not None
    with own_lab.launcher.client() as client:
        client.ack(box.name)
        assert client.list() == []
        with pytest.raises(ProcessFault):
            client.ack(box.name)


def test_kept_descriptors_come_back(own_lab: Lab) -> None:
    out, out_end = os.pipe()
    in_end, into = os.pipe()
    fds = {"stdin": in_end, "stdout": out_end, "keep.stdin": into, "keep.stdout": out}
    box = own_lab.start(make_spec("cat"), fds=fds)
    for fd in (out, out_end, in_end, into):
        os.close(fd)  # the engine dies
    own_lab.client.close()

    with own_lab.launcher.client() as client:
        again = client.reopen(box.name)
        assert set(again) == {"keep.stdin", "keep.stdout", "pidfd"}
        os.write(again["keep.stdin"], b"still here")
        assert os.read(again["keep.stdout"], 100) == b"still here"
        # Both copies of the writing end must go for the program to see its end.
        client.drop(box.name, "", ["keep.stdin"])
        os.close(again["keep.stdin"])
        assert client.next_exit()["code"] == 0
        os.close(again["pidfd"])
        os.close(again["keep.stdout"])
        again = client.reopen(box.name)
        assert set(again) == {"keep.stdout"}
        os.close(again["keep.stdout"])
        client.ack(box.name)
        with pytest.raises(ProcessFault):
            client.reopen(box.name)


def test_console_comes_back(own_lab: Lab) -> None:
    box = own_lab.start(make_spec("sh", "-c", "read line; echo got $line", terminal=True))
    assert box.started.console is not None
    os.close(box.started.console)
    own_lab.client.close()
    with own_lab.launcher.client() as client:
        fds = client.reopen(box.name)
        os.write(fds["console"], b"it\n")
        assert client.next_exit()["code"] == 0
        assert b"got it" in os.read(fds["console"], 1000)
        protocol.close_all(fds.values())


def test_a_new_engine_replaces_the_old(own_lab: Lab) -> None:
    with own_lab.launcher.client() as client:
        assert client.hello()["pid"] == own_lab.launcher.pid
        with pytest.raises(Unavailable):
            own_lab.client.next_exit()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_containers_outlive_the_launcher(own_lab: Lab, number: signal.Signals) -> None:
    reading, writing = os.pipe()
    out, out_end = os.pipe()
    box = own_lab.start(make_spec("cat"), fds={"stdin": reading, "stdout": out_end})
    os.close(reading)
    os.close(out_end)
    own_lab.launcher.kill(number)
    os.write(writing, b"alive")
    assert os.read(out, 100) == b"alive"
    os.close(writing)
    assert os.read(out, 100) == b""
    os.close(out)
    wait_for(box.started.pidfd)


def test_a_new_launcher_executes_in_an_old_container(own_lab: Lab) -> None:
    box = own_lab.start(make_spec("sleep", "100"))
    own_lab.launcher.kill()
    own_lab.client.close()
    own_lab.launcher = type(own_lab.launcher)(own_lab.launcher.run_dir)
    with own_lab.launcher.client() as client:
        assert client.list() == []
        document = box.bundle / "x.json"
        document.write_text(protocol.encode(make_spec("hostname")["process"]).decode())
        reading, writing = os.pipe()
        started = client.exec(
            box.name, "x", document, bundle=box.bundle, fds={"container": box.started.pidfd, "stdout": writing}
        )
        os.close(writing)
        assert os.read(reading, 100) == b"box\n"
        os.close(reading)
        assert client.next_exit()["code"] == 0
        os.close(started.pidfd)


def test_second_launcher_is_refused(lab: Lab) -> None:
    command = [sys.executable, "-m", "runtime", "launcher", "--run-dir", str(lab.launcher.run_dir)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "another launcher is running" in result.stderr


def test_shutdown_only_without_containers(own_lab: Lab) -> None:
    box = own_lab.start(make_spec("sleep", "100"))
    with pytest.raises(ProcessFault, match="running containers"):
        own_lab.client.shutdown()
    box.kill()
    own_lab.client.next_exit()
    own_lab.client.shutdown()
    own_lab.launcher.kill(0)
    assert not (own_lab.launcher.run_dir / protocol.SOCKET_NAME).exists()


def test_a_long_list_comes_in_pieces(own_lab: Lab) -> None:
    names = set()
    for _ in range(130):
        name, bundle, overlay = own_lab.bundle(make_spec("true"))
        os.close(own_lab.client.run(name, bundle, rootfs=overlay).pidfd)
        names.add(name)
    assert {record["id"] for record in own_lab.client.list()} == names


def test_malformed_requests_harm_nobody(lab: Lab) -> None:
    for request in ({"op": "run"}, {"op": "fly"}, {"op": "ack", "id": []}, {"op": 5}):
        with pytest.raises(ProcessFault):
            lab.client._ask(request)
    assert lab.run(make_spec("true")).code == 0


def test_the_same_id_twice_is_refused(lab: Lab) -> None:
    box = lab.start(make_spec("sleep", "100"))
    with pytest.raises(ProcessFault, match="started already"):
        lab.client.run(box.name, box.bundle)


def test_is_born_into_its_cgroup(lab: Lab) -> None:
    parent = f"/wherry-test-launcher-{os.getpid()}"
    cgroup = open_cgroup(f"{parent}/box")
    cgroup.create({"pids": {"limit": 5}})
    try:
        box = lab.start(make_spec("sleep", "100"), join=cgroup.join_paths())
        assert cgroup.pids() == [box.started.pid]
        # An exec that is not told to join is in the launcher's cgroup: outside of what the namespace shows.
        assert "/.." in lab.exec(box, "cat", "/proc/self/cgroup").out
    finally:
        cgroup.kill()
        cgroup.delete()
        remove_subtree(parent)


def test_network_namespace_by_descriptor(lab: Lab) -> None:
    box = lab.start(make_spec("sleep", "100"))
    netns = os.open(f"/proc/{box.started.pid}/ns/net", os.O_RDONLY)
    other = lab.start(make_spec("sleep", "100"), fds={"netns": netns})
    os.close(netns)
    kinds = {kind: [os.readlink(f"/proc/{b.started.pid}/ns/{kind}") for b in (box, other)] for kind in ("net", "ipc")}
    assert kinds["net"][0] == kinds["net"][1]
    assert kinds["ipc"][0] != kinds["ipc"][1]


def test_pid_namespace_of_another_container(lab: Lab) -> None:
    box = lab.start(make_spec("sleep", "100"))
    spec = make_spec()
    spec["linux"]["namespaces"][0]["path"] = f"/proc/{box.started.pid}/ns/pid"
    result = lab.sh("ps", spec)
    assert "sleep 100" in result.out


def test_starts_are_small(lab: Lab) -> None:
    """15 MB are promised; a container more must not cost the launcher memory."""
    for _ in range(20):
        assert lab.run(make_spec("true")).code == 0
    status = Path(f"/proc/{lab.launcher.pid}/status").read_text()
    [rss] = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")]
    assert rss < 15 * 1024
