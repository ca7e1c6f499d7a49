"""Links as clients write them."""

from __future__ import annotations

from dataclasses import replace

from runtime.engine.options.model import Document, EndpointConfig
from runtime.errors import InvalidParameter

PREDEFINED = ("bridge", "host", "none")


def links(host: Document, mode: str) -> list[str]:
    """HostConfig.Links; raises InvalidParameter."""
    given = list(host.get("Links") or [])
    kind = "host" if mode == "host" else "container" if mode.startswith("container:") else ""
    if given and kind:
        raise InvalidParameter(
            f"conflicting options: {kind} type networking can't be used with links. This would result in "
            "undefined behavior"
        )
    for link in given:
        parse_link(link)
    return given


def parse_link(link: str) -> tuple[str, str]:
    """`db:database` → ("db", "database"); `/db:/web/database`, as inspect shows it, is read too."""
    name, _, alias = link.partition(":")
    if not link:
        raise InvalidParameter("empty string specified for links")
    if not name or ":" in alias:
        raise InvalidParameter(f"bad format for links: {link}")
    return name, alias.rpartition("/")[2] or name.rpartition("/")[2]


def with_links(endpoints: dict[str, EndpointConfig], mode: str, links: list[str]) -> dict[str, EndpointConfig]:
    """On a user-defined network they are names of that network."""
    if not links or mode in PREDEFINED or mode not in endpoints:
        return endpoints
    main = endpoints[mode]
    return endpoints | {mode: replace(main, links=tuple(dict.fromkeys((*main.links, *links))))}
