"""The JSON bodies of requests, decoded as Go's encoding/json decodes them into moby's structs.

Names of fields are matched whatever their case (docker-py sends `detachKeys`), a value of the wrong type is refused
with the field's name, `null` means that nothing was said. Fields that are not listed pass as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runtime.errors import InvalidParameter

Field = Callable[[Any], Any]  # the value as the engine reads it; raises _Mismatch

_JSON_NAMES = {bool: "bool", str: "string", int: "number", float: "number", list: "array", dict: "object"}


class _Mismatch(Exception):
    """`path` grows on the way out, the innermost name first."""

    def __init__(self, value: Any, wanted: str) -> None:
        self.value = value
        self.wanted = wanted
        self.path: list[str] = []

    def __str__(self) -> str:
        kind = _JSON_NAMES[type(self.value)]
        shown = f" {self.value}" if kind == "number" else ""
        where = ".".join(reversed(self.path))
        return f"invalid JSON: json: cannot unmarshal {kind}{shown} into Go struct field {where} of type {self.wanted}"


class Body:
    """A request's document; `read` raises InvalidParameter."""

    def __init__(self, name: str, field: Field) -> None:
        self._name = name
        self._field = field

    def read(self, document: dict[str, Any]) -> dict[str, Any]:
        try:
            read: dict[str, Any] = self._field(document)
        except _Mismatch as mismatch:
            mismatch.path.append(self._name)
            raise InvalidParameter(str(mismatch)) from None
        return read


def _string(value: Any) -> str:
    if type(value) is not str:
        raise _Mismatch(value, "string")
    return value


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise _Mismatch(value, "bool")
    return value


def _number(name: str, bits: int, signed: bool) -> Field:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)

    def read(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise _Mismatch(value, name)
        return value

    return read


_int = _number("int", 64, True)
_int64 = _number("int64", 64, True)
_uint = _number("uint", 64, False)
_uint16 = _number("uint16", 16, False)
_uint32 = _number("uint32", 32, False)
_uint64 = _number("uint64", 64, False)


def _list(item: Field, empty: Any) -> Field:
    """`empty` stands for an element that is null."""

    def read(value: Any) -> list[Any]:
        if type(value) is not list:
            raise _Mismatch(value, "[]" + getattr(item, "__name__", "").strip("_"))
        return [empty if element is None else item(element) for element in value]

    return read


def _map(item: Field, empty: Any) -> Field:
    def read(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise _Mismatch(value, "map[string]" + getattr(item, "__name__", "").strip("_"))
        found = {}
        for name, element in value.items():
            try:
                found[name] = empty if element is None else item(element)
            except _Mismatch as mismatch:
                mismatch.path.append(name)
                raise
        return found

    return read


def _struct(**fields: Field) -> Field:
    names = {name.lower(): name for name in fields}

    def struct(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise _Mismatch(value, "struct")
        document: dict[str, Any] = value
        found = {}
        for given, element in document.items():
            name = given if given in fields else names.get(given.lower(), given)
            field = fields.get(name)
            try:
                found[name] = element if field is None or element is None else field(element)
            except _Mismatch as mismatch:
                mismatch.path.append(name)
                raise
        return found

    return struct


def _words(value: Any) -> list[str]:
    """moby's strslice: one string may stand for a list of it."""
    return [value] if type(value) is str else _strings(value)


def _set(value: Any) -> dict[str, Any]:
    """A map to empty structs, which have no fields to be wrong."""
    return _map(_struct(), {})(value)  # type: ignore[no-any-return]


_strings = _list(_string, "")
_texts = _map(_string, "")

_HEALTHCHECK = _struct(
    Test=_strings, Interval=_int64, Timeout=_int64, StartPeriod=_int64, StartInterval=_int64, Retries=_int
)
_CONFIG: dict[str, Field] = {
    "Hostname": _string,
    "Domainname": _string,
    "User": _string,
    "AttachStdin": _bool,
    "AttachStdout": _bool,
    "AttachStderr": _bool,
    "ExposedPorts": _set,
    "Tty": _bool,
    "OpenStdin": _bool,
    "StdinOnce": _bool,
    "Env": _strings,
    "Cmd": _words,
    "Healthcheck": _HEALTHCHECK,
    "ArgsEscaped": _bool,
    "Image": _string,
    "Volumes": _set,
    "WorkingDir": _string,
    "Entrypoint": _words,
    "NetworkDisabled": _bool,
    "MacAddress": _string,
    "OnBuild": _strings,
    "Labels": _texts,
    "StopSignal": _string,
    "StopTimeout": _int,
    "Shell": _words,
}

_THROTTLES = _list(_struct(Path=_string, Rate=_uint64), {})
_DEVICE_REQUEST = _struct(
    Driver=_string, Count=_int, DeviceIDs=_strings, Capabilities=_list(_strings, []), Options=_texts
)
_RESTART_POLICY = _struct(Name=_string, MaximumRetryCount=_int)
_RESOURCES: dict[str, Field] = {
    "CpuShares": _int64,
    "Memory": _int64,
    "NanoCpus": _int64,
    "CgroupParent": _string,
    "BlkioWeight": _uint16,
    "BlkioWeightDevice": _list(_struct(Path=_string, Weight=_uint16), {}),
    "BlkioDeviceReadBps": _THROTTLES,
    "BlkioDeviceWriteBps": _THROTTLES,
    "BlkioDeviceReadIOps": _THROTTLES,
    "BlkioDeviceWriteIOps": _THROTTLES,
    "CpuPeriod": _int64,
    "CpuQuota": _int64,
    "CpuRealtimePeriod": _int64,
    "CpuRealtimeRuntime": _int64,
    "CpusetCpus": _string,
    "CpusetMems": _string,
    "Devices": _list(_struct(PathOnHost=_string, PathInContainer=_string, CgroupPermissions=_string), {}),
    "DeviceCgroupRules": _strings,
    "DeviceRequests": _list(_DEVICE_REQUEST, {}),
    "KernelMemory": _int64,
    "KernelMemoryTCP": _int64,
    "MemoryReservation": _int64,
    "MemorySwap": _int64,
    "MemorySwappiness": _int64,
    "OomKillDisable": _bool,
    "PidsLimit": _int64,
    "Ulimits": _list(_struct(Name=_string, Soft=_int64, Hard=_int64), {}),
    "CpuCount": _int64,
    "CpuPercent": _int64,
    "IOMaximumIOps": _uint64,
    "IOMaximumBandwidth": _uint64,
}
_MOUNT = _struct(
    Type=_string,
    Source=_string,
    Target=_string,
    ReadOnly=_bool,
    Consistency=_string,
    BindOptions=_struct(
        Propagation=_string,
        NonRecursive=_bool,
        CreateMountpoint=_bool,
        ReadOnlyNonRecursive=_bool,
        ReadOnlyForceRecursive=_bool,
    ),
    VolumeOptions=_struct(
        NoCopy=_bool, Labels=_texts, Subpath=_string, DriverConfig=_struct(Name=_string, Options=_texts)
    ),
    ImageOptions=_struct(Subpath=_string),
    TmpfsOptions=_struct(SizeBytes=_int64, Mode=_uint32, Options=_list(_strings, [])),
)
_HOST_CONFIG = _struct(
    **_RESOURCES,
    Binds=_strings,
    ContainerIDFile=_string,
    LogConfig=_struct(Type=_string, Config=_texts),
    NetworkMode=_string,
    PortBindings=_map(_list(_struct(HostIp=_string, HostPort=_string), {}), []),
    RestartPolicy=_RESTART_POLICY,
    AutoRemove=_bool,
    VolumeDriver=_string,
    VolumesFrom=_strings,
    ConsoleSize=_list(_uint, 0),
    Annotations=_texts,
    CapAdd=_words,
    CapDrop=_words,
    CgroupnsMode=_string,
    Dns=_strings,
    DnsOptions=_strings,
    DnsSearch=_strings,
    ExtraHosts=_strings,
    GroupAdd=_strings,
    IpcMode=_string,
    Cgroup=_string,
    Links=_strings,
    OomScoreAdj=_int,
    PidMode=_string,
    Privileged=_bool,
    PublishAllPorts=_bool,
    ReadonlyRootfs=_bool,
    SecurityOpt=_strings,
    StorageOpt=_texts,
    Tmpfs=_texts,
    UTSMode=_string,
    UsernsMode=_string,
    ShmSize=_int64,
    Sysctls=_texts,
    Runtime=_string,
    Isolation=_string,
    Mounts=_list(_MOUNT, {}),
    MaskedPaths=_strings,
    ReadonlyPaths=_strings,
    Init=_bool,
)
_ENDPOINT = _struct(
    IPAMConfig=_struct(IPv4Address=_string, IPv6Address=_string, LinkLocalIPs=_strings),
    Links=_strings,
    Aliases=_strings,
    MacAddress=_string,
    DriverOpts=_texts,
    GwPriority=_int,
    NetworkID=_string,
    EndpointID=_string,
    Gateway=_string,
    IPAddress=_string,
    IPPrefixLen=_int,
    IPv6Gateway=_string,
    GlobalIPv6Address=_string,
    GlobalIPv6PrefixLen=_int,
    DNSNames=_strings,
)
_IPAM = _struct(
    Driver=_string,
    Options=_texts,
    Config=_list(_struct(Subnet=_string, IPRange=_string, Gateway=_string, AuxiliaryAddresses=_texts), {}),
)

CONTAINER_CONFIG = Body("Config", _struct(**_CONFIG))
CONTAINER_CREATE = Body(
    "CreateRequest",
    _struct(**_CONFIG, HostConfig=_HOST_CONFIG, NetworkingConfig=_struct(EndpointsConfig=_map(_ENDPOINT, None))),
)
CONTAINER_UPDATE = Body("UpdateConfig", _struct(**_RESOURCES, RestartPolicy=_RESTART_POLICY))
EXEC_CREATE = Body(
    "ExecCreateRequest",
    _struct(
        User=_string,
        Privileged=_bool,
        Tty=_bool,
        ConsoleSize=_list(_uint, 0),
        AttachStdin=_bool,
        AttachStdout=_bool,
        AttachStderr=_bool,
        Detach=_bool,
        DetachKeys=_string,
        Env=_strings,
        WorkingDir=_string,
        Cmd=_strings,
    ),
)
EXEC_START = Body("ExecStartRequest", _struct(Detach=_bool, Tty=_bool, ConsoleSize=_list(_uint, 0)))
NETWORK_CREATE = Body(
    "CreateRequest",
    _struct(
        Name=_string,
        CheckDuplicate=_bool,
        Driver=_string,
        Scope=_string,
        EnableIPv4=_bool,
        EnableIPv6=_bool,
        IPAM=_IPAM,
        Internal=_bool,
        Attachable=_bool,
        Ingress=_bool,
        ConfigOnly=_bool,
        ConfigFrom=_struct(Network=_string),
        Options=_texts,
        Labels=_texts,
    ),
)
NETWORK_CONNECT = Body("ConnectOptions", _struct(Container=_string, EndpointConfig=_ENDPOINT))
NETWORK_DISCONNECT = Body("DisconnectOptions", _struct(Container=_string, Force=_bool))
VOLUME_CREATE = Body("CreateOptions", _struct(Name=_string, Driver=_string, DriverOpts=_texts, Labels=_texts))
REGISTRY_LOGIN = Body(
    "AuthConfig",
    _struct(
        username=_string,
        password=_string,
        auth=_string,
        email=_string,
        serveraddress=_string,
        identitytoken=_string,
        registrytoken=_string,
    ),
)
