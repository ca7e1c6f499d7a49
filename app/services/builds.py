"""Building an image: what is asked for, sent, and what comes back."""

import base64
import contextlib
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from app.core.errors import UserError
from app.engine.client import EngineClient
from app.engine.errors import EngineError, EngineUnreachable
from app.engine.streams import JsonStream
from app.services import build_agents, build_caches
from app.services.build_context import OnBytes, counted, local_context, matcher_of
from app.services.registry_logins import Logins

SECRETS_HEADER = "X-Wherry-Secrets"


@dataclass
class BuildOptions:
    """`dockerfile` is a path on this computer, `dockerfile_text` what came on standard input instead of it.

    `context_tar` is the context when that came there; `dockerfile` is a path in it then. `ulimits` as Docker's
    documents have them. `contexts`: directories, `docker-image://` names and URLs by name. `agents`: the sockets of
    SSH agents by id.
    """

    context: str
    dockerfile: str = ""
    dockerfile_text: bytes | None = None
    context_tar: Iterator[bytes] | None = None
    tags: list[str] = field(default_factory=list)
    target: str = ""
    build_args: dict[str, str | None] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    no_cache: bool = False
    pull: bool = False
    cache_from: list[str] = field(default_factory=list)
    cache_to: list[str] = field(default_factory=list)
    platform: str = ""
    network: str = ""
    add_hosts: list[str] = field(default_factory=list)
    memory_bytes: int = 0
    shm_bytes: int = 0
    ulimits: list[dict[str, Any]] = field(default_factory=list)
    cgroup_parent: str = ""
    secrets: dict[str, bytes] = field(default_factory=dict)
    contexts: dict[str, str] = field(default_factory=dict)
    agents: dict[str, str] = field(default_factory=dict)
    allowed: list[str] = field(default_factory=list)


def is_remote(context: str) -> bool:
    return context.startswith(("http://", "https://", "git://", "git@", "ssh://", "github.com/"))


@contextlib.contextmanager
def started(client: EngineClient, options: BuildOptions, on_bytes: OnBytes) -> Iterator[JsonStream[dict[str, Any]]]:
    """The engine's messages, as Docker's JSON stream has them. Raises UserError, EngineError."""
    contexts = {name: source for name, source in options.contexts.items() if _is_remote_source(source)}
    directories = {name: source for name, source in options.contexts.items() if name not in contexts}
    places = {name: f".wherry-context-{secrets.token_hex(8)}" for name in directories}
    contexts |= {name: f"directory:{place}" for name, place in places.items()}
    caches, below = build_caches.placed(options.cache_from)
    name, pieces = "Dockerfile", None
    if is_remote(options.context):
        name = options.dockerfile or name
        if directories or below or options.dockerfile_text is not None:
            raise UserError("Directories and Dockerfiles of this computer need a context of this computer, not a URL.")
    elif options.context_tar is not None:
        name, pieces = options.dockerfile or name, counted(options.context_tar, on_bytes)
        if directories or below:
            raise UserError("Directories of this computer need a directory as context, not an archive.")
    else:
        below |= {places[name]: source for name, source in directories.items()}
        name, pieces = local_context(options.context, options.dockerfile, options.dockerfile_text, below, on_bytes)
    with contextlib.ExitStack() as lent:
        tokens = {id: lent.enter_context(build_agents.lent(client, path)) for id, path in options.agents.items()}
        query = _query(options, name, contexts, tokens, caches)
        with client.build_image(urlencode(query), pieces, _headers(options)) as messages:
            yield messages


def _is_remote_source(source: str) -> bool:
    return source.startswith("docker-image://") or is_remote(source)


def _query(
    options: BuildOptions, dockerfile: str, contexts: dict[str, str], agents: dict[str, str], caches: list[str]
) -> list[tuple[str, str]]:
    query: list[tuple[str, str]] = [("dockerfile", dockerfile), ("rm", "1")]
    query += [("t", tag) for tag in options.tags]
    query += [("extrahosts", host) for host in options.add_hosts]
    query += [("allow", permission) for permission in options.allowed]
    if is_remote(options.context):
        query.append(("remote", options.context))
    documents = {
        "buildargs": options.build_args,
        "labels": options.labels,
        "cachefrom": caches,
        "cacheto": options.cache_to,
        "contexts": contexts,
        "agents": agents,
        "ulimits": options.ulimits,
    }
    query += [(key, json.dumps(value)) for key, value in documents.items() if value]
    texts = {
        "target": options.target,
        "platform": options.platform,
        "networkmode": options.network,
        "cgroupparent": options.cgroup_parent,
        "memory": str(options.memory_bytes or ""),
        "shmsize": str(options.shm_bytes or ""),
        "nocache": "1" if options.no_cache else "",
        "pull": "1" if options.pull else "",
    }
    return query + [(key, value) for key, value in texts.items() if value]


def _headers(options: BuildOptions) -> dict[str, str]:
    headers = {}
    if options.secrets:
        document = {id: base64.b64encode(data).decode() for id, data in options.secrets.items()}
        headers[SECRETS_HEADER] = base64.urlsafe_b64encode(json.dumps(document).encode()).decode()
    headers["X-Registry-Config"] = Logins().mentioned(_names_of(options))
    return headers


def _names_of(options: BuildOptions) -> str | None:
    """Text that has the names of all images a build may need; None when that is not known here."""
    if is_remote(options.context) or options.context_tar is not None:
        return None
    text = options.dockerfile_text
    if text is None:
        text = _dockerfile_path(options).read_bytes()
    given = [value for value in options.build_args.values() if value]
    names = [*given, *options.cache_from, *options.cache_to, *options.contexts.values()]
    return "\n".join([text.decode("utf-8", "replace"), *names])


def _dockerfile_path(options: BuildOptions) -> Path:
    return Path(options.dockerfile) if options.dockerfile else Path(options.context) / "Dockerfile"


def _env_of(client: EngineClient, image: str) -> dict[str, str] | None:
    try:
        entries = client.inspect("images", image)["Config"].get("Env") or []
    except (EngineError, EngineUnreachable):
        return None
    return {name: value for name, _, value in (entry.partition("=") for entry in entries)}


def check(client: EngineClient, options: BuildOptions) -> tuple[str, bool]:
    """What the linter says of the Dockerfile, and whether a build may go on. Raises UserError.

    What base images set is known of those that the engine has; with others, variables are not judged.
    """
    from runtime.dockerfile.errors import DockerfileError, excerpt
    from runtime.dockerfile.lint import lint, report_text, violation
    from runtime.dockerfile.platform_args import global_args
    from runtime.oci.image import platform_of_host, platform_text

    if is_remote(options.context):
        raise UserError("--check reads Dockerfiles of this computer only.")
    if options.context_tar is not None:
        raise UserError("--check reads no archives.")
    top = None if options.context == "-" else Path(options.context)
    path = _dockerfile_path(options)
    try:
        text = options.dockerfile_text if options.dockerfile_text is not None else path.read_bytes()
    except OSError as failed:
        raise UserError(f"the Dockerfile {path} cannot be read: {failed.strerror}.") from failed
    source = text.decode("utf-8", "replace")
    given = {name: value for name, value in options.build_args.items() if value is not None}
    platform = platform_text(platform_of_host())
    try:
        findings = lint(
            source,
            build_args=given,
            platform_args=global_args(platform, options.platform or platform, options.target),
            ignore=matcher_of(top, path.name) if top else None,
            base_env=lambda image: _env_of(client, image),
        )
        refused = violation(source, findings, given)
    except DockerfileError as error:
        shown = f"\n{excerpt(source, error.location, path.name)}" if error.location else ""
        raise UserError(f"{error}{shown}") from None
    return "\n".join(filter(None, (report_text(source, findings, path.name), refused))), not findings
