"""Which kernel settings are a container's own (namespaces(7), ipc_namespaces(7))."""

_IPC_SYSCTLS = frozenset(
    "kernel." + name
    for name in (
        "auto_msgmni",
        "msg_next_id",
        "msgmax",
        "msgmnb",
        "msgmni",
        "sem",
        "sem_next_id",
        "shm_next_id",
        "shm_rmid_forced",
        "shmall",
        "shmmax",
        "shmmni",
    )
)


def sysctl_namespace(name: str) -> str | None:
    """The type of namespace the sysctl `name` belongs to, None if it is the whole machine's."""
    dotted = name.replace("/", ".")
    if ".." in dotted:
        return None
    if dotted.startswith("net."):
        return "network"
    if dotted in _IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
        return "ipc"
    if dotted in ("kernel.hostname", "kernel.domainname"):
        return "uts"
    return None
