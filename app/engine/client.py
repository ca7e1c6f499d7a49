"""One method per call of the Docker Engine API that Wherry's app makes.

Every method raises EngineError when the engine says no and EngineUnreachable when nobody answers. A client is
safe to use from several threads at once; `close()` ends all that it still has open.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlencode

from app.engine.models import (
    Container,
    ContainerDetail,
    CreatedContainer,
    EngineInfo,
    EngineVersion,
    Event,
    ExecState,
    Image,
    ImageDetail,
    Progress,
    Stats,
)
from app.engine.streams import MULTIPLEXED, AttachedStream, JsonStream, OutputStream, Wait
from app.engine.transport import Query, Response, Transport, segment

API_VERSION = "1.44"  # the oldest that current Docker engines still serve; nothing here needs a newer one
DEFAULT_TIMEOUT_S = 30.0

WaitCondition = Literal["not-running", "next-exit", "removed"]
Filters = Mapping[str, Sequence[str]]

_UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}


class EngineClient:
    """`host` is an address as in DOCKER_HOST; `timeout_s` how long an answer may take to begin."""

    def __init__(self, host: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.host = host
        self._timeout_s = timeout_s
        self._transport = Transport(host, timeout_s, prefix=f"/v{API_VERSION}")

    def close(self) -> None:
        """End whatever is still open; calls that wait in other threads return or raise."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # engine

    def ping(self, timeout_s: float | None = None) -> None:
        """Returns if the engine answers."""
        self._transport.open("GET", "/_ping", timeout_s=timeout_s).read()

    def version(self) -> EngineVersion:
        return EngineVersion.from_json(self._transport.json("GET", "/version"))

    def info(self) -> EngineInfo:
        return EngineInfo.from_json(self._transport.json("GET", "/info"))

    def events(
        self, since: float | None = None, until: float | None = None, filters: Filters | None = None
    ) -> JsonStream[Event]:
        """Events as they happen (times in seconds since the epoch). Subscribed when this returns."""
        query = {"since": _seconds(since), "until": _seconds(until), "filters": _filters(filters)}
        return JsonStream(self._transport.open("GET", "/events", query), Event.from_json)

    # containers

    def containers(self, all: bool = True, filters: Filters | None = None) -> list[Container]:
        answer = self._transport.json("GET", "/containers/json", {"all": all, "filters": _filters(filters)})
        return [Container.from_json(value) for value in answer]

    def container(self, name: str) -> ContainerDetail:
        return ContainerDetail.from_json(self._transport.json("GET", f"/containers/{segment(name)}/json"))

    def create_container(self, config: Mapping[str, Any], name: str | None = None) -> CreatedContainer:
        """`config` is the body of /containers/create (see `app.services.containers`)."""
        return CreatedContainer.from_json(self._transport.json("POST", "/containers/create", {"name": name}, config))

    def start_container(self, name: str) -> None:
        """Returns once the container's program runs, or was refused by the kernel."""
        self._container_verb(name, "start")

    def stop_container(self, name: str, timeout_s: int | None = None) -> None:
        """SIGTERM, then SIGKILL after `timeout_s` (engine's default when None); returns when it has ended."""
        self._transport.json("POST", f"/containers/{segment(name)}/stop", {"t": timeout_s}, patient=True)

    def restart_container(self, name: str, timeout_s: int | None = None) -> None:
        self._transport.json("POST", f"/containers/{segment(name)}/restart", {"t": timeout_s}, patient=True)

    def kill_container(self, name: str, signal: str = "KILL") -> None:
        self._container_verb(name, "kill", {"signal": signal})

    def pause_container(self, name: str) -> None:
        self._container_verb(name, "pause")

    def unpause_container(self, name: str) -> None:
        self._container_verb(name, "unpause")

    def rename_container(self, name: str, new_name: str) -> None:
        self._container_verb(name, "rename", {"name": new_name})

    def resize_container(self, name: str, rows: int, columns: int) -> None:
        self._container_verb(name, "resize", {"h": rows, "w": columns})

    def remove_container(self, name: str, force: bool = False, volumes: bool = False) -> None:
        """`force` kills a running one; `volumes` removes its anonymous volumes too."""
        self._transport.json("DELETE", f"/containers/{segment(name)}", {"force": force, "v": volumes})

    def wait_container(self, name: str, condition: WaitCondition = "not-running") -> Wait:
        """Registered when this returns: what happens from now on is not missed."""
        query = {"condition": condition}
        return Wait(self._transport.open("POST", f"/containers/{segment(name)}/wait", query))

    def attach_container(
        self,
        name: str,
        tty: bool,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        logs: bool = False,
    ) -> AttachedStream:
        """Attached when this returns; attach before starting to miss nothing. `tty` as it was created."""
        query = {"stream": True, "stdin": stdin, "stdout": stdout, "stderr": stderr, "logs": logs}
        path = f"/containers/{segment(name)}/attach"
        return AttachedStream(self._transport.open("POST", path, query, headers=_UPGRADE), tty)

    def logs(
        self,
        name: str,
        follow: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        timestamps: bool = False,
        tail: int | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> OutputStream:
        """`tail` counts lines from the end (None: all); times are seconds since the epoch."""
        query = {
            "follow": follow,
            "stdout": stdout,
            "stderr": stderr,
            "timestamps": timestamps,
            "tail": "all" if tail is None else tail,
            "since": _seconds(since),
            "until": _seconds(until),
        }
        response = self._transport.open("GET", f"/containers/{segment(name)}/logs", query)
        return OutputStream(response, multiplexed=response.header("Content-Type").startswith(MULTIPLEXED))

    def stats(self, name: str) -> JsonStream[Stats]:
        """A reading a second."""
        response = self._transport.open("GET", f"/containers/{segment(name)}/stats", {"stream": True})
        return JsonStream(response, Stats.from_json)

    def _container_verb(self, name: str, verb: str, query: Mapping[str, str | int] | None = None) -> None:
        self._transport.json("POST", f"/containers/{segment(name)}/{verb}", query)

    # commands in running containers

    def create_exec(self, name: str, config: Mapping[str, Any]) -> str:
        """`config` is the body of /containers/{id}/exec; the new exec's id."""
        return str(self._transport.json("POST", f"/containers/{segment(name)}/exec", payload=config)["Id"])

    def start_exec(self, exec_id: str, tty: bool) -> AttachedStream:
        """Start it with its input and output connected."""
        body = json.dumps({"Detach": False, "Tty": tty}).encode()
        headers = {"Content-Type": "application/json", **_UPGRADE}
        return AttachedStream(self._transport.open("POST", f"/exec/{exec_id}/start", None, body, headers), tty)

    def start_exec_detached(self, exec_id: str) -> None:
        self._transport.json("POST", f"/exec/{exec_id}/start", payload={"Detach": True, "Tty": False})

    def exec_state(self, exec_id: str) -> ExecState:
        return ExecState.from_json(self._transport.json("GET", f"/exec/{exec_id}/json"))

    def resize_exec(self, exec_id: str, rows: int, columns: int) -> None:
        self._transport.json("POST", f"/exec/{exec_id}/resize", {"h": rows, "w": columns})

    # images

    def images(self, all: bool = False) -> list[Image]:
        return [Image.from_json(value) for value in self._transport.json("GET", "/images/json", {"all": all})]

    def image(self, reference: str) -> ImageDetail:
        return ImageDetail.from_json(self._transport.json("GET", f"/images/{segment(reference)}/json"))

    def load_images(self, archive: Iterable[bytes]) -> JsonStream[Progress]:
        """Upload a tar archive piece by piece; the stream says what was loaded."""
        headers = {"Content-Type": "application/x-tar"}
        response = self._transport.open("POST", "/images/load", None, archive, headers, patient=True)
        return JsonStream(response, Progress.from_json)

    def pull_image(self, reference: str, platform: str | None, authorization: str) -> JsonStream[Progress]:
        """`authorization` is X-Registry-Auth. A name without tag or digest stands for `latest`."""
        query = {"fromImage": reference, "platform": platform}
        headers = {"X-Registry-Auth": authorization}
        response = self._transport.open("POST", "/images/create", query, None, headers, patient=True)
        return JsonStream(response, Progress.from_json)

    def push_image(self, repository: str, tag: str, authorization: str) -> JsonStream[Progress]:
        """All tags when `tag` is empty."""
        headers = {"X-Registry-Auth": authorization}
        path = f"/images/{segment(repository)}/push"
        response = self._transport.open("POST", path, {"tag": tag}, None, headers, patient=True)
        return JsonStream(response, Progress.from_json)

    def check_login(self, server: str, username: str, password: str) -> str:
        """The identity token a registry gives for a password, or ""."""
        body = {"serveraddress": server, "username": username, "password": password}
        answer = self._transport.json("POST", "/auth", payload=body, patient=True)
        return str((answer or {}).get("IdentityToken") or "")

    def search_images(self, term: str, limit: int, authorization: str) -> list[dict[str, Any]]:
        """As the registry describes them: name, description, star_count, is_official."""
        headers = {"X-Registry-Auth": authorization}
        query: Query = {"term": term, "limit": limit}
        answer = self._transport.open("GET", "/images/search", query, None, headers, patient=True).read()
        return list(json.loads(answer))

    def image_history(self, reference: str) -> list[dict[str, Any]]:
        """As the engine answers it, the latest first."""
        return list(self._transport.json("GET", f"/images/{segment(reference)}/history"))

    def inspect(self, kind: Literal["containers", "images"], name: str) -> dict[str, Any]:
        """The engine's whole document."""
        return dict(self._transport.json("GET", f"/{kind}/{segment(name)}/json"))

    def save_images(self, references: Sequence[str]) -> Response:
        """A tar archive, read with `read_some`."""
        query = {"names": ",".join(references)}
        return self._transport.open("GET", "/images/get", query, patient=True)

    def build_image(
        self, query: str, context: Iterable[bytes] | None, headers: Mapping[str, str]
    ) -> JsonStream[dict[str, Any]]:
        """`query` is that of /build; without a context it names a remote one. The messages as they come."""
        headers = {"Content-Type": "application/x-tar", **headers}
        response = self._transport.open("POST", f"/build?{query}", None, context, headers, patient=True)
        return JsonStream(response, dict)

    def lend_agent(self, token: str) -> AttachedStream:
        """A connection over which the engine asks an SSH agent of this computer, for builds that name the token."""
        response = self._transport.open("POST", "/build/agents", {"token": token}, headers=_UPGRADE)
        return AttachedStream(response, tty=True)

    def exported_cache(self, image_id: str, mode: str) -> Response:
        """The build cache of an image just built: a tar of an OCI layout, read with `read_some`."""
        return self._transport.open("GET", "/build/cache", {"image": image_id, "mode": mode}, patient=True)

    def prune_builds(self, all: bool, keep_bytes: int) -> tuple[list[str], int]:
        """Empty the build cache; what was removed, and the bytes freed."""
        answer = self._transport.json("POST", "/build/prune", {"all": all, "keep-storage": keep_bytes}, patient=True)
        return list(answer["CachesDeleted"] or ()), int(answer["SpaceReclaimed"])

    def export_container(self, name: str) -> Response:
        """A container's files as a tar, read with `read_some`."""
        return self._transport.open("GET", f"/containers/{segment(name)}/export", patient=True)

    def verify_images(self, names: Sequence[str], repair: bool, authorizations: str) -> JsonStream[dict[str, Any]]:
        """Wherry's own; all images when none is named. `authorizations` is X-Registry-Config."""
        query = urlencode([*(("image", name) for name in names), ("repair", int(repair))])
        headers = {"X-Registry-Config": authorizations}
        response = self._transport.open("POST", f"/wherry/images/verify?{query}", None, None, headers, patient=True)
        return JsonStream(response, dict)

    def tag_image(self, reference: str, repository: str, tag: str) -> None:
        self._transport.json("POST", f"/images/{segment(reference)}/tag", {"repo": repository, "tag": tag})

    def remove_image(self, reference: str, force: bool = False) -> None:
        """Removes the tag, and the image with its last tag."""
        self._transport.json("DELETE", f"/images/{segment(reference)}", {"force": force})


def _filters(filters: Filters | None) -> str | None:
    return json.dumps({name: list(values) for name, values in filters.items()}) if filters else None


def _seconds(time_s: float | None) -> str | None:
    """A time as the engine reads it: seconds with nanoseconds after the point."""
    return None if time_s is None else f"{time_s:.9f}"
