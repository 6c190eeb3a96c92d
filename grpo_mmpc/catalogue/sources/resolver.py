"""The resolver of downloads, in a module of its own because aiohttp takes long to import."""

import asyncio
import socket
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from grpo_mmpc.catalogue.sources.addresses import check_address


class PublicResolver(AbstractResolver):
    """Looks up names, and refuses those that mean an address that is not public.

    The connection is made to the address that was checked, so that a name cannot change its meaning
    in between.
    """

    def __init__(self, allowed_hosts: frozenset[str]) -> None:
        self._allowed = allowed_hosts

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a name.

        Raises:
            RefusedError: One of them is not public.
        """
        found: list[Any] = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG
        )
        if host not in self._allowed:
            for *_, address in found:
                check_address(host, address[0])
        return [
            ResolveResult(
                hostname=host, host=address[0], port=port, family=kind, proto=proto, flags=socket.AI_NUMERICHOST
            )
            for kind, _, proto, _, address in found
        ]

    async def close(self) -> None:
        """Hold nothing."""
