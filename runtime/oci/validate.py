"""Checking a config.json before anything is done with it (runtime-spec config.md and config-linux.md).

Shapes first, by small checkers that know the field's name, then what fields mean together. An unknown key is no error:
the specification says to ignore it.
"""

import posixpath
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from runtime.errors import InvalidParameter, NotSupported
from runtime.oci.sysctl import sysctl_namespace

NAMESPACES = frozenset(("cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"))
PROPAGATIONS = frozenset(prefix + kind for prefix in ("", "r") for kind in ("private", "slave", "shared", "unbindable"))
_DEVICE_TYPES = frozenset("cbup")
_MAX_ID = 2**32 - 2  # -1 means "no change" to the kernel
_MAX_RLIMIT = 2**64 - 1

_VERSION = re.compile(r"1\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+.*)?$")
_RLIMIT = re.compile(r"RLIMIT_[A-Z]+$")
_CAPABILITY = re.compile(r"CAP_[A-Z_]+$")
_SECCOMP_ACTION = re.compile(r"SCMP_ACT_[A-Z_]+$")

Checker = Callable[[str, Any], None]
"""Given a field's name and value; raises InvalidParameter naming the field."""


def validate(spec: Mapping[str, Any]) -> None:
    """Raise InvalidParameter for the first thing wrong in `spec`, NotSupported for what cannot be done here."""
    _object(_SPEC)("", spec)
    for required in ("ociVersion", "root", "process"):
        if required not in spec:
            raise _invalid(required, "is missing")
    _check_namespaces(spec)
    _check_mounts(spec)
    _check_rlimits(spec["process"])


def _invalid(field: str, problem: str) -> InvalidParameter:
    return InvalidParameter(f"config.json: {field} {problem}")


# Shapes


def _is(kind: type, words: str) -> Checker:
    def check(field: str, value: Any) -> None:
        # JSON's true is an int to Python, and no number to anybody else.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise _invalid(field, f"must be {words}, not {value!r}")

    return check


def _list(item: Checker, *, filled: bool = False) -> Checker:
    def check(field: str, value: Any) -> None:
        _is(list, "a list")(field, value)
        if filled and not value:
            raise _invalid(field, "must not be empty")
        for position, entry in enumerate(value):
            item(f"{field}[{position}]", entry)

    return check


def _mapping(item: Checker) -> Checker:
    def check(field: str, value: Any) -> None:
        _is(dict, "an object")(field, value)
        for key, entry in value.items():
            item(f"{field}[{key!r}]", entry)

    return check


def _object(fields: Mapping[str, Checker], required: Collection[str] = ()) -> Checker:
    def check(field: str, value: Any) -> None:
        _is(dict, "an object")(field or "the document", value)
        prefix = f"{field}." if field else ""
        for name in required:
            if name not in value:
                raise _invalid(prefix + name, "is missing")
        for name, checker in fields.items():
            if name in value:
                checker(prefix + name, value[name])

    return check


def _number(low: int, high: int) -> Checker:
    def check(field: str, value: Any) -> None:
        _is(int, "a number")(field, value)
        if not low <= value <= high:
            raise _invalid(field, f"must be from {low} to {high}, not {value}")

    return check


def _one_of(values: Collection[str]) -> Checker:
    def check(field: str, value: Any) -> None:
        _string(field, value)
        if value not in values:
            raise _invalid(field, f"must be one of {', '.join(sorted(values))}, not {value!r}")

    return check


def _matching(pattern: re.Pattern[str], words: str) -> Checker:
    def check(field: str, value: Any) -> None:
        _string(field, value)
        if not pattern.match(value):
            raise _invalid(field, f"must be {words}, not {value!r}")

    return check


def _string(field: str, value: Any) -> None:
    _is(str, "a string")(field, value)
    if "\0" in value:
        raise _invalid(field, "has a NUL character in it")


def _absolute_path(field: str, value: Any) -> None:
    _string(field, value)
    if not value.startswith("/"):
        raise _invalid(field, f"must be an absolute path, not {value!r}")


def _filled_string(field: str, value: Any) -> None:
    _string(field, value)
    if not value:
        raise _invalid(field, "must not be empty")


def _unsupported(words: str) -> Checker:
    def check(field: str, value: Any) -> None:
        if value:
            raise NotSupported(f"config.json: {field}: {words}")

    return check


_bool = _is(bool, "true or false")
_id = _number(0, _MAX_ID)
_mode = _number(0, 0o7777)
_capabilities = _list(_matching(_CAPABILITY, "a name like CAP_CHOWN"))
_hooks = _list(
    _object(
        {
            "path": _absolute_path,
            "args": _list(_string),
            "env": _list(_string),
            "timeout": _number(1, 2**31),
        },
        required=("path",),
    )
)

_PROCESS = {
    "terminal": _bool,
    "consoleSize": _object(
        {"height": _number(0, 2**16 - 1), "width": _number(0, 2**16 - 1)}, required=("height", "width")
    ),
    "user": _object(
        {"uid": _id, "gid": _id, "umask": _number(0, 0o777), "additionalGids": _list(_id)},
        required=("uid", "gid"),
    ),
    "args": _list(_string, filled=True),
    "env": _list(_string),
    "cwd": _absolute_path,
    "capabilities": _object(
        dict.fromkeys(("bounding", "effective", "inheritable", "permitted", "ambient"), _capabilities)
    ),
    "rlimits": _list(
        _object(
            {
                "type": _matching(_RLIMIT, "a name like RLIMIT_NOFILE"),
                "soft": _number(0, _MAX_RLIMIT),
                "hard": _number(0, _MAX_RLIMIT),
            },
            required=("type", "soft", "hard"),
        )
    ),
    "noNewPrivileges": _bool,
    "apparmorProfile": _string,
    "selinuxLabel": _string,
    "oomScoreAdj": _number(-1000, 1000),
    "scheduler": _unsupported("scheduling policies are not supported"),
    "ioPriority": _unsupported("I/O priorities are not supported"),
}

_LINUX = {
    "namespaces": _list(
        _object({"type": _one_of(NAMESPACES), "path": _absolute_path}, required=("type",)),
    ),
    "devices": _list(
        _object(
            {
                "path": _absolute_path,
                "type": _one_of(_DEVICE_TYPES),
                "major": _number(0, 2**32 - 1),
                "minor": _number(0, 2**32 - 1),
                "fileMode": _mode,
                "uid": _id,
                "gid": _id,
            },
            required=("path", "type"),
        )
    ),
    "cgroupsPath": _string,
    "resources": _is(dict, "an object"),
    "rootfsPropagation": _one_of(PROPAGATIONS | {""}),
    "seccomp": _object(
        {
            "defaultAction": _matching(_SECCOMP_ACTION, "an action like SCMP_ACT_ERRNO"),
            "architectures": _list(_string),
            "flags": _list(_string),
            "syscalls": _list(
                _object(
                    {
                        "names": _list(_filled_string, filled=True),
                        "action": _matching(_SECCOMP_ACTION, "an action like SCMP_ACT_ERRNO"),
                    },
                    required=("names", "action"),
                )
            ),
            "listenerPath": _unsupported("seccomp notification is not supported"),
        },
        required=("defaultAction",),
    ),
    "sysctl": _mapping(_string),
    "maskedPaths": _list(_absolute_path),
    "readonlyPaths": _list(_absolute_path),
    "uidMappings": _unsupported("user namespaces are not supported"),
    "gidMappings": _unsupported("user namespaces are not supported"),
    "timeOffsets": _unsupported("clock offsets are not supported"),
    "personality": _unsupported("execution domains are not supported"),
    "intelRdt": _unsupported("Intel RDT is not supported"),
    "mountLabel": _unsupported("SELinux mount labels are not supported"),
}

_SPEC = {
    "ociVersion": _matching(_VERSION, "a version 1.x of the specification"),
    "root": _object({"path": _filled_string, "readonly": _bool}, required=("path",)),
    "process": _object(_PROCESS, required=("cwd", "args")),
    "hostname": _string,
    "domainname": _string,
    "mounts": _list(
        _object(
            {
                "destination": _filled_string,
                "type": _string,
                "source": _string,
                "options": _list(_filled_string),
                "uidMappings": _unsupported("idmapped mounts are not supported"),
                "gidMappings": _unsupported("idmapped mounts are not supported"),
            },
            required=("destination",),
        )
    ),
    "hooks": _object(
        dict.fromkeys(
            ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"), _hooks
        )
    ),
    "annotations": _mapping(_string),
    "linux": _object(_LINUX),
}


# Fields together


def _check_namespaces(spec: Mapping[str, Any]) -> None:
    linux = spec.get("linux", {})
    namespaces = linux.get("namespaces", [])
    kinds = [namespace["type"] for namespace in namespaces]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise _invalid("linux.namespaces", f"lists {kind!r} twice")
    if "user" in kinds:
        raise NotSupported("config.json: linux.namespaces: user namespaces are not supported")
    if not any(namespace["type"] == "mount" and not namespace.get("path") for namespace in namespaces):
        raise _invalid("linux.namespaces", 'needs a new "mount" namespace')
    for field in ("hostname", "domainname"):
        if spec.get(field) and "uts" not in kinds:
            raise _invalid(field, 'needs a "uts" namespace, or it would be the host\'s')
    for name in linux.get("sysctl", {}):
        if (needed := sysctl_namespace(name)) is None:
            raise _invalid(f"linux.sysctl[{name!r}]", "is not of any namespace, it would change the host")
        if needed not in kinds:
            raise _invalid(f"linux.sysctl[{name!r}]", f"needs a {needed!r} namespace, or it would change the host")


def _check_mounts(spec: Mapping[str, Any]) -> None:
    for position, mount in enumerate(spec.get("mounts", [])):
        if posixpath.normpath("/" + mount["destination"].lstrip("/")) == "/":
            raise _invalid(f"mounts[{position}].destination", "must not be the root itself")
        is_bind = mount.get("type") == "bind" or {"bind", "rbind"} & set(mount.get("options", ()))
        if is_bind and not mount.get("source"):
            raise _invalid(f"mounts[{position}].source", "is missing: a bind mount needs one")
        if not is_bind and not mount.get("type"):
            raise _invalid(f"mounts[{position}].type", "is missing")


def _check_rlimits(process: Mapping[str, Any]) -> None:
    seen = set()
    for position, limit in enumerate(process.get("rlimits", [])):
        if limit["type"] in seen:
            raise _invalid(f"process.rlimits[{position}]", f"sets {limit['type']} a second time")
        if limit["soft"] > limit["hard"]:
            raise _invalid(f"process.rlimits[{position}].soft", "is above the hard limit")
        seen.add(limit["type"])
