"""What the supervisor sees of the store, and of who shares it: looked at again and again."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from gateway.core.configuration import Rules
from gateway.core.errors import StoreError
from gateway.overhead_watch import OverheadWatch
from gateway.ports import Recorder
from gateway.settings import Settings, breaker_rule
from gateway.store.connection import StoreConnection
from gateway.store.enforcement import read_switch
from gateway.store.gateways import LOOK_S, GatewayBook
from gateway.store.journal import Backlog, JournalWatch
from gateway.store.keys import TenantKeys
from gateway.store.stream_cap import StreamCap, StreamLag
from gateway.telemetry.counters import Counters

_WATCH_S = 1.0


class StoreWatch:
    """How the ledger's stream, the journal, the switch and the other gateways stood last."""

    def __init__(self) -> None:
        self.lag = StreamLag()
        self.backlog = Backlog()
        self.others_with_other_rules: tuple[str, ...] = ()
        self.switched_off = False

    async def watch_stream(self, stream: StreamCap, overhead: OverheadWatch | None) -> None:
        """Look at the ledger's stream and at the switch; feed the overhead breaker."""
        while True:
            with suppress(StoreError):  # its own failure is told by others
                self.lag = await stream.look()
                self.switched_off = bool(await read_switch(stream.connection, stream.names))
                if overhead is not None:
                    await overhead.look(switched_off=self.switched_off)
            await asyncio.sleep(_WATCH_S)

    async def watch_others(self, book: GatewayBook, rules: Callable[[], Rules]) -> None:
        """Compare rules with the other gateways of the store; take the own page out at the end."""
        try:
            while True:
                with suppress(StoreError):
                    self.others_with_other_rules = await book.look(rules())
                await asyncio.sleep(LOOK_S)
        finally:
            with suppress(StoreError):
                await book.leave()

    async def watch_journal(self, journals: JournalWatch) -> None:
        """Look at what waits on disk for the store."""
        while True:
            self.backlog = await asyncio.to_thread(journals.look)
            await asyncio.sleep(_WATCH_S)


def overhead_watch(
    settings: Settings,
    counters: Counters,
    connection: StoreConnection,
    names: TenantKeys,
    recorder: Recorder,
) -> OverheadWatch | None:
    """Return the overhead breaker, None where there is none."""
    if not settings.breaker.enabled:
        return None
    clock = asyncio.get_running_loop().time
    return OverheadWatch(breaker_rule(settings), counters, connection, names, recorder, clock)


def own_name(admin: socket.socket) -> str:
    """Return what this gateway is called among those of its store."""
    return f"{socket.gethostname()}:{admin.getsockname()[1]}"
