"""The engine's options about registries and proxies, named as dockerd's."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from urllib.parse import urlsplit

from runtime.errors import InvalidParameter
from runtime.registry.hosts import RegistrySettings

_PROXIES = ("http_proxy", "https_proxy", "no_proxy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--registry-mirror",
        action="append",
        default=[],
        metavar="URL",
        help="a registry asked before docker.io; may be repeated",
    )
    parser.add_argument(
        "--insecure-registry",
        action="append",
        default=[],
        metavar="HOST",
        help="a registry (host, host:port or network) that may use plain HTTP or an unknown certificate; may be "
        "repeated (default: those on this machine)",
    )
    parser.add_argument(
        "--registry-certs-dir",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="DIR/HOST[:PORT]/*.crt are trusted for that registry (default: /etc/docker/certs.d, /etc/wherry/certs.d)",
    )
    for name in _PROXIES:
        option = name.replace("_", "-")
        what = "hosts and domains reached without" if name == "no_proxy" else "for pulling and pushing,"
        parser.add_argument(
            f"--{option}", metavar="URL", help=f"{what} a proxy (default: {name.upper()} of the environment)"
        )


def settings_of(args: argparse.Namespace) -> RegistrySettings:
    """Proxies go into the environment, where the HTTP client and /info look. Raises InvalidParameter."""
    for name in _PROXIES:
        if value := getattr(args, name):
            os.environ[name] = os.environ[name.upper()] = value
    for mirror in args.registry_mirror:
        url = urlsplit(mirror)
        if url.scheme not in ("http", "https") or not url.netloc:
            raise InvalidParameter(f'invalid mirror: "{mirror}" is not a URL such as https://mirror.example.com')
        if url.path not in ("", "/") or url.query or url.fragment:
            raise InvalidParameter(f'invalid mirror: path, query, or fragment at end of the URI "{mirror}"')
    settings = RegistrySettings(tuple(args.registry_mirror), tuple(args.insecure_registry))
    if not args.registry_certs_dir:
        return settings
    return RegistrySettings(settings.mirrors, settings.insecure, tuple(args.registry_certs_dir))
