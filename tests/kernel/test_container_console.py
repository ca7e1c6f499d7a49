"""Terminals: a pty of the container's own devpts, handed to whoever started it."""

import os

from launched import Lab, lab, read_to_end, shared_lab

from tests.fakes.bundles import BOB, make_spec

__all__ = ["lab", "shared_lab"]

SCRIPT = (
    "tty; stty size; test -t 0 -a -t 1 -a -t 2 && echo all; ls -l /dev/console | head -c 10; echo; cat /proc/self/stat"
)


def test_container_with_a_terminal(lab: Lab) -> None:
    size = {"height": 33, "width": 99}
    box = lab.start(make_spec("sh", "-c", SCRIPT, terminal=True, consoleSize=size))
    assert box.started.console is not None
    lines = read_to_end(box.started.console).splitlines()
    assert lines[:3] == ["/dev/pts/0", "33 99", "all"]
    assert lines[3].startswith("crw")
    session, tty_number = lines[4].rsplit(")", 1)[1].split()[3:5]
    assert session == "1"
    assert int(tty_number) == os.makedev(136, 0)
    assert lab.exit_of(box.name)["code"] == 0


def test_exec_with_a_terminal(lab: Lab) -> None:
    box = lab.start(make_spec("sleep", "100"))
    started = lab.start_exec(
        box, "x", "sh", "-c", "tty; stat -c %u /dev/pts/0", terminal=True, user={"uid": BOB, "gid": BOB}
    )
    assert started.console is not None
    assert read_to_end(started.console).split() == ["/dev/pts/0", str(BOB)]
    os.close(started.pidfd)
    assert lab.exit_of(box.name, "x")["code"] == 0


def test_typing_interrupts(lab: Lab) -> None:
    box = lab.start(
        make_spec("sh", "-c", "trap 'exit 5' INT; echo ready; while true; do sleep 0.01; done", terminal=True)
    )
    assert box.started.console is not None
    assert os.read(box.started.console, 100) == b"ready\r\n"
    os.write(box.started.console, b"\x03")
    assert lab.exit_of(box.name)["code"] == 5
    os.close(box.started.console)
