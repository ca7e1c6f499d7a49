"""`wherryd`: the engine as a process. `wherryd shutdown` ends it and everything it has in the kernel."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import grp
import ipaddress
import json
import logging
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

from runtime import __version__
from runtime.container.ids import Ids
from runtime.daemon import registry_options
from runtime.daemon.hosts import Host, TlsFiles, parse_hosts
from runtime.daemon.server import serve
from runtime.engine import user_namespaces
from runtime.engine.engine import Engine
from runtime.engine.processes import start_time_of
from runtime.engine.settings import DATA_ROOT_MODE, EngineSettings
from runtime.errors import InvalidParameter, WherryError

DEFAULT_DATA_ROOT = Path("/var/lib/wherry")
DEFAULT_RUN_DIR = Path("/run/wherry")
SWITCH_INTERVAL_S = 0.0005  # a worker thread that deletes or hashes must not hold up requests for long
FACTS_NAME = "engine.json"  # in the run directory: who runs there, and on what data

RANDOM = Path("/dev/urandom")
RNDRESEEDCRNG = 0x5207  # random(4), linux/random.h

log = logging.getLogger("wherryd")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wherryd", description="Wherry's engine: serves the Docker Engine API in the foreground."
    )
    parser.add_argument("command", nargs="?", choices=["shutdown"], help="stop containers, launcher and engine")
    parser.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help=f"images, containers, volumes (default: {DEFAULT_DATA_ROOT})",
    )
    parser.add_argument(
        "--run-dir",
        type=Path,
        default=DEFAULT_RUN_DIR,
        metavar="DIR",
        help="sockets and locks (default: %(default)s)",
    )
    parser.add_argument(
        "--host",
        action="append",
        metavar="ADDRESS",
        help="where to serve the API: unix://PATH, or tcp://ADDRESS:PORT with --tlsverify; may be given more than once "
        "(default: unix://RUN_DIR/docker.sock)",
    )
    parser.add_argument("--tlsverify", action="store_true", help="serve TCP to clients with a certificate only")
    parser.add_argument("--tlscacert", type=Path, metavar="FILE", help="who must have signed a client's certificate")
    parser.add_argument("--tlscert", type=Path, metavar="FILE", help="the engine's own certificate")
    parser.add_argument("--tlskey", type=Path, metavar="FILE", help="the key to it")
    parser.add_argument("--group", metavar="NAME", help="the group that may use the socket (default: root)")
    parser.add_argument(
        "--userns-remap",
        metavar="USER[:GROUP]",
        default="",
        help="give containers a user namespace, with the ids /etc/subuid and /etc/subgid have for this user; `default` "
        f"stands for {user_namespaces.DEFAULT_USER}, who is given some",
    )
    parser.add_argument(
        "--cdi-spec-dir",
        type=Path,
        action="append",
        metavar="DIR",
        help="CDI specifications of devices, in JSON or, where PyYAML is installed, in YAML; may be repeated (default: "
        "/etc/cdi and /var/run/cdi)",
    )
    registry_options.add_arguments(parser)
    parser.add_argument("--embedded-images", type=Path, metavar="DIR", help="image archives to load at the first start")
    parser.add_argument(
        "--host-gateway-ip",
        metavar="ADDRESS",
        default="",
        help="what host.docker.internal and host-gateway mean in containers (default: their network's gateway)",
    )
    parser.add_argument(
        "--host-shares",
        type=Path,
        metavar="FILE",
        help="inside a virtual machine: the file that says which directories of the computer around it are mounted "
        "here; a bind of another path that does not exist is refused",
    )
    parser.add_argument(
        "--port-broker",
        type=Path,
        metavar="PATH",
        help="publish ports on the computer that answers on this unix socket or device, not on this one",
    )
    parser.add_argument(
        "--hold",
        type=Path,
        metavar="PATH",
        help="get everything ready that needs no data, make a FIFO of this name, and wait until it has been written to "
        "and closed; a plain file there means that there is nothing to wait for",
    )
    parser.add_argument(
        "--log-level",
        default="info",
        choices=["debug", "info", "warning", "error"],
        help="what goes to standard error (default: %(default)s)",
    )
    parser.add_argument("--version", action="version", version=f"wherryd {__version__}")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    logging.basicConfig(level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        if os.geteuid() != 0:
            raise InvalidParameter("the engine needs root: start it with sudo, or use `wherry up`")
        run_dir = args.run_dir.absolute()
        if args.command == "shutdown":
            asyncio.run(_shutdown(run_dir, args.data_root))
        else:
            data_root = (args.data_root or DEFAULT_DATA_ROOT).absolute()
            tls = TlsFiles(args.tlsverify, args.tlscacert, args.tlscert, args.tlskey)
            hosts = parse_hosts(args.host or [f"unix://{run_dir}/docker.sock"], tls)
            cdi: dict[str, Any] = {"cdi_spec_dirs": tuple(args.cdi_spec_dir)} if args.cdi_spec_dir else {}
            gateway = _address(args.host_gateway_ip)
            registries = registry_options.settings_of(args)
            if args.hold:
                _hold(args.hold)
            user_ids = _user_ids(args.userns_remap, data_root, run_dir)
            settings = EngineSettings(
                data_root,
                run_dir,
                args.embedded_images,
                gateway,
                args.port_broker,
                registries,
                user_ids,
                args.host_shares,
                **cdi,
            )
            asyncio.run(_run(settings, hosts, _group(args.group)))
    except (WherryError, OSError) as error:
        print(f"wherryd: {error}", file=sys.stderr)
        return 1
    return 0


def _hold(path: Path) -> None:
    """Wait at the FIFO `path`. Meanwhile the computer may have been saved, and go on more than once from there."""
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    path.read_bytes()
    # What was given to the kernel as entropy since is used from now on; else each of them draws the same ids.
    with RANDOM.open("wb", buffering=0) as source:
        fcntl.ioctl(source, RNDRESEEDCRNG)
    random.seed()


def _user_ids(option: str, data_root: Path, run_dir: Path) -> Ids | None:
    if not option:
        return None
    ids = user_namespaces.parse(option)
    data_root.mkdir(mode=DATA_ROOT_MODE, parents=True, exist_ok=True)
    run_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    for directory in (data_root, run_dir):
        user_namespaces.check_host(directory, ids)
    return ids


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text)) if text else ""
    except ValueError:
        raise InvalidParameter(f"--host-gateway-ip {text}: not an IP address") from None


def _group(name: str | None) -> int:
    if name is None:
        return 0
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise InvalidParameter(f"--group {name}: no such group; make it with groupadd, or name another") from None


async def _run(settings: EngineSettings, hosts: list[Host], group: int) -> None:
    """SIGTERM and SIGINT end the engine alone, SIGPWR first its containers: the computer is being switched off."""
    stop, power_off = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def on_power_off() -> None:
        power_off.set()
        stop.set()

    loop.add_signal_handler(signal.SIGPWR, on_power_off)
    async with Engine(settings, lambda: _write_facts(settings, os.getpid())) as engine:
        engine.containers.resume()
        loop.add_signal_handler(signal.SIGHUP, engine.reload)
        async with serve(engine, hosts, group):
            with contextlib.suppress(BrokenPipeError):  # whoever started us may not want to know any more
                os.write(sys.stdout.fileno(), "".join(f"API listen on {host}\n" for host in hosts).encode())
            await engine.load_embedded_images()
            await stop.wait()
            if power_off.is_set():
                log.info("stopping, and containers first")
                await engine.control.stop_all()
            else:
                log.info("stopping; containers run on")
    if power_off.is_set():
        _write_facts(settings, 0)


def _write_facts(settings: EngineSettings, pid: int) -> None:
    """`pid` is 0 for an engine that has stopped its containers and is gone."""
    facts = {
        "pid": pid,
        "start_time": start_time_of(pid) if pid else 0,
        "data_root": str(settings.data_root),
    }
    temporary = settings.run_dir / f"{FACTS_NAME}.tmp"
    temporary.write_text(json.dumps(facts))
    temporary.replace(settings.run_dir / FACTS_NAME)
    settings.lock_path.write_text(f"pid {os.getpid()}, data root {settings.data_root}\n")


async def _shutdown(run_dir: Path, data_root: Path | None) -> None:
    """Stop a living engine, become one for a moment, and take everything down; works after a kill -9 too."""
    facts_path = run_dir / FACTS_NAME
    try:
        facts = json.loads(facts_path.read_text())
    except FileNotFoundError:
        if not run_dir.exists():
            raise InvalidParameter(f"no engine has run on {run_dir}: give the --run-dir it was started with") from None
        if data_root is None:  # shut down already, or killed before it had anything to take down
            return
        facts = {"pid": 0, "start_time": 0, "data_root": str(data_root)}
    await _stop_engine(facts["pid"], facts["start_time"])
    async with Engine(EngineSettings(Path(facts["data_root"]), run_dir)) as engine:
        await engine.shutdown()
    facts_path.unlink(missing_ok=True)


async def _stop_engine(pid: int, start_time: int) -> None:
    if not pid or start_time_of(pid) != start_time:
        return
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(pidfd, gone.set)
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        try:
            async with asyncio.timeout(10):
                await gone.wait()
        except TimeoutError:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            await gone.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


if __name__ == "__main__":
    sys.exit(main())
