"""What a program finds when it starts: who it is, what it may do, what was left open, and how it fails to start."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
from launched import Lab, captured, lab, read_to_end, shared_lab, wait_for

from runtime.container.report import Report
from runtime.container.spawn import spawn
from runtime.errors import ProcessFault
from tests.fakes.bundles import BOB, make_spec

__all__ = ["lab", "shared_lab"]


def test_true_and_false(lab: Lab) -> None:
    assert lab.run(make_spec("true")).code == 0
    assert lab.run(make_spec("false")).code == 1


def test_exit_code_and_output(lab: Lab) -> None:
    assert lab.sh("echo out; echo err >&2; exit 42") == (42, "out\n", "err\n")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_death_by_signal(lab: Lab, number: signal.Signals) -> None:
    # From outside: PID 1 of a namespace ignores signals it does not handle, other than SIGKILL, from inside.
    box = lab.start(make_spec("sh", "-c", "trap 'exit 9' TERM; echo up; while true; do sleep 0.01; done"))
    if number == signal.SIGTERM:
        # The trap is known to be set once the shell has said so; its stdout is /dev/null, so ask its signal mask.
        caught = 1 << (signal.SIGTERM - 1)
        while not int(status_field(box.started.pid, "SigCgt"), 16) & caught:
            os.sched_yield()
    box.kill(number)
    event = lab.exit_of(box.name)
    expected = (137, signal.SIGKILL) if number == signal.SIGKILL else (9, None)
    assert (event["code"], event["signal"]) == expected


def status_field(pid: int, name: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return line.split(":", 1)[1].strip()
    raise KeyError(name)


def test_stdin_reaches_the_program(lab: Lab) -> None:
    reading, writing = os.pipe()
    with captured() as (fds, (out, err)):
        box = lab.start(make_spec("cat"), fds={**fds, "stdin": reading})
    os.close(reading)
    os.write(writing, b"hello")
    os.close(writing)
    assert read_to_end(out) == "hello"
    os.close(err)
    assert lab.exit_of(box.name)["code"] == 0


def test_is_pid_1_in_a_session_of_its_own(lab: Lab) -> None:
    result = lab.sh("echo $$; cat /proc/1/stat")
    pid, stat = result.out.splitlines()
    _, _, _, ppid, group, session = stat.split()[:6]
    assert (pid, ppid, group, session) == ("1", "0", "1", "1")


def test_nothing_is_left_open(lab: Lab) -> None:
    # 3 is the directory ls itself reads.
    assert lab.sh("ls /proc/self/fd").out.split() == ["0", "1", "2", "3"]


def test_signals_are_at_their_defaults(lab: Lab) -> None:
    status = lab.run(make_spec("cat", "/proc/self/status")).out
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(fields["SigIgn"], 16) == int(fields["SigBlk"], 16) == int(fields["SigCgt"], 16) == 0


def test_capabilities_and_seccomp(lab: Lab) -> None:
    fields = status_of(lab)
    assert fields["CapEff"] == fields["CapPrm"] == fields["CapBnd"] == "00000000a80425fb"
    assert (fields["CapInh"], fields["CapAmb"]) == ("0" * 16, "0" * 16)
    assert (fields["Seccomp"], fields["NoNewPrivs"]) == ("2", "0")


def test_no_new_privileges(lab: Lab) -> None:
    fields = status_of(lab, noNewPrivileges=True)
    assert (fields["Seccomp"], fields["NoNewPrivs"]) == ("2", "1")


def test_ambient_capabilities_reach_another_user(lab: Lab) -> None:
    kinds = ("bounding", "effective", "permitted", "inheritable", "ambient")
    sets = {kind: ["CAP_NET_RAW"] for kind in kinds}
    fields = status_of(lab, capabilities=sets, user={"uid": BOB, "gid": BOB})
    assert fields["CapEff"] == fields["CapAmb"] == f"{1 << 13:016x}"


def test_another_user_has_no_capabilities(lab: Lab) -> None:
    fields = status_of(lab, user={"uid": BOB, "gid": BOB})
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0


def status_of(lab: Lab, **process: object) -> dict[str, str]:
    status = lab.run(make_spec("cat", "/proc/self/status", **process)).out
    return dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)


def test_seccomp_refuses(lab: Lab) -> None:
    spec = make_spec()
    spec["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EXDEV}],
    }
    result = lab.sh("mkdir /tmp/x", spec)
    assert result.code == 1
    assert "Invalid cross-device link" in result.err


def test_user_groups_umask_and_home(lab: Lab) -> None:
    user = {"uid": BOB, "gid": BOB, "additionalGids": [5, 6], "umask": 0o77}
    result = lab.sh(
        "id -u; id -g; grep Groups /proc/self/status; umask; echo $HOME; echo >/tmp/f; stat -c %a:%u /tmp/f", user=user
    )
    assert result.out.split() == ["1000", "1000", "Groups:", "5", "6", "0077", "/home/bob", "600:1000"]


def test_user_can_open_its_own_stdout(lab: Lab) -> None:
    assert lab.sh("echo hi > /dev/stdout", user={"uid": BOB, "gid": BOB}) == (0, "hi\n", "")


def test_environment(lab: Lab) -> None:
    assert sorted(lab.run(make_spec("env")).out.split()) == ["COLOUR=blue", "HOME=/root", "PATH=/bin:/usr/bin"]


def test_cwd_is_made_if_missing(lab: Lab) -> None:
    assert lab.sh("pwd", cwd="/a/b").out == "/a/b\n"


def test_hostname_is_the_containers_only(lab: Lab) -> None:
    ours = os.uname().nodename
    assert lab.sh("hostname").out == "box\n"
    assert os.uname().nodename == ours != "box"


def test_sysctl_is_the_containers_only(lab: Lab) -> None:
    path = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
    assert lab.sh(f"cat {path}").out == "0\n"
    assert Path(path).read_text() != "0\n"


def test_sysctl_of_the_host_is_refused(lab: Lab) -> None:
    spec = make_spec("true")
    spec["linux"]["sysctl"] = {"vm.swappiness": "1"}
    fault = refused(lab, spec)
    assert "vm.swappiness" in str(fault)


def test_rlimits(lab: Lab) -> None:
    limits = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
    assert lab.sh("ulimit -Sn; ulimit -Hn; ulimit -c", rlimits=limits).out.split() == ["100", "200", "0"]


def test_raised_rlimit_is_refused_in_words(lab: Lab) -> None:
    if int(status_field(os.getpid(), "CapEff"), 16) >> 24 & 1:
        pytest.skip("CAP_SYS_RESOURCE: nothing is refused")
    fault = refused(lab, make_spec("true", rlimits=[{"type": "RLIMIT_NOFILE", "soft": 10**7, "hard": 10**7}]))
    assert (fault.phase, fault.errno) == ("rlimits", errno.EPERM)
    assert "error setting rlimit RLIMIT_NOFILE" in str(fault)


def test_oom_score(lab: Lab) -> None:
    assert lab.sh("cat /proc/self/oom_score_adj", oomScoreAdj=321).out == "321\n"


def refused(lab: Lab, spec: dict[str, object]) -> ProcessFault:
    with pytest.raises(ProcessFault) as caught:
        lab.start(spec)
    # What failed to start is forgotten: its id can be used again.
    assert lab.client.list() == []
    return caught.value


@pytest.mark.parametrize(
    ("program", "code", "message"),
    [
        ("nope", errno.ENOENT, 'exec: "nope": executable file not found in $PATH'),
        ("/nope", errno.ENOENT, 'exec: "/nope": stat /nope: no such file or directory'),
        ("/etc/passwd", errno.EACCES, 'exec: "/etc/passwd": permission denied'),
        ("passwd", errno.ENOENT, 'exec: "passwd": executable file not found in $PATH'),
        ("/bin", errno.EISDIR, 'exec: "/bin": is a directory'),
        ("/etc/junk", errno.ENOEXEC, "exec /etc/junk: exec format error"),
        ("/etc/script", errno.ENOENT, "exec /etc/script: no such file or directory"),
    ],
)
def test_programs_that_cannot_be_executed(lab: Lab, program: str, code: int, message: str) -> None:
    for name, content in (("junk", "junk"), ("script", "#!/no/interpreter\n")):
        (lab.rootfs / "etc" / name).write_text(content)
        (lab.rootfs / "etc" / name).chmod(0o755)
    fault = refused(lab, make_spec(program))
    assert (fault.phase, fault.errno, str(fault)) == ("exec", code, message)


def test_executable_is_looked_up_as_the_user(lab: Lab) -> None:
    (lab.rootfs / "root/tool").write_text("#!/bin/sh\n")
    (lab.rootfs / "root/tool").chmod(0o755)
    (lab.rootfs / "root").chmod(0o700)
    assert lab.run(make_spec("/root/tool")).code == 0
    fault = refused(lab, make_spec("/root/tool", user={"uid": BOB, "gid": BOB}))
    assert fault.errno == errno.EACCES


def test_cwd_that_is_no_directory(lab: Lab) -> None:
    fault = refused(lab, make_spec("true", cwd="/etc/passwd"))
    assert str(fault) == 'chdir to cwd ("/etc/passwd") set in config.json failed: not a directory'


def test_cwd_closed_to_the_user(lab: Lab) -> None:
    (lab.rootfs / "root").chmod(0o700)
    fault = refused(lab, make_spec("true", cwd="/root", user={"uid": BOB, "gid": BOB}))
    assert (fault.phase, fault.errno) == ("cwd", errno.EACCES)


def test_cwd_through_a_leaked_descriptor(lab: Lab) -> None:
    # CVE-2024-21626: whatever number the host's directories had, none can be the program's directory.
    for number in (3, 4, 5, 6, 7, 8, 9, 10, 11):
        spec = make_spec("pwd", cwd=f"/proc/self/fd/{number}")
        try:
            result = lab.run(spec)
        except ProcessFault as fault:
            assert fault.phase in ("cwd", "paths")
        else:
            assert result.out == "/\n", result


def test_launcher_is_sealed(lab: Lab) -> None:
    assert os.statvfs(f"/proc/{lab.launcher.pid}/exe").f_flag & os.ST_RDONLY


def test_sealed_interpreter_cannot_be_written(tmp_path: Path) -> None:
    # CVE-2019-5736. An interpreter of the test's own: one that still runs elsewhere is "busy" whatever its mount.
    python = tmp_path / "python"
    shutil.copy(os.path.realpath(sys.executable), python)
    program = "from runtime.container import interpreter as i; i.seal(); print(i.is_sealed(), flush=True); input()"
    environment = {**os.environ, "PYTHONHOME": sys.base_prefix}
    with subprocess.Popen(
        [python, "-c", program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as sealed:
        assert sealed.stdout is not None
        assert sealed.stdout.readline() == "True\n"
        exe = os.open(f"/proc/{sealed.pid}/exe", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Read-only file system"):
            os.open(f"/proc/self/fd/{exe}", os.O_WRONLY)
        os.close(os.open(python, os.O_WRONLY))  # by its path it can be: it was the mount that protected it
    finally:
        os.close(exe)


def test_malformed_config_is_refused(lab: Lab) -> None:
    spec = make_spec("true")
    spec["mounts"] = [{"destination": 5}]
    fault = refused(lab, spec)
    assert (fault.phase, fault.errno) == ("config", errno.EINVAL)


def test_death_during_setup_is_no_success(lab: Lab, tmp_path: Path) -> None:
    fifo, spec = held_up(tmp_path)
    name, bundle, overlay = lab.bundle(spec)
    seq = lab.client.ask_run(name, bundle, rootfs=overlay)
    with fifo.open("w"):  # the hook is reading: init waits for it
        [init] = Path(f"/proc/{lab.launcher.pid}/task/{lab.launcher.pid}/children").read_text().split()
        os.kill(int(init), signal.SIGKILL)
        with pytest.raises(ProcessFault, match="killed by SIGKILL"):
            lab.client.started(seq)


def held_up(directory: Path) -> tuple[Path, dict[str, Any]]:
    """A container whose init waits in a hook until something is written to the fifo."""
    fifo = directory / "fifo"
    os.mkfifo(fifo)
    hook = directory / "hook"
    hook.write_text(f"#!/bin/sh\nread line < {fifo}\nexit 0\n")
    hook.chmod(0o755)
    spec = make_spec("true")
    spec["hooks"] = {"createContainer": [{"path": str(hook)}]}
    return fifo, spec


def test_a_slow_start_holds_up_nobody(lab: Lab, tmp_path: Path) -> None:
    fifo, spec = held_up(tmp_path)
    name, bundle, overlay = lab.bundle(spec)
    seq = lab.client.ask_run(name, bundle, rootfs=overlay)
    assert lab.run(make_spec("true")).code == 0
    fifo.write_text("go\n")
    started = lab.client.started(seq)
    wait_for(started.pidfd)
    os.close(started.pidfd)
    assert lab.exit_of(name)["code"] == 0


def test_a_child_imports_nothing_any_more() -> None:
    # Once it has changed its root, the path of a module of ours is that of a file of the container's.
    def main(report: Report) -> NoReturn:
        import this  # noqa: F401  nobody has imported it before

        os._exit(0)

    child = spawn(main, 0)
    with child.report:
        assert b"No module named 'this'" in child.report.recv(4096)
    assert os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
    os.close(child.pidfd)
