"""Who one is to which registry: ~/.docker/config.json and its credential helpers, shared with the docker CLI.

See docker's documentation of `docker login`, "Credential stores", and the protocol of docker-credential-helpers.
"""

import base64
import json
import logging
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.core.errors import UserError
from app.services.docker_config import config_directory, read_document, write_document

log = logging.getLogger(__name__)

HUB = "https://index.docker.io/v1/"
HUB_NAMES = ("", "docker.io", "index.docker.io", "registry-1.docker.io", HUB)
HELPER_TIMEOUT_S = 30
_TOKEN_USER = "<token>"  # what helpers call the user of an identity token
_NOT_FOUND = "credentials not found"


@dataclass(frozen=True)
class Login:
    username: str = ""
    password: str = ""
    identity_token: str = ""

    def header(self, server: str) -> str:
        """X-Registry-Auth (Engine API, "Authentication")."""
        document = {"username": self.username, "password": self.password, "serveraddress": server}
        if self.identity_token:
            document = {"identitytoken": self.identity_token, "serveraddress": server}
        return base64.urlsafe_b64encode(json.dumps(document).encode()).decode()


def server_of(reference: str) -> str:
    """The registry an image's name leads to, as the configuration calls it."""
    first, slash, _ = reference.partition("/")
    if not slash or not (any(mark in first for mark in ".:") or first == "localhost"):
        return HUB
    return key_of(first)


def key_of(server: str) -> str:
    if server in HUB_NAMES:
        return HUB
    return server.removeprefix("https://").removeprefix("http://").partition("/")[0]


class Logins:
    """`path`: the configuration file; $DOCKER_CONFIG/config.json if not given."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or config_directory() / "config.json"

    def find(self, server: str) -> Login:
        """An empty one for a registry nobody has logged in to. Raises UserError."""
        config, key = read_document(self.path), key_of(server)
        if helper := _helper_of(config, key):
            return _ask_helper(helper, key)
        entries = config.get("auths") or {}
        entry: dict[str, str] = next((value for name, value in entries.items() if key_of(name) == key), {})
        username, _, password = base64.b64decode(entry.get("auth", "")).decode("utf-8", "replace").partition(":")
        return Login(username, password.rstrip("\0"), entry.get("identitytoken", ""))

    def headers_for(self, servers: Iterable[str]) -> str:
        """X-Registry-Config: all that may be needed. Raises UserError."""
        return _config_header({key_of(server): self.find(server) for server in servers})

    def mentioned(self, text: str | None) -> str:
        """X-Registry-Config: the hub's and those of registries that `text` names; of all there are for None.

        As for docker, one that cannot be had is left out: most base images need none.
        """
        found = {}
        for key in sorted({HUB, *self._known()}):
            if key == HUB or text is None or key in text:
                try:
                    found[key] = self.find(key)
                except UserError as error:
                    log.warning("the login of %s is left out: %s", key, error)
        return _config_header(found)

    def _known(self) -> set[str]:
        """The registries somebody has logged in to."""
        config = read_document(self.path)
        names = [*(config.get("auths") or {}), *(config.get("credHelpers") or {})]
        if store := str(config.get("credsStore") or ""):
            try:
                names += json.loads(_run_helper(store, "list", ""))
            except (UserError, ValueError) as error:
                log.warning("the logins of docker-credential-%s are not known: %s", store, error)
        return {key_of(name) for name in names}

    def store(self, server: str, login: Login) -> None:
        config, key = read_document(self.path), key_of(server)
        entry: dict[str, str] = {}
        if helper := _helper_of(config, key):
            user = _TOKEN_USER if login.identity_token else login.username
            secret = login.identity_token or login.password
            _run_helper(helper, "store", json.dumps({"ServerURL": key, "Username": user, "Secret": secret}))
        else:
            secret = "" if login.identity_token else login.password
            entry = {"auth": base64.b64encode(f"{login.username}:{secret}".encode()).decode()}
            entry |= {"identitytoken": login.identity_token} if login.identity_token else {}
        config.setdefault("auths", {})[key] = entry
        write_document(self.path, config)

    def erase(self, server: str) -> bool:
        """False for a registry nobody was logged in to."""
        config, key = read_document(self.path), key_of(server)
        known = [name for name in config.get("auths") or {} if key_of(name) == key]
        if known and (helper := _helper_of(config, key)):
            _run_helper(helper, "erase", key)
        for name in known:
            del config["auths"][name]
        if known:
            write_document(self.path, config)
        return bool(known)


def _config_header(logins: Mapping[str, Login]) -> str:
    """See the Engine API, "Image", ImageBuild."""
    document = {
        key: {"username": login.username, "password": login.password, "identitytoken": login.identity_token}
        for key, login in logins.items()
        if login != Login()
    }
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode()


def _helper_of(config: dict[str, Any], key: str) -> str:
    return str((config.get("credHelpers") or {}).get(key) or config.get("credsStore") or "")


def _ask_helper(helper: str, key: str) -> Login:
    try:
        answer = json.loads(_run_helper(helper, "get", key))
    except ValueError as failed:
        raise UserError(f"docker-credential-{helper} answered something else than JSON.") from failed
    if not answer:
        return Login()
    username, secret = str(answer.get("Username", "")), str(answer.get("Secret", ""))
    return Login(identity_token=secret) if username == _TOKEN_USER else Login(username, secret)


def _run_helper(helper: str, verb: str, text: str) -> str:
    """What the helper prints; "{}" when it has no such credentials. Raises UserError."""
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, verb], input=text, capture_output=True, text=True, timeout=HELPER_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as failed:
        raise UserError(f"The credential helper {program} cannot be used: {failed}.") from failed
    if done.returncode:
        said = (done.stdout or done.stderr).strip()
        if _NOT_FOUND in said:
            return "{}"
        raise UserError(f"The credential helper {program} failed: {said}.")
    return done.stdout
