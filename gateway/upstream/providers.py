"""The providers by name: one pool each. Behind the port `Upstreams`."""

import asyncio
from collections.abc import Mapping

from gateway.core.configuration import UpstreamSettings
from gateway.core.errors import InvalidConfigError
from gateway.core.headers import Headers
from gateway.ports import Answer, OpenedSocket, ResponseSink
from gateway.upstream.http1 import UpstreamExchange
from gateway.upstream.pool import Pool


class Providers:
    """All upstreams of a worker. Redirects are answers like any other: relayed, never followed.

    Raises InvalidConfigError with the faults of all upstreams together. Must be closed.
    """

    def __init__(
        self, upstreams: Mapping[str, UpstreamSettings], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._pools: dict[str, Pool] = {}
        faults: list[str] = []
        for name, settings in upstreams.items():
            try:
                self._pools[name] = Pool(name, settings, loop)
            except InvalidConfigError as error:
                faults += error.faults
        if faults:
            raise InvalidConfigError(faults)

    def has(self, name: str) -> bool:
        """Return whether `name` is configured."""
        return name in self._pools

    def settings(self, name: str) -> UpstreamSettings:
        """Return the settings of `name`; KeyError if it is not configured."""
        return self._pools[name].settings

    async def connect(self, name: str, sink: ResponseSink) -> UpstreamExchange:
        """Return an exchange with the upstream `name`; KeyError if it is not configured.

        Does not suspend if an idle connection is there. The caller must `send` on the exchange or
        `cancel` it. Raises UpstreamError (`upstream_unreachable`, `upstream_busy`), not `sent`.
        """
        return await self._pools[name].connect(sink)

    async def open_socket(
        self, name: str, target: bytes, headers: Headers
    ) -> OpenedSocket | Answer:
        """Return a WebSocket to the upstream `name`, or the answer that refuses it."""
        return await self._pools[name].open_socket(target, headers)

    @property
    def open_exchanges(self) -> int:
        """Return how many calls have a connection or are opening one."""
        return sum(pool.open_exchanges for pool in self._pools.values())

    async def close(self, drain_s: float) -> None:
        """Let open exchanges end for `drain_s`, then break them off; return when all is closed."""
        async with asyncio.TaskGroup() as closing:
            for pool in self._pools.values():
                closing.create_task(pool.close(drain_s))
