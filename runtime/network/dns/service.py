"""The name servers of all containers that have one, on the engine's event loop."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass

from runtime.network.dns.host_servers import HostServers, asked_servers
from runtime.network.dns.message import Query
from runtime.network.dns.names import NameTable
from runtime.network.dns.server import ContainerServer
from runtime.network.dns.sockets import NamespaceThread, ServerSockets, open_server_sockets, reopen_server_sockets
from runtime.network.dns.upstream import Forwarder
from runtime.network.dns.view import Local, View, answer_locally
from runtime.network.faults import kernel_faults_explained


@dataclass
class _Served:
    resolver: _ContainerResolver
    server: ContainerServer
    netns_fd: int


class DnsService:
    """`names` is for the owner to fill. A container that is served keeps its network namespace alive."""

    def __init__(self, host_servers: HostServers | None = None) -> None:
        self.names = NameTable()
        self._host_servers = host_servers or HostServers()
        self._namespaces = NamespaceThread()
        self._forwarder = Forwarder(self._namespaces)
        self._served: dict[str, _Served] = {}

    def serves(self, container_id: str) -> bool:
        return container_id in self._served

    async def attach(
        self, container_id: str, netns_fd: int, view: View, known: bool = False, made: ServerSockets | None = None
    ) -> None:
        """Serve the container whose network namespace `netns_fd` is (it stays the caller's).

        `known`: it may have had a name server before this engine, and then gets it back on the same ports.
        `made` are its sockets, where they were made ahead; they are taken over.
        Raises SystemFault, NotSupported or PermissionDenied; then nothing is left.
        """
        self.detach(container_id)
        with ExitStack() as undo, kernel_faults_explained("set up a container's name server"):
            if made:
                undo.callback(made.close)
            own_fd = os.dup(netns_fd)
            undo.callback(os.close, own_fd)
            work = reopen_server_sockets if known else open_server_sockets
            sockets: ServerSockets = made if made else await self._namespaces.run(own_fd, work)
            undo.callback(sockets.close)
            resolver = _ContainerResolver(self, view, own_fd)
            server = ContainerServer(sockets, resolver)
            undo.callback(server.close)
            await server.start()
            self._served[container_id] = _Served(resolver, server, own_fd)
            undo.pop_all()

    def update(self, container_id: str, view: View) -> None:
        """The container's networks have changed."""
        self._served[container_id].resolver.view = view

    def detach(self, container_id: str) -> None:
        """No error if it is not served."""
        if served := self._served.pop(container_id, None):
            served.server.close()
            os.close(served.netns_fd)

    def close(self) -> None:
        """Containers keep their rules, and are served again by the next engine."""
        for container_id in list(self._served):
            self.detach(container_id)
        self._namespaces.close()

    @property
    def is_full(self) -> bool:
        return self._forwarder.is_full

    async def forward(self, data: bytes, query: Query, view: View, netns_fd: int, over_tcp: bool) -> bytes | None:
        if not view.forwards:
            return None
        servers = asked_servers(view.servers) or self._host_servers.current()
        return await self._forwarder.ask(data, query, servers, netns_fd, over_tcp)


class _ContainerResolver:
    """server.Resolver for one container."""

    def __init__(self, service: DnsService, view: View, netns_fd: int) -> None:
        self.view = view
        self._service = service
        self._netns_fd = netns_fd

    def answer(self, query: Query) -> Local | None:
        return answer_locally(query, self.view, self._service.names)

    @property
    def is_full(self) -> bool:
        return self._service.is_full

    async def forward(self, data: bytes, query: Query, over_tcp: bool) -> bytes | None:
        return await self._service.forward(data, query, self.view, self._netns_fd, over_tcp)
