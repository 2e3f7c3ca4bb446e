"""Do the store's totals and the ledger's sums agree? And giving the store back what it has lost.

Both look at the same moment: the store is read with its latest sequence number and stream entry,
the ledger once it has that entry, up to that number. So calls may go on meanwhile.

A rebuild is made of the differences: what the ledger has and the store lacks is added. It may be
interrupted and repeated, and it never lowers a total: what the store has and the ledger lacks may
be an entry that was lost, and is only reported.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from sqlalchemy import Connection, select

from gateway.core.errors import StoreError
from gateway.ledger.history import TaskPast, read_pasts, recent_tombstones
from gateway.ledger.records import give_back_records
from gateway.ledger.schema import CALLS, TASKS
from gateway.ledger.sums import is_summed, task_sums
from gateway.ledger.windows import (
    PREFIX,
    WindowDifference,
    compare_windows,
    give_back_windows,
    known_windows,
)
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys
from gateway.store.limits import decode_override
from gateway.store.restore import (
    Audit,
    Fields,
    Restoration,
    read_audit,
    remember_calls,
    restore_task,
)

_BATCH = 200
_LOOKS = 3  # at a task that differs: a correction of an earlier charge may be under way
_ATTEMPTS = 20
_REBUILD_MS = 15_000  # after a rebuild that died, the next one waits so long

Item = TypeVar("Item")

CatchUp = Callable[[str], Awaitable[None]]
"""Return when the ledger has every entry up to an id. Raises LedgerError if that takes too long."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure on which the store and the ledger do not agree.

    `task` may be a window of a spend limit, with `window:` before its name.
    """

    task: str
    field: str
    store: int
    ledger: int


@dataclass(frozen=True, slots=True)
class Verified:
    """How many tasks and windows of spend limits were compared, and where they differ."""

    tasks: int
    differences: tuple[Difference, ...]
    windows: int = 0


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """How many tasks were looked at, how many lacked something, and the tombstones left.

    And how many windows of spend limits, gateway keys and session bindings lacked something.
    """

    tasks: int
    restored: int
    tombstones: int
    windows: int = 0
    keys: int = 0
    sessions: int = 0


class Comparison:
    """The store and the ledger of one tenant, side by side."""

    def __init__(
        self, store: StoreConnection, tenant: str, ledger: Connection, catch_up: CatchUp
    ) -> None:
        self._store = store
        self._tenant = tenant
        self._names = TenantKeys(tenant)
        self._ledger = ledger
        self._catch_up = catch_up

    # Verify -------------------------------------------------------------------------------------

    async def verify(self, only: str | None = None) -> Verified:
        """Compare all tasks and windows, or one task. Raises StoreError and LedgerError."""
        compared, differences = 0, list[Difference]()
        tasks = [only] if only else await self._all_tasks()
        for batch in _batches(tasks):
            compared += len(batch)
            found = await self._differences(batch)
            for _ in range(_LOOKS - 1):
                if found:
                    found = await self._differences(sorted({one.task for one in found}))
            differences += found
        windows = [] if only else await known_windows(self._store, self._tenant, self._ledger)
        for batch in _batches(windows):
            differences += await self._differing_windows(batch)
        return Verified(compared, tuple(differences), len(windows))

    async def _differing_windows(self, windows: Sequence[str]) -> list[Difference]:
        found: list[WindowDifference] = []
        for _ in range(_LOOKS):
            found = await compare_windows(
                self._store, self._tenant, self._ledger, self._catch_up, windows
            )
            windows = sorted({one.window for one in found})
            if not windows:
                break
        return [Difference(PREFIX + one.window, *one[1:]) for one in found]

    async def _differences(self, tasks: Sequence[str]) -> list[Difference]:
        audit, sums = await self._both(tasks)
        return [
            difference
            for task in tasks
            for difference in _compare(task, audit.tasks[task], sums.get(task, {}))
        ]

    async def _both(self, tasks: Sequence[str]) -> tuple[Audit, Mapping[str, Mapping[str, int]]]:
        audit = await read_audit(self._store, self._names, tasks)
        await self._catch_up(audit.last_entry)
        sums = task_sums(self._ledger, self._tenant, tasks, audit.number)
        self._ledger.rollback()  # the next look must not see an old snapshot
        return audit, sums

    async def _all_tasks(self) -> list[str]:
        """Return the tasks that either side knows, buckets of untagged calls among them."""
        known = set(await self._store.execute("ZRANGE", self._names.tasks, 0, -1))
        for table in (TASKS, CALLS):
            known.update(
                self._ledger.scalars(
                    select(table.c.task).where(table.c.tenant == self._tenant).distinct()
                )
            )
        self._ledger.rollback()
        return sorted(known)

    # Rebuild ------------------------------------------------------------------------------------

    async def rebuild(self, tombstone_ms: int) -> Rebuilt:
        """Add to the store what the ledger has and it lacks. Raises StoreError and LedgerError."""
        await self._begin_rebuild()
        keys, sessions = await give_back_records(
            self._store, self._tenant, self._ledger, self._go_on
        )
        tombstones = await self._remember(tombstone_ms)
        tasks, restored = await self._all_tasks(), 0
        for batch in _batches(tasks):
            audit, sums = await self._both(batch)
            pasts = read_pasts(self._ledger, self._tenant, batch)
            self._ledger.rollback()
            for task in batch:
                restored += await self._restore(
                    task, audit.tasks[task], sums.get(task, {}), pasts.get(task)
                )
            await self._go_on()
        windows = await give_back_windows(
            self._store, self._tenant, self._ledger, self._catch_up, self._go_on
        )
        await self._store.execute("DEL", self._names.ledger_rebuild)
        return Rebuilt(len(tasks), restored, tombstones, windows, keys, sessions)

    async def _begin_rebuild(self) -> None:
        """Keep others from adding the same once more. Raises StoreError (`rebuilding`)."""
        key = self._names.ledger_rebuild
        if not await self._store.execute("SET", key, "1", "NX", "PX", _REBUILD_MS):
            raise StoreError("rebuilding", "another rebuild is under way; repeat in a while")

    async def _go_on(self) -> None:
        """Keep others away for a while yet."""
        await self._store.execute("PEXPIRE", self._names.ledger_rebuild, _REBUILD_MS)

    async def _remember(self, tombstone_ms: int) -> int:
        left = 0
        for stones in _batches(recent_tombstones(self._ledger, self._tenant, tombstone_ms)):
            left += await remember_calls(self._store, self._names, stones, tombstone_ms)
        self._ledger.rollback()
        return left

    async def _restore(
        self, task: str, stored: Fields, sums: Mapping[str, int], past: TaskPast | None
    ) -> bool:
        """Give one task back what it lacks; return whether that was anything."""
        added = {
            one.field: one.ledger - one.store
            for one in _compare(task, stored, sums)
            if one.ledger > one.store
        }
        for _ in range(_ATTEMPTS):
            what = await self._what_to_restore(task, stored, added, past)
            if what is None:
                return False
            if await restore_task(self._store, self._names, what):
                return True
            audit = await read_audit(self._store, self._names, [task])
            stored = audit.tasks[task]  # limits were changed; what was added meanwhile is no loss
        raise StoreError("conflict", f"the limits of task {task} keep changing; try again")

    async def _what_to_restore(
        self, task: str, stored: Fields, added: Mapping[str, int], past: TaskPast | None
    ) -> Restoration | None:
        if past is None:  # it has calls, but nobody told when it began: only sums can be given back
            return Restoration(task, 0, stored.get("version", ""), added=added) if added else None
        history = await self._store.execute("LRANGE", self._names.overrides(task), 0, -1)
        lacks_limits = past.lacks_limits(stored, history)
        if not added and not lacks_limits and not past.lacks_acts(stored):
            return None
        overrides = sorted({*history, *past.overrides}, key=_made_at)
        return Restoration(
            task,
            past.created_ms,
            stored.get("version", ""),
            limits=past.limit_fields(overrides) if lacks_limits else (),
            overrides=overrides,
            added=added,
            missing=past.missing,
            least=past.least,
            trip=past.trip,
        )


def _made_at(override: str) -> int:
    return decode_override(override).created_ms


def _compare(task: str, stored: Fields, sums: Mapping[str, int]) -> Iterator[Difference]:
    """Yield every sum on which the two sides do not agree."""
    names = {name for name in stored if is_summed(name)} | set(sums)
    for name in sorted(names):
        there, here = int(stored.get(name) or 0), sums.get(name, 0)
        if there != here:
            yield Difference(task, name, there, here)


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    rest = iter(items)
    while batch := list(islice(rest, _BATCH)):
        yield batch
