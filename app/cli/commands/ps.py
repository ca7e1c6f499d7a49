import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from app.cli.context import Context
from app.cli.output import add_format_option, human_duration, print_json, print_table, short_id, shorten
from app.engine.models import Container, PortMapping

_COMMAND_WIDTH = 20


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="stopped ones too")
    parser.add_argument("-q", "--quiet", action="store_true", help="ids only")
    parser.add_argument("--no-trunc", action="store_true", help="whole ids and commands")
    add_format_option(parser)


def run(context: Context, arguments: Namespace) -> int:
    containers = context.client.containers(all=arguments.all)
    whole = arguments.no_trunc
    if arguments.quiet:
        sys.stdout.writelines(f"{_id(container, whole)}\n" for container in containers)
    elif arguments.format == "json":
        print_json(containers)
    else:
        headings = ("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES")
        print_table(headings, (_row(container, whole) for container in containers))
    return 0


def _id(container: Container, whole: bool) -> str:
    return container.id if whole else short_id(container.id)


def _row(container: Container, whole: bool) -> tuple[str, ...]:
    command = container.command if whole else shorten(container.command, _COMMAND_WIDTH)
    return (
        _id(container, whole),
        container.image if whole else shorten_image(container.image),
        f'"{command}"',
        f"{human_duration(time.time() - container.created_at)} ago",
        container.status,
        ports_text(container.ports),
        container.name,
    )


def shorten_image(image: str) -> str:
    """An image that is named by its digest only."""
    return short_id(image) if image.startswith("sha256:") else image


def ports_text(ports: Sequence[PortMapping]) -> str:
    """`0.0.0.0:8080->80/tcp` for a published port, `80/tcp` for one that is only exposed."""
    return ", ".join(sorted({_port_text(port) for port in ports}))


def _port_text(port: PortMapping) -> str:
    inside = f"{port.container_port}/{port.protocol}"
    if not port.host_port:
        return inside
    address = f"[{port.host_ip}]" if ":" in port.host_ip else port.host_ip
    return f"{address}:{port.host_port}->{inside}"
