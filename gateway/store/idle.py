"""Tasks that nobody has called for long are completed (G-18); a later call goes on with them."""

import asyncio

from gateway.core.acts import Act, Verb
from gateway.store.limits import UnknownTask, server_ms
from gateway.store.redis_store import RedisStore
from gateway.store.steering import WrongState, steer_task

_BATCH = 200  # of one look: a store with very many tasks is gone through bit by bit
_OVER = ("completed", "killed", "blocked")


class IdleTasks:
    """Goes round a tenant's tasks, oldest first, a batch at a time."""

    def __init__(self, store: RedisStore, tenant: str, idle_ms: int) -> None:
        self._store = store
        self._names = store.keys(tenant)
        self._idle_ms = idle_ms
        self._at = 0
        reason = f"idle for {idle_ms:,} ms (tasks.idle_complete_ms)"
        self._act = Act("task.complete", "tollgate", reason)

    async def complete_some(self) -> list[str]:
        """Complete those of the next batch that are idle; return them. Raises StoreError."""
        connection, names = self._store.connection, self._names
        now_ms = int(self._store.now_ms or await server_ms(connection))
        oldest = ("ZRANGEBYSCORE", names.tasks, "-inf", now_ms - self._idle_ms)
        batch = await connection.execute(*oldest, "LIMIT", self._at, _BATCH)
        self._at = self._at + _BATCH if len(batch) == _BATCH else 0
        candidates = await asyncio.gather(*(self._may_be_idle(task, now_ms) for task in batch))
        return [
            task
            for task, may in zip(batch, candidates, strict=True)
            if may and await self._complete(task)
        ]

    async def _may_be_idle(self, task: str, now_ms: int) -> bool:
        """Return whether it is worth a script: that decides."""
        fields = ("state", "inflight", "last")
        state, inflight, last = await self._store.connection.execute(
            "HMGET", self._names.task(task), *fields
        )
        return (
            state not in _OVER
            and int(inflight or 0) <= 0
            and now_ms - int(last or 0) >= self._idle_ms
        )

    async def _complete(self, task: str) -> bool:
        try:
            steered = await steer_task(
                self._store.connection,
                self._names,
                task,
                Verb.COMPLETE,
                self._act,
                idle_ms=self._idle_ms,
                now_ms=self._store.now_ms,
            )
        except (UnknownTask, WrongState):
            return False
        return steered.changed
