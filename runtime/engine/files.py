"""The files an engine writes for a container: /etc/hostname, /etc/hosts and /etc/resolv.conf."""

import contextlib
import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path

from runtime.engine.options import Options
from runtime.errors import InvalidParameter
from runtime.linux.netlink import IpAddress

HOST_RESOLV_CONF = Path("/etc/resolv.conf")
SYSTEMD_RESOLV_CONF = Path("/run/systemd/resolve/resolv.conf")  # the real servers behind a local stub
FALLBACK_NAMESERVERS = ("8.8.8.8", "8.8.4.4")  # Docker's

LOCAL_HOSTS = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def hosts(
    options: Options,
    hostname: str,
    addresses: Iterable[IpAddress],
    host_gateway: str,
    others: Iterable[tuple[str, str]] = (),
) -> str:
    """/etc/hosts(5); `host_gateway` stands for the word `host-gateway` in `--add-host`.

    `others` are addresses with their names, which names of `--add-host` come before.
    """
    lines = [LOCAL_HOSTS]
    for entry in options.extra_hosts:
        name, separator, target = entry.partition("=") if "=" in entry else entry.partition(":")
        if not separator or not name:
            raise InvalidParameter(f'bad format for add-host: "{entry}": give NAME:ADDRESS')
        if target == "host-gateway":
            if not host_gateway:
                raise InvalidParameter("host-gateway needs a default bridge: give an address in --add-host")
            target = host_gateway
        try:
            ipaddress.ip_address(target.strip("[]"))
        except ValueError:
            raise InvalidParameter(f'invalid IP address in add-host: "{target}"') from None
        lines.append(f"{target.strip('[]')}\t{name}\n")
    lines += [f"{address}\t{names}\n" for address, names in others]
    return "".join([*lines, *_own_lines(options, hostname, addresses)])


def _own_lines(options: Options, hostname: str, addresses: Iterable[IpAddress]) -> list[str]:
    names = f"{hostname}.{options.domainname} {hostname}" if options.domainname else hostname
    return [f"{address}\t{names}\n" for address in addresses]


def add_to_hosts(path: Path, options: Options, hostname: str, addresses: Iterable[IpAddress]) -> None:
    """For a running container that joins a network; the file is mounted, so it is written in place."""
    with contextlib.suppress(FileNotFoundError), path.open("r+") as file:
        file.seek(0, os.SEEK_END)
        file.write("".join(_own_lines(options, hostname, addresses)))


def remove_from_hosts(path: Path, addresses: Iterable[IpAddress]) -> None:
    """Takes the lines of these addresses out, and leaves all others as they are."""
    gone = {str(address) for address in addresses}
    with contextlib.suppress(FileNotFoundError):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if (line.split() or [""])[0] not in gone))


def change_in_hosts(path: Path, names: str, address: IpAddress) -> None:
    """For a running container: whoever has exactly these names is at this address now."""
    with contextlib.suppress(FileNotFoundError):
        text = path.read_text()
        changed = re.sub(rf"^\S+\t{re.escape(names)}$", f"{address}\t{names}", text, flags=re.MULTILINE)
        if changed != text:
            path.write_text(changed)


def change_resolver(path: Path, options: Options, before: str | None, now: str | None) -> None:
    """For a running container whose first or last user-defined network comes or goes; a file it changed stays."""
    with contextlib.suppress(FileNotFoundError):
        if before != now and path.read_text() == resolv_conf(options, True, before):
            path.write_text(resolv_conf(options, True, now))


def ndots(options: Options) -> int:
    """The `ndots` of the container's resolv.conf, 0 unless somebody asked for another."""
    resolver_options = options.dns_options or _host_resolver(own_network=False)[2]
    given = [option.partition(":")[2] for option in resolver_options if option.startswith("ndots:")]
    return int(given[-1]) if given and given[-1].isdigit() else 0


def resolv_conf(options: Options, own_network: bool, resolver: str | None = None) -> str:
    """resolv.conf(5): the host's, without servers a container of its own network cannot reach.

    `resolver` is the address of ours inside the container: then it is the only one named, with ndots:0 as Docker's.
    """
    nameservers, search, resolver_options = _host_resolver(own_network)
    if options.dns:
        nameservers = options.dns
    elif not nameservers:
        nameservers = list(FALLBACK_NAMESERVERS) if own_network else []
    if options.dns_search:
        search = [] if options.dns_search == ["."] else options.dns_search
    resolver_options = options.dns_options or resolver_options
    if resolver:
        nameservers = [resolver]
        if not any(option.startswith("ndots:") for option in resolver_options):
            resolver_options = [*resolver_options, "ndots:0"]
    lines = [f"nameserver {server}\n" for server in nameservers]
    if search:
        lines.append(f"search {' '.join(search)}\n")
    if resolver_options:
        lines.append(f"options {' '.join(resolver_options)}\n")
    return "".join(lines)


def _host_resolver(own_network: bool) -> tuple[list[str], list[str], list[str]]:
    found: dict[str, list[str]] = {"nameserver": [], "search": [], "options": []}
    for path in (HOST_RESOLV_CONF, SYSTEMD_RESOLV_CONF):
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        found = {"nameserver": [], "search": [], "options": []}
        for line in text.splitlines():
            words = line.split()
            if len(words) > 1 and words[0] in found:
                found[words[0]] += words[1:2] if words[0] == "nameserver" else words[1:]
        if own_network:
            found["nameserver"] = [server for server in found["nameserver"] if _reachable(server)]
        if found["nameserver"]:
            break
    return found["nameserver"], found["search"], found["options"]


def _reachable(server: str) -> bool:
    try:
        address = ipaddress.ip_address(server.partition("%")[0])
    except ValueError:
        return False
    return not address.is_loopback and address.version == 4  # a bridge network has IPv4 only
