"""Shapes of the OCI runtime specification's config.json, 1.2 (opencontainers/runtime-spec, config*.md).

Keys are the specification's own. Nothing here runs at container start: the shapes are for whoever writes a
bundle and for the type checker.
"""

from typing import Any, NotRequired, TypedDict


class Root(TypedDict):
    path: str
    readonly: NotRequired[bool]


class Box(TypedDict):
    """A terminal's size in characters."""

    height: int
    width: int


class User(TypedDict):
    uid: int
    gid: int
    umask: NotRequired[int]
    additionalGids: NotRequired[list[int]]


class LinuxCapabilities(TypedDict, total=False):
    effective: list[str]
    permitted: list[str]
    inheritable: list[str]
    bounding: list[str]
    ambient: list[str]


class Rlimit(TypedDict):
    """`type` is a name like RLIMIT_NOFILE."""

    type: str
    soft: int
    hard: int


class Process(TypedDict):
    args: NotRequired[list[str]]
    cwd: str
    terminal: NotRequired[bool]
    consoleSize: NotRequired[Box]
    env: NotRequired[list[str]]
    user: NotRequired[User]
    rlimits: NotRequired[list[Rlimit]]
    capabilities: NotRequired[LinuxCapabilities]
    noNewPrivileges: NotRequired[bool]
    oomScoreAdj: NotRequired[int]
    apparmorProfile: NotRequired[str]
    selinuxLabel: NotRequired[str]


class Mount(TypedDict):
    destination: str
    type: NotRequired[str]
    source: NotRequired[str]
    options: NotRequired[list[str]]


class Hook(TypedDict):
    """`timeout` is in seconds."""

    path: str
    args: NotRequired[list[str]]
    env: NotRequired[list[str]]
    timeout: NotRequired[int]


class Hooks(TypedDict, total=False):
    prestart: list[Hook]
    createRuntime: list[Hook]
    createContainer: list[Hook]
    startContainer: list[Hook]
    poststart: list[Hook]
    poststop: list[Hook]


class Namespace(TypedDict):
    """`type` is pid, network, mount, ipc, uts, user, cgroup or time; with `path` it is joined, not made."""

    type: str
    path: NotRequired[str]


class IDMapping(TypedDict):
    containerID: int
    hostID: int
    size: int


class Device(TypedDict):
    """`type` is c, b, u or p."""

    path: str
    type: str
    major: NotRequired[int]
    minor: NotRequired[int]
    fileMode: NotRequired[int]
    uid: NotRequired[int]
    gid: NotRequired[int]


class DeviceCgroup(TypedDict):
    allow: bool
    type: NotRequired[str]
    major: NotRequired[int]
    minor: NotRequired[int]
    access: NotRequired[str]


class LinuxMemory(TypedDict, total=False):
    """Sizes in bytes; -1 is without limit."""

    limit: int
    reservation: int
    swap: int
    kernel: int
    kernelTCP: int
    swappiness: int
    disableOOMKiller: bool
    useHierarchy: bool
    checkBeforeUpdate: bool


class LinuxCPU(TypedDict, total=False):
    """`quota`, `period` and `burst` in microseconds."""

    shares: int
    quota: int
    burst: int
    period: int
    realtimeRuntime: int
    realtimePeriod: int
    cpus: str
    mems: str
    idle: int


class LinuxPids(TypedDict):
    limit: int


class LinuxWeightDevice(TypedDict):
    major: int
    minor: int
    weight: NotRequired[int]
    leafWeight: NotRequired[int]


class LinuxThrottleDevice(TypedDict):
    """`rate` in bytes or operations per second."""

    major: int
    minor: int
    rate: int


class LinuxBlockIO(TypedDict, total=False):
    weight: int
    leafWeight: int
    weightDevice: list[LinuxWeightDevice]
    throttleReadBpsDevice: list[LinuxThrottleDevice]
    throttleWriteBpsDevice: list[LinuxThrottleDevice]
    throttleReadIOPSDevice: list[LinuxThrottleDevice]
    throttleWriteIOPSDevice: list[LinuxThrottleDevice]


class LinuxHugepageLimit(TypedDict):
    """`limit` in bytes."""

    pageSize: str
    limit: int


class LinuxInterfacePriority(TypedDict):
    name: str
    priority: int


class LinuxNetwork(TypedDict, total=False):
    classID: int
    priorities: list[LinuxInterfacePriority]


class LinuxRdma(TypedDict, total=False):
    hcaHandles: int
    hcaObjects: int


class LinuxResources(TypedDict, total=False):
    devices: list[DeviceCgroup]
    memory: LinuxMemory
    cpu: LinuxCPU
    pids: LinuxPids
    blockIO: LinuxBlockIO
    hugepageLimits: list[LinuxHugepageLimit]
    network: LinuxNetwork
    rdma: dict[str, LinuxRdma]
    unified: dict[str, str]


class SeccompArg(TypedDict):
    index: int
    value: int
    valueTwo: NotRequired[int]
    op: str


class SeccompRule(TypedDict):
    names: list[str]
    action: str
    errnoRet: NotRequired[int]
    args: NotRequired[list[SeccompArg]]


class LinuxSeccomp(TypedDict):
    defaultAction: str
    defaultErrnoRet: NotRequired[int]
    architectures: NotRequired[list[str]]
    flags: NotRequired[list[str]]
    listenerPath: NotRequired[str]
    listenerMetadata: NotRequired[str]
    syscalls: NotRequired[list[SeccompRule]]


class Linux(TypedDict, total=False):
    namespaces: list[Namespace]
    uidMappings: list[IDMapping]
    gidMappings: list[IDMapping]
    devices: list[Device]
    cgroupsPath: str
    resources: LinuxResources
    rootfsPropagation: str
    seccomp: LinuxSeccomp
    sysctl: dict[str, str]
    maskedPaths: list[str]
    readonlyPaths: list[str]
    mountLabel: str
    timeOffsets: dict[str, dict[str, int]]
    personality: dict[str, Any]
    intelRdt: dict[str, Any]


class Spec(TypedDict):
    ociVersion: str
    root: NotRequired[Root]
    mounts: NotRequired[list[Mount]]
    process: NotRequired[Process]
    hostname: NotRequired[str]
    domainname: NotRequired[str]
    hooks: NotRequired[Hooks]
    annotations: NotRequired[dict[str, str]]
    linux: NotRequired[Linux]
