"""What a client asks of a build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.engine.build.cache_documents import CacheSpec


@dataclass(frozen=True)
class BuildRequest:
    """`host_config` holds the limits and networking of RUN steps as Docker's HostConfig names them.

    A value of `build_args` is None when the client named the argument only. `cache_from`: with any, only what these
    images have is taken from the cache; `imports` come on top of it. `dockerfile_text` is a Dockerfile that came
    beside the context. `contexts`: by name `docker-image://NAME`, a URL, or `directory:PATH` in the context.
    `agents`: tokens of lent SSH agents.
    """

    dockerfile: str = "Dockerfile"
    dockerfile_text: bytes | None = None
    remote: str = ""
    tags: tuple[str, ...] = ()
    target: str = ""
    build_args: Mapping[str, str | None] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    no_cache: bool = False
    pull: bool = False
    cache_from: tuple[str, ...] = ()
    imports: tuple[CacheSpec, ...] = ()
    exports: tuple[CacheSpec, ...] = ()
    platform: str = ""
    quiet: bool = False
    keep_intermediate: bool = False
    host_config: Mapping[str, Any] = field(default_factory=dict)
    secrets: Mapping[str, bytes] = field(default_factory=dict)
    contexts: Mapping[str, str] = field(default_factory=dict)
    allowed: frozenset[str] = frozenset()
    agents: Mapping[str, str] = field(default_factory=dict)
    registry_auth: str = ""
