"""Inits that stand ready: that they are used, that containers from them are as any others, that they never stay."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import ProcessFault
from runtime.linux import mounts
from tests.fakes.bundles import make_spec
from tests.kernel.launched import Lab, captured, mounts_below, read_to_end, wait_for

READY = "wherry-ready"
LOOK = (
    "cat /proc/1/mountinfo /proc/1/status /proc/self/cgroup; ls -lR /dev /proc/acpi; ls /proc/1/fd; hostname; "
    "touch /proc/sys/x /dev/x; cat /proc/kcore | head -c1"
)


def ready_inits(launcher: int) -> list[int]:
    """The pids of those that wait in recvmsg(2)."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text().strip() == READY]


def await_ready(lab: Lab, count: int = 2) -> list[int]:
    while len(found := ready_inits(lab.launcher.pid)) < count:
        time.sleep(0.001)  # the kernel tells nobody of a child, and asking the launcher would keep it from idling
    return found


@pytest.fixture
def warm_lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    lab.sh("true")  # the first start says what the others will need
    await_ready(lab)
    yield lab
    lab.close()
    assert mounts_below(tmp_path) == []


def test_a_start_takes_one_and_another_is_made(warm_lab: Lab) -> None:
    ready = await_ready(warm_lab)
    box = warm_lab.start(make_spec("sleep", "100"))
    assert box.started.pid in ready
    assert set(await_ready(warm_lab)) - set(ready)


def test_a_container_is_the_same_as_one_made_from_nothing(warm_lab: Lab, tmp_path: Path) -> None:
    cold = Lab(tmp_path / "cold", "--cold")
    try:
        shown = [lab.sh(LOOK) for lab in (warm_lab, cold)]
    finally:
        cold.close()
    assert shown[0].code == shown[1].code
    assert _comparable(shown[0].out) == _comparable(shown[1].out)
    assert _comparable(shown[0].err) == _comparable(shown[1].err)


def _comparable(text: str) -> list[str]:
    """Without what differs between any two containers: numbers of mounts and inodes, times, the lab's own paths."""
    kept = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 6 and words[0].isdigit() and words[1].isdigit() and " - " in line:  # mountinfo(5)
            fstype, source = line.partition(" - ")[2].split()[:2]
            kept.append(" ".join(words[3:6]) if fstype == "overlay" else " ".join([*words[3:6], fstype, source]))
        elif line.startswith(
            ("Vm", "Rss", "SigQ", "voluntary", "nonvoluntary", "Pid", "Tgid", "Ngid", "Seccomp_filters")
        ):
            continue
        else:
            kept.append(" ".join(word for word in words if ":" not in word or not word[0].isdigit()))
    return sorted(kept)


def test_one_of_another_template_starts_from_nothing(warm_lab: Lab) -> None:
    ready = set(await_ready(warm_lab))
    spec = make_spec("sleep", "100")
    mount: dict[str, Any] = {"destination": "/dev/mine", "type": "tmpfs", "source": "tmpfs", "options": ["mode=700"]}
    spec["mounts"].append(mount)
    box = warm_lab.start(spec)
    assert box.started.pid not in ready
    assert Path(f"/proc/{box.started.pid}/root/dev/mine").stat().st_mode & 0o777 == 0o700


def test_the_hosts_mounts_are_those_of_the_start(warm_lab: Lab, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    spec = make_spec()
    spec["mounts"].append({"destination": "/m", "type": "bind", "source": str(source), "options": ["rbind"]})
    ready = await_ready(warm_lab)
    mounts.mount("tmpfs", str(source), "tmpfs", 0)
    try:
        (source / "new").touch()
        assert warm_lab.sh("ls /m", spec).out == "new\n"
    finally:
        mounts.umount(str(source), mounts.MNT_DETACH)
    assert not set(ready) & set(await_ready(warm_lab))


def test_the_kernels_trees_go_to_ordinary_directories(warm_lab: Lab) -> None:
    (warm_lab.rootfs / "dev").rename(warm_lab.rootfs / "dev-kept")
    (warm_lab.rootfs / "dev").symlink_to("proc")
    with pytest.raises(ProcessFault, match=r"an ordinary directory|covered by a procfs only"):
        warm_lab.sh("true")


def test_a_killed_one_harms_nobody(warm_lab: Lab) -> None:
    for pid in await_ready(warm_lab):
        pidfd = os.pidfd_open(pid)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        wait_for(pidfd)
        os.close(pidfd)
    assert warm_lab.sh("echo fine").out == "fine\n"
    await_ready(warm_lab)


def test_a_failure_is_reported_from_one_too(warm_lab: Lab) -> None:
    with pytest.raises(ProcessFault) as caught:
        warm_lab.start(make_spec("/no/such/program"))
    assert (caught.value.phase, caught.value.errno) == ("exec", 2)


def test_they_hold_nothing_of_the_launchers(warm_lab: Lab) -> None:
    with captured() as (fds, output):
        kept = {f"keep.{name}": fd for name, fd in fds.items()}
        box = warm_lab.start(make_spec("sleep", "100"), fds={**fds, **kept})
    for pid in await_ready(warm_lab):
        while "recvmsg" not in Path(f"/proc/{pid}/wchan").read_text() + _syscall_name(pid):
            os.sched_yield()
        links = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")]
        assert not [link for link in links if link.startswith("pipe:")], links
    box.kill()
    warm_lab.exit_of(box.name)
    warm_lab.client.ack(box.name)
    assert [read_to_end(fd) for fd in output] == ["", ""]


def _syscall_name(pid: int) -> str:
    """ "recvmsg" if that is what it waits in (x86 and arm64 numbers)."""
    number = Path(f"/proc/{pid}/syscall").read_text().split()[0]
    return "recvmsg" if number in ("47", "212") else ""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_they_go_with_the_launcher(warm_lab: Lab, number: int) -> None:
    pidfds = [os.pidfd_open(pid) for pid in await_ready(warm_lab)]
    warm_lab.launcher.kill(number)
    for pidfd in pidfds:
        wait_for(pidfd)
        os.close(pidfd)


def test_shutdown_ends_them_first(warm_lab: Lab) -> None:
    pids = await_ready(warm_lab)
    warm_lab.client.shutdown()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_the_reply_names_what_is_missing(warm_lab: Lab, tmp_path: Path) -> None:
    name, bundle, overlay = warm_lab.bundle(make_spec("true"))
    (bundle / "config.json").write_text(json.dumps({"ociVersion": "1.2.0"}))
    with pytest.raises(ProcessFault, match=r"config.json"):
        warm_lab.client.run(name, bundle, rootfs=overlay)
