"""The reaper: charges calls whose gateway died before it could settle, completes idle tasks."""

import asyncio
from collections.abc import Sequence

from gateway.core.errors import StoreError
from gateway.ports import Recorder
from gateway.store.examine import EpochWatch
from gateway.store.idle import IdleTasks
from gateway.store.redis_store import RedisStore

_BATCH = 100


class Reaper:
    """Sweeps the leases of all tenants. Any number of gateways may sweep: expiry is atomic."""

    def __init__(
        self,
        store: RedisStore,
        tenants: Sequence[str],
        recorder: Recorder,
        sweep_ms: int,
        idle_complete_ms: int | None = None,
    ) -> None:
        self._store = store
        self._tenants = tenants
        self._recorder = recorder
        self._sweep_s = sweep_ms / 1000
        idle_ms = idle_complete_ms
        self._idle = (
            [] if idle_ms is None else [IdleTasks(store, each, idle_ms) for each in tenants]
        )
        self._watches = [EpochWatch(store.connection, store.keys(tenant)) for tenant in tenants]

    async def run(self) -> None:
        """Sweep until cancelled; a store that does not answer is tried again next time."""
        while True:
            try:
                await self.sweep()
                await self.look_for_losses()
                await self.complete_idle()
            except StoreError as error:
                self._recorder.event("reaper_failed", "warning", reason=error.reason)
            await asyncio.sleep(self._sweep_s)

    async def sweep(self) -> int:
        """Charge every call that is due; return how many."""
        total = 0
        for tenant in self._tenants:
            while expired := await self._store.expire_due(tenant, _BATCH):
                total += len(expired)
                for call_id in expired:
                    self._recorder.event("call_expired", "warning", call_id=call_id)
        return total

    async def complete_idle(self) -> None:
        """Complete tasks that nobody has called for long."""
        for idle in self._idle:
            for task in await idle.complete_some():
                self._recorder.event(
                    "task_completed", task=task, approver="tollgate", reason="idle"
                )

    async def look_for_losses(self) -> None:
        """Say so, loudly, when the store has lost its data."""
        for watch in self._watches:
            if await watch.lost_data():
                self._recorder.event(
                    "store_lost_data",
                    "critical",
                    remedy="totals began anew; the ledger's writer gives back what it knows "
                    "(ledger.rebuild: auto), or run tollgate ledger rebuild",
                )
