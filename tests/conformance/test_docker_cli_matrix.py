"""The docker CLI over what an engine does, as tables: every option of `docker run` seen from inside, and every command.

One engine, no containers shared between rows but those of the fixture `box`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import RunningEngine

# (options of `docker run --rm`, command, exit code, what the output matches)
OPTIONS: list[tuple[str, str, int, str]] = [
    ("", "sh -c 'stat -c %a:%s /.dockerenv; readlink /etc/mtab'", 0, r"^755:0\n/proc/mounts$"),
    ("--add-host lock:10.1.2.3", "cat /etc/hosts", 0, r"^10\.1\.2\.3\s+lock$"),
    ("--annotation a=b", "true", 0, ""),
    ("-a stdout", "echo seen", 0, "^seen$"),
    ("--blkio-weight 300", "true", 0, ""),
    ("--cap-add SYS_TIME", "grep CapEff /proc/self/status", 0, "00000000aa0425fb"),
    ("--cap-drop ALL", "grep CapEff /proc/self/status", 0, "0000000000000000"),
    ("--cgroupns host", "cat /proc/self/cgroup", 0, ":/wherry-"),
    ("--cgroupns private", "cat /proc/self/cgroup", 0, ":/$"),
    ("--cpu-period 50000 --cpu-quota 25000", "true", 0, ""),
    ("-c 300 --cpuset-cpus 0 --cpuset-mems 0", "grep Cpus_allowed_list /proc/self/status", 0, r"\s0$"),
    ("--cpus 1000", "true", 125, "Range of CPUs is from 0.01 to"),
    ("--device /dev/null:/dev/zilch:r", "ls -l /dev/zilch", 0, r"^crw.*1,\s+3"),
    ("--device-cgroup-rule c-7:*-rmw", "true", 125, "invalid device cgroup format 'c-7:"),
    ("--device-read-bps /dev/nosuch:1mb", "true", 127, "nosuch"),
    ("--dns 1.2.3.4 --dns-option ndots:3 --dns-search ex.com", "cat /etc/resolv.conf", 0, "^search ex.com$"),
    ("--domainname dom.example --hostname h", "hostname -f", 0, "^h.dom.example$"),
    ("-h under_score!", "hostname", 0, "^under_score!$"),
    ("--entrypoint=", "true", 0, ""),
    ("--entrypoint id", "-u", 0, "^0$"),
    ("-e A=1 -e B", "env", 0, "^A=1$"),
    ("-e PATH=/bin -e HOME", "env", 0, "^PATH=/bin$"),
    ("--gpus all", "true", 125, r"could not select device driver .* with capabilities: \[\[gpu\]\]"),
    ("--group-add 1234 --group-add daemon", "id", 0, r"groups=.*1\(daemon\).*1234"),
    ("--init", "cat /proc/1/comm", 0, "docker-init|init"),
    ("--ip 10.9.8.7", "true", 125, "user specified IP address is supported on user defined networks only"),
    ("--ipc host", "true", 0, ""),
    ("--ipc none", "grep /dev/shm /proc/mounts", 1, ""),
    ("--isolation hyperv", "true", 125, "invalid isolation 'hyperv' on linux"),
    ("-l a=b --label c=d", "true", 0, ""),
    ("--link nosuch:x", "true", 125, "could not get container for nosuch"),
    ("--link-local-ip 169.254.9.9", "ip -o -4 addr show eth0", 0, "169.254.9.9/16"),
    ("--log-driver none", "echo x", 0, "^x$"),
    ("--log-driver nosuch", "true", 125, "logger: no log driver named 'nosuch' is registered"),
    ("--log-driver syslog", "true", 125, "--log-driver syslog is not supported by this version of Wherry"),
    ("--log-opt bogus=1", "true", 125, "unknown log opt 'bogus' for json-file log driver"),
    ("--mac-address 02:11:22:33:44:55", "cat /sys/class/net/eth0/address", 0, "^02:11:22:33:44:55$"),
    ("-m 64m --memory-reservation 32m --memory-swap 128m", "true", 0, ""),
    ("-m 64m --memory-swap 32m", "true", 125, "Minimum memoryswap limit should be larger than memory limit"),
    ("--mount type=tmpfs,dst=/t,tmpfs-size=1m", "df -k /t", 0, r"\s1024\s"),
    ("--mount type=bind,src=/nosuch,dst=/x", "true", 125, "bind source path does not exist: /nosuch"),
    ("--name no/slash", "true", 125, "Invalid container name"),
    ("--network none", "ls /sys/class/net", 0, "^lo$"),
    ("--network host -p 80:80", "true", 0, "Published ports are discarded when using host network mode"),
    ("--network nosuch", "true", 125, "network nosuch not found"),
    ("--network container:nosuch", "true", 125, "No such container: nosuch"),
    ("--oom-score-adj 500", "cat /proc/self/oom_score_adj", 0, "^500$"),
    ("--pid host", "cat /proc/2/comm", 0, "kthreadd|."),
    ("--pids-limit 20", "sh -c true", 0, ""),
    ("--platform linux/s390x --pull never", "true", 125, "s390x|No such image"),
    ("--privileged", "ls /dev/kmsg", 0, "^/dev/kmsg$"),
    ("-p 127.0.0.1::80", "true", 0, ""),
    ("--pull never", "true", 0, ""),
    ("-q --quiet", "true", 0, ""),
    ("--read-only", "touch /x", 1, "Read-only file system"),
    ("--read-only --tmpfs /t", "touch /t/x", 0, ""),
    ("--restart always", "true", 125, "conflicting options: cannot specify both --restart and --rm"),
    ("--runtime runc", "true", 0, ""),
    ("--runtime nosuch", "true", 125, "unknown or invalid runtime name: nosuch"),
    ("--security-opt no-new-privileges", "grep NoNew /proc/self/status", 0, r"\s1$"),
    ("--security-opt seccomp=unconfined", "grep Seccomp: /proc/self/status", 0, r"\s0$"),
    ("--shm-size 2m", "df -k /dev/shm", 0, r"\s2048\s"),
    ("--storage-opt size=1g", "true", 125, "--storage-opt is supported only for"),
    ("--sysctl net.ipv4.ip_forward=0", "cat /proc/sys/net/ipv4/ip_forward", 0, "^0$"),
    ("--tmpfs /t:size=1m,mode=700", "stat -c %a /t", 0, "^700$"),
    ("-t", "tty", 0, "/dev/pts/0"),
    ("--ulimit nofile=100:200", "sh -c 'ulimit -n'", 0, "^100$"),
    ("-u 12:34", "id", 0, "uid=12 gid=34"),
    ("-u nosuch", "true", 125, "unable to find user nosuch: no matching entries in passwd file"),
    ("--userns host --uts host", "true", 0, ""),
    ("-v /d", "grep /d /proc/mounts", 0, " /d "),
    ("-v /etc:/h:ro", "touch /h/x", 1, "Read-only file system"),
    ("-v bad!name:/x", "true", 125, "includes invalid characters for a local volume name"),
    ("--volumes-from nosuch", "true", 125, "No such container: nosuch"),
    ("-w /new/dir", "pwd", 0, "^/new/dir$"),
    ("-w relative", "true", 125, "the working directory 'relative' is invalid, it needs to be an absolute path"),
    ("", "nosuch", 127, 'exec: "nosuch": executable file not found in $PATH'.replace("$", r"\$")),
    ("", "/etc", 126, "is a directory|permission denied"),
]

# (arguments, exit code, what the output matches); `box` runs with a port, a volume and labels, `made` was never started
COMMANDS: list[tuple[str, int, str]] = [
    ("ps --format {{.Names}}|{{.Image}}|{{.Ports}}|{{.Mounts}}|{{.Networks}}|{{.State}}", 0, r"^box\|busybox\|"),
    ("ps --no-trunc --format {{.Command}}", 0, "\"sh -c 'echo out; echo oops >&2; exec sleep 100'\""),
    ("ps -a -s --format {{.Names}}={{.Size}}", 0, r"box=\d+B \(virtual "),
    ("ps -q --no-trunc -f name=^/box$ -f label=tier=web -f status=running -f ancestor=busybox", 0, "^[0-9a-f]{64}$"),
    ("ps -f volume=kept -f network=bridge -f expose=81/udp --format {{.Names}}", 0, "^box$"),
    ("ps -a -f before=made --format {{.Names}}", 0, "^box$"),
    ("ps -a -f since=box --format {{.Names}}", 0, "^made$"),
    ("ps -a -f status=created --format {{.Names}}-{{.Status}}", 0, "^made-Created$"),
    ("ps -n 1 --format {{.Names}}", 0, "^made$"),
    ("ps -f bogus=1", 1, "invalid filter 'bogus'"),
    ("ps -f status=bogus", 1, "invalid filter 'status=bogus'"),
    ("inspect -f {{.State.Status}}/{{.State.Health}}/{{.HostConfig.NetworkMode}}/{{.Name}} box", 0, "^running/<nil>/"),
    ("inspect -f {{.NetworkSettings.IPAddress}} box", 0, r"^\d+\.\d+\.\d+\.\d+$"),
    ("inspect -f '{{(index .NetworkSettings.Ports `80/tcp` 0).HostIp}}' box", 0, r"^127\.0\.0\.1$"),
    (
        "inspect -f {{range.Mounts}}{{.Type}}:{{.Name}}:{{.Destination}}:{{.RW}}{{end}} box",
        0,
        "^volume:kept:/data:true$",
    ),
    ("inspect -f '{{json .Config.Env}}' box", 0, r'^\["UNSET","A=1","PATH='),
    ("inspect -f '{{json .NetworkSettings.Networks.bridge.IPAMConfig}}' box", 0, "^null$"),
    ("inspect -f {{.State.ExitCode}}{{.State.StartedAt}} made", 0, "^00001-01-01T00:00:00Z$"),
    ("inspect -s -f {{.SizeRw}} box", 0, r"^\d+$"),
    ("inspect nosuch", 1, "No such object: nosuch"),
    ("inspect --type image box", 1, "No such image: box:latest"),
    ("inspect --type volume box", 1, "get box: no such volume"),
    ("port box", 0, r"^80/tcp -> 127\.0\.0\.1:\d+$"),
    ("port box 99", 1, "No public port '99' published for box"),
    ("top box", 0, r"^UID\s+PID\s+PPID\s+C\s+STIME"),
    ("top box -o pid,comm", 0, r"^\d+\s+sleep$"),
    ("top made", 1, "is not running"),
    ("logs box", 0, "^out$"),
    ("logs --tail 0 box", 0, "^$"),
    ("logs -t box", 0, r"^\d{4}-\d\d-\d\dT[\d:.]+Z out$"),
    ("logs made", 0, "^$"),
    ("logs nosuch", 1, "No such container: nosuch"),
    ("exec box cat /proc/1/comm", 0, "^sleep$"),
    ("exec -e X=1 -w /tmp -u 1:1 box env", 0, "^X=1$"),
    ("exec box nosuch", 127, 'exec: "nosuch": executable file not found'),
    ("exec -u nosuch box true", 126, "unable to find user nosuch"),
    ("exec -w /nosuch box pwd", 127, r'chdir to cwd \("/nosuch"\)'),
    ("exec -d box true", 0, "^$"),
    ("exec made true", 1, "is not running"),
    ("exec nosuch true", 1, "No such container: nosuch"),
    ("stats --no-stream --format {{.Name}} box", 0, "^box$"),
    ("diff made", 0, "^$"),
    ("cp box:/nosuch /tmp", 1, "Could not find the file /nosuch in container box"),
    ("cp box:/etc/passwd -", 0, "root:x:0:0"),
    ("export nosuch", 1, "No such container: nosuch"),
    ("start nosuch", 1, "No such container: nosuch"),
    ("start box", 0, "^box$"),
    ("stop made", 0, "^made$"),
    ("kill made", 1, "cannot kill container: made: container [0-9a-f]{64} is not running"),
    ("kill -s BOGUS box", 1, "cannot kill container: box: invalid signal: BOGUS"),
    ("kill nosuch", 1, "cannot kill container: nosuch: No such container: nosuch"),
    ("exec --detach-keys bogus-key box true", 1, r"Invalid escape keys \(bogus-key\) provided"),
    ("inspect -f {{.LogPath}}|{{.HostsPath}} made", 0, r"^\|$"),
    ("container prune -f --filter until=bogus", 1, 'failed to parse value as time or duration: "bogus"'),
    ("system prune -f --filter label=nosuch", 0, "Total reclaimed space"),
    ("volume ls -f dangling=maybe", 1, r"invalid filter 'dangling=\[maybe\]'"),
    ("pause made", 1, "is not running"),
    ("unpause box", 1, "Container [0-9a-f]{64} is not paused"),
    ("unpause made", 1, "Container [0-9a-f]{64} is not paused"),
    ("attach made", 1, "cannot attach to a stopped container"),
    ("wait nosuch", 1, "No such container: nosuch"),
    ("rm box", 1, 'cannot remove container "/?box": container is running: stop the container before'),
    ("rm --link box", 1, "Conflict, cannot remove the default link name of the container"),
    ("rm --link box/nosuch", 1, "nosuch"),
    ("rm -f nosuch", 0, ""),
    ("rename box box", 1, "Renaming a container with the same name as its current name"),
    ("rename made box", 1, 'The container name "/box" is already in use by container'),
    ("update --memory 100m --memory-swap 200m --restart on-failure:3 box", 0, "^box$"),
    ("update --memory 1k box", 1, "Minimum memory limit allowed is 6MB"),
    ("create --name box busybox", 1, 'Conflict. The container name "/box" is already in use by container'),
    ("commit nosuch", 1, "No such container: nosuch"),
    ("container ls -aq", 0, "^[0-9a-f]{12}$"),
    ("volume create --label a=b kept", 0, "^kept$"),
    ("volume ls -q -f name=kept", 0, "^kept$"),
    ("volume inspect -f {{.Driver}}/{{.Scope}} kept", 0, "^local/local$"),
    ("volume rm kept", 1, "remove kept: volume is in use - "),
    ("volume rm nosuch", 1, "get nosuch: no such volume"),
    ("volume rm -f nosuch", 0, "^nosuch$"),
    ("volume prune -f", 0, "Total reclaimed space: 0B"),
    ("network ls --format {{.Name}}/{{.Driver}}/{{.Scope}}", 0, "^none/null/local$"),
    ("network inspect nosuch", 1, "network nosuch not found"),
    ("network rm bridge", 1, "bridge is a pre-defined network and cannot be removed"),
    ("network create bridge", 1, "operation is not permitted on predefined bridge network"),
    ("network create --driver bogus n", 1, 'plugin "bogus" not found|could not find driver|bogus'),
    ("network create --subnet 10.9.0.1/24 n", 1, "invalid subnet 10.9.0.1/24: it should be 10.9.0.0/24"),
    ("network disconnect host made", 1, "."),
    ("network prune -f", 0, "^$"),
    ("images -q busybox", 0, "^[0-9a-f]{12}$"),
    ("image inspect -f {{.Metadata.LastTagTime}} busybox", 0, r"^20\d\d-"),
    ("image inspect nosuch", 1, "No such image: nosuch"),
    ("history -q busybox", 0, "^[0-9a-f]{12}$"),
    ("rmi busybox", 1, r"conflict: unable to (remove repository reference|delete) .*container [0-9a-f]{12}"),
    ("rmi nosuch", 1, "No such image: nosuch"),
    ("tag nosuch x", 1, "No such image: nosuch"),
    ("system df --format {{.Type}}", 0, "^Local Volumes$"),
    ("info -f {{.Driver}}/{{.OSType}}/{{.Swarm.LocalNodeState}}", 0, "^overlay2/linux/inactive$"),
    ("version -f {{.Server.Os}}/{{.Server.APIVersion}}", 0, r"^linux/1\.\d+$"),
    ("events --since 60m --until 0s -f container=box -f event=start --format {{.Action}}", 0, "^start$"),
    ("events --since 0s --until 0s -f colour=red", 0, ""),
]


@pytest.fixture(scope="module")
def box(engine: RunningEngine) -> Iterator[None]:
    run = [
        "run",
        "-d",
        "--name",
        "box",
        "-l",
        "tier=web",
        "-p",
        "127.0.0.1::80",
        "--expose",
        "81/udp",
        "-v",
        "kept:/data",
    ]
    command = ["sh", "-c", "echo out; echo oops >&2; exec sleep 100"]
    for arguments in ([*run, "-e", "UNSET", "-e", "A=1", "busybox", *command], ["create", "--name", "made", "busybox"]):
        done = engine.docker(*arguments)
        assert done.returncode == 0, done
    yield
    engine.docker("rm", "-f", "box", "made")
    engine.docker("volume", "rm", "kept")


@pytest.fixture(autouse=True)
def _no_containers_left() -> None:
    """`box` stays for the next row: in place of the tier's fixture of this name."""


@pytest.mark.parametrize("arguments, code, pattern", COMMANDS, ids=[case[0][:60] for case in COMMANDS])
@pytest.mark.usefixtures("box")
def test_command(engine: RunningEngine, arguments: str, code: int, pattern: str) -> None:
    done = engine.docker(*shlex.split(arguments))
    output = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == code, done
    assert re.search(pattern, output.strip("\n"), re.MULTILINE), done


@pytest.mark.parametrize("options, command, code, pattern", OPTIONS, ids=[f"{o} {c}"[:60] for o, c, *_ in OPTIONS])
def test_option(engine: RunningEngine, options: str, command: str, code: int, pattern: str) -> None:
    done = engine.docker("run", "--rm", *options.split(), "busybox", *shlex.split(command))
    output = (done.stdout + done.stderr).decode(errors="replace").replace("\r", "")
    assert done.returncode == code, done
    assert re.search(pattern, output, re.MULTILINE), done


def test_files_that_name_options(engine: RunningEngine, tmp_path: Path) -> None:
    """--env-file, --label-file, --cidfile."""
    (tmp_path / "env").write_text("# of a test\nA=1\nB=two words\n")
    files = [
        "--env-file",
        str(tmp_path / "env"),
        "--label-file",
        str(tmp_path / "env"),
        "--cidfile",
        str(tmp_path / "id"),
    ]
    assert b"\nB=two words\n" in engine.docker("run", "--name", "filed", *files, "busybox", "env").stdout
    assert engine.docker("inspect", "-f", "{{.Config.Labels.A}}", "filed").stdout == b"1\n"
    assert engine.docker("rm", (tmp_path / "id").read_text()).returncode == 0


def test_a_pause_and_what_it_refuses(engine: RunningEngine) -> None:
    docker = engine.docker
    docker("run", "-d", "--name", "still", "busybox", "sleep", "100")
    assert docker("pause", "still").returncode == 0
    assert b"(Paused)" in docker("ps", "-f", "status=paused", "--format", "{{.Status}}").stdout
    assert b"is already paused" in docker("pause", "still").stderr
    assert b"is paused, unpause the container before exec" in docker("exec", "still", "true").stderr
    assert b"must be unpaused first" in docker("rm", "still").stderr
    assert docker("unpause", "still").returncode == 0
    assert docker("rm", "-f", "still").returncode == 0


def test_unlinking(engine: RunningEngine) -> None:
    docker = engine.docker
    docker("run", "-d", "--name", "child", "busybox", "sleep", "100")
    docker("run", "-d", "--name", "parent", "--link", "child:one", "--link", "child:two", "busybox", "sleep", "100")
    assert docker("rm", "--link", "parent/one").returncode == 0
    links = docker("inspect", "-f", "{{json .HostConfig.Links}}", "parent").stdout
    assert links == b'["/child:/parent/two"]\n'
    assert docker("rm", "-f", "parent", "child").returncode == 0
