"""The operating system under the backend: the only place that asks which one it is.

Every adapter offers the same names:

- `data_home()`, `runtime_home()`: where machines live, and a short folder for sockets.
- `set_login_item(item, wanted)`: what is started when the user logs in, see `login.LoginItem`.
- `process_start_time(pid)`: an integer which, with the pid, identifies a process (a pid alone is reused);
  None when there is no such process.
- `kill_process(pid)`: end it at once. `detached_process_options()`: `subprocess` keywords for a child without
  a window or terminal that outlives its parent. `tie_to_this_process(pid)`: let the system end the child with us
  where it can; `ORPHANS_LIVE_ON` says where it cannot.
- `make_private(path)`: readable by this user alone. `sync_directory(path)`: what was renamed or removed in it stays so,
  also after a power cut. `try_lock(fd)`: an exclusive lock that dies with its holder.
- `bind_local(path)`, `connect_local(address)`: a stream socket for this user's own processes, a path or a
  loopback port; the address is `unix:PATH` or `tcp:HOST:PORT`, see `address_of`.
- `listen_tcp(address, port)`, `bind_udp(address, port)`: a port that no second program can have as well, of IPv4 or
  IPv6. `has_ipv6()`: whether there is a loopback of the latter.
- `engine_host(name, socket_path)`, `EngineListener`, `connect_engine`: the engine's endpoint on this system.
- `port_owner(protocol, port)`: who holds a port, in words. `FORBIDDEN_PORT_HINT`: what a refused one needs.
- `cpu_name()`, `machine_arch()`; `QEMU_INSTALL_COMMAND`.
- `TAKES_PAGES_BACK`: whether QEMU can return single pages of the guest's memory. `process_memory_bytes(pid)`: resident,
  None when there is no such process. `disk_usage_bytes(path)`: what a file really takes.
- `executable_memory(code)`: a context in which machine code can be called.
- `files`: a module with what shares do to files, as safe from links as the system allows.
- `ACCELERATOR_CANDIDATES`, `accelerator_obstacle(accelerator)`: what to try, and what is known to be in its way;
  `ACCELERATOR_REMEDY`: the switches to flip.
"""

import socket
import sys

if sys.platform == "win32":
    from vmbackend.host import files_windows as files
    from vmbackend.host.pipe_windows import EngineListener, connect_engine, engine_host
    from vmbackend.host.windows import (
        ACCELERATOR_CANDIDATES,
        ACCELERATOR_REMEDY,
        FORBIDDEN_PORT_HINT,
        ORPHANS_LIVE_ON,
        QEMU_INSTALL_COMMAND,
        TAKES_PAGES_BACK,
        accelerator_obstacle,
        bind_local,
        bind_udp,
        connect_local,
        cpu_name,
        data_home,
        detached_process_options,
        disk_usage_bytes,
        executable_memory,
        kill_process,
        listen_tcp,
        machine_arch,
        make_private,
        port_owner,
        process_memory_bytes,
        process_start_time,
        runtime_home,
        set_login_item,
        sync_directory,
        tie_to_this_process,
        try_lock,
    )
elif sys.platform == "darwin":
    from vmbackend.host import files_posix as files
    from vmbackend.host.macos import (
        ACCELERATOR_CANDIDATES,
        ACCELERATOR_REMEDY,
        FORBIDDEN_PORT_HINT,
        QEMU_INSTALL_COMMAND,
        accelerator_obstacle,
        cpu_name,
        data_home,
        machine_arch,
        port_owner,
        process_memory_bytes,
        process_start_time,
        runtime_home,
        set_login_item,
    )
    from vmbackend.host.posix import (
        ORPHANS_LIVE_ON,
        TAKES_PAGES_BACK,
        EngineListener,
        bind_local,
        bind_udp,
        connect_engine,
        connect_local,
        detached_process_options,
        disk_usage_bytes,
        engine_host,
        executable_memory,
        kill_process,
        listen_tcp,
        make_private,
        sync_directory,
        tie_to_this_process,
        try_lock,
    )
else:
    from vmbackend.host import files_posix as files
    from vmbackend.host.linux import (
        ACCELERATOR_CANDIDATES,
        ACCELERATOR_REMEDY,
        FORBIDDEN_PORT_HINT,
        QEMU_INSTALL_COMMAND,
        accelerator_obstacle,
        cpu_name,
        data_home,
        machine_arch,
        port_owner,
        process_memory_bytes,
        process_start_time,
        runtime_home,
        set_login_item,
    )
    from vmbackend.host.posix import (
        ORPHANS_LIVE_ON,
        TAKES_PAGES_BACK,
        EngineListener,
        bind_local,
        bind_udp,
        connect_engine,
        connect_local,
        detached_process_options,
        disk_usage_bytes,
        engine_host,
        executable_memory,
        kill_process,
        listen_tcp,
        make_private,
        sync_directory,
        tie_to_this_process,
        try_lock,
    )

__all__ = [
    "ACCELERATOR_CANDIDATES",
    "ACCELERATOR_REMEDY",
    "FORBIDDEN_PORT_HINT",
    "ORPHANS_LIVE_ON",
    "QEMU_INSTALL_COMMAND",
    "TAKES_PAGES_BACK",
    "EngineListener",
    "accelerator_obstacle",
    "address_of",
    "bind_local",
    "bind_udp",
    "connect_engine",
    "connect_local",
    "cpu_name",
    "data_home",
    "detached_process_options",
    "disk_usage_bytes",
    "engine_host",
    "executable_memory",
    "files",
    "has_ipv6",
    "kill_process",
    "listen_tcp",
    "machine_arch",
    "make_private",
    "port_owner",
    "process_memory_bytes",
    "process_start_time",
    "runtime_home",
    "set_login_item",
    "sync_directory",
    "tie_to_this_process",
    "try_lock",
]


def address_of(listener: socket.socket) -> str:
    """The address of a socket made by `bind_local`, for `connect_local`."""
    name = listener.getsockname()
    return f"unix:{name}" if isinstance(name, str) else f"tcp:{name[0]}:{name[1]}"


def has_ipv6() -> bool:
    try:
        bind_udp("::1", 0).close()
    except OSError:
        return False
    return True
