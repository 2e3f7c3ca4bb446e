"""The store as calls meet it: a breaker before it, the journal behind it.

A slow store is worse than a dead one: after a few failures in a row calls are not sent to it for a
moment, then one is, as a probe. What could not be settled goes to the journal and is replayed when
the store is back, by whoever runs then.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from gateway.core.budget import TaskLimits
from gateway.core.call_facts import NO_OUTCOME, CallOutcome
from gateway.core.decision import Receipt
from gateway.core.enforcement import Switch
from gateway.core.errors import StoreError
from gateway.core.limit_standing import LimitStanding
from gateway.core.own_budget import OwnBudget
from gateway.core.sessions import Session
from gateway.core.spend_limits import SpendLimit
from gateway.ports import (
    BackgroundCall,
    Clock,
    Recorder,
    ReservePlan,
    Settled,
    Settlement,
    Stale,
    TaskFacts,
    TooManyTasks,
)
from gateway.store.journal import (
    Entry,
    Journal,
    JournalFile,
    ReleaseEntry,
    RememberEntry,
    SettleEntry,
)
from gateway.store.keys import PROBE_KEY
from gateway.store.redis_store import RedisStore

_FAILURES_TO_OPEN = 3
_OPEN_S = 0.5
_REPLAY_S = 0.5
_PROBE_MS = 1_000
_REFUSED = frozenset({"err", "wrongtype"})  # the store answers: this very command cannot be done
_NOT_COUNTED = frozenset({"duplicate", "lapsed"})  # answers, not failures to answer


class Breaker:
    """Closed: all pass. Open: none. Half open: one probe per `_OPEN_S`, the others fail at once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self._open_until = 0.0

    @property
    def is_closed(self) -> bool:
        """Return whether the store is believed to work."""
        return self._failures < _FAILURES_TO_OPEN

    def enter(self) -> None:
        """Let one command pass. Raises StoreError (`breaker_open`) while none may."""
        if self.is_closed:
            return
        now = self._clock()
        if now < self._open_until:
            raise StoreError("breaker_open", "the store failed repeatedly; it is not asked now")
        self._open_until = now + _OPEN_S

    def succeeded(self) -> None:
        """Close: the store answered."""
        self._failures = 0

    def failed(self) -> None:
        """Count a failure; at the limit the breaker opens."""
        self._failures += 1
        if self._failures == _FAILURES_TO_OPEN:
            self._open_until = self._clock() + _OPEN_S


class GuardedStore:
    """ports.BudgetStore: a RedisStore that fails fast and forgets nothing."""

    def __init__(
        self, store: RedisStore, journal: Journal, recorder: Recorder, clock: Clock
    ) -> None:
        self._store = store
        self._journal = journal
        self._recorder = recorder
        self._breaker = Breaker(clock)

    @property
    def is_well(self) -> bool:
        """Return whether the store is connected and answers."""
        return self._breaker.is_closed and self._store.connection.is_connected

    def facts_of(self, tenant: str, task: str) -> TaskFacts | None:
        """See ports.BudgetStore."""
        return self._store.facts_of(tenant, task)

    async def read_facts(self, tenant: str, task: str) -> TaskFacts | None:
        """See ports.BudgetStore."""
        self._breaker.enter()
        try:
            facts = await self._store.read_facts(tenant, task)
        except StoreError as error:
            self._note_failure(error)
            raise
        self._breaker.succeeded()
        return facts

    async def begin(
        self, tenant: str, task: str, facts: TaskFacts, limits: TaskLimits
    ) -> TaskFacts:
        """See ports.BudgetStore."""
        self._breaker.enter()
        return await self._store.begin(tenant, task, facts, limits)

    async def read_limits(
        self, tenant: str, limits: Sequence[SpendLimit]
    ) -> tuple[LimitStanding, ...]:
        """See ports.BudgetStore."""
        self._breaker.enter()
        return await self._store.read_limits(tenant, limits)

    async def read_budget(self, tenant: str, task: str) -> OwnBudget | None:
        """See ports.BudgetStore."""
        self._breaker.enter()
        return await self._store.read_budget(tenant, task)

    def session_of(self, tenant: str, session_id: str) -> Session | None:
        """See ports.BudgetStore."""
        return self._store.session_of(tenant, session_id)

    async def read_session(self, tenant: str, session_id: str) -> Session:
        """See ports.BudgetStore."""
        self._breaker.enter()
        try:
            session = await self._store.read_session(tenant, session_id)
        except StoreError as error:
            self._note_failure(error)
            raise
        self._breaker.succeeded()
        return session

    def switch_of(self, tenant: str) -> Switch:
        """See ports.BudgetStore."""
        return self._store.switch_of(tenant)

    async def read_switch(self, tenant: str) -> Switch:
        """See ports.BudgetStore."""
        self._breaker.enter()
        return await self._store.read_switch(tenant)

    async def reserve(self, plan: ReservePlan) -> Receipt:
        """See ports.BudgetStore."""
        self._breaker.enter()
        try:
            receipt = await self._store.reserve(plan)
        except (Stale, TooManyTasks):
            self._breaker.succeeded()
            raise
        except StoreError as error:
            self._note_failure(error)
            raise
        self._breaker.succeeded()
        return receipt

    async def settle(self, settlement: Settlement) -> Settled:
        """Settle, or keep the settlement in the journal; raises only if neither can be done."""
        try:
            self._breaker.enter()
            settled = await self._store.settle(settlement)
        except StoreError as error:
            self._note_failure(error)
            self._keep(SettleEntry(settlement))
            return Settled(duplicate=False)
        self._breaker.succeeded()
        return settled

    async def release(self, plan: ReservePlan, outcome: CallOutcome = NO_OUTCOME) -> None:
        """Release, or keep that in the journal; raises only if neither can be done."""
        try:
            self._breaker.enter()
            await self._store.release(plan, outcome)
        except StoreError as error:
            self._note_failure(error)
            self._keep(ReleaseEntry(plan, outcome))
        else:
            self._breaker.succeeded()

    async def remember_response(
        self, tenant: str, response_id: str, background: BackgroundCall
    ) -> None:
        """Remember, or keep that in the journal; raises only if neither can be done."""
        try:
            self._breaker.enter()
            await self._store.remember_response(tenant, response_id, background)
        except StoreError as error:
            self._note_failure(error)
            self._keep(RememberEntry(tenant, response_id, background))
        else:
            self._breaker.succeeded()

    async def recall_response(self, tenant: str, response_id: str) -> BackgroundCall | None:
        """See ports.BudgetStore."""
        self._breaker.enter()
        try:
            background = await self._store.recall_response(tenant, response_id)
        except StoreError as error:
            self._note_failure(error)
            raise
        self._breaker.succeeded()
        return background

    async def heartbeat(
        self, tenant: str, open_calls: Sequence[tuple[ReservePlan, int, int]]
    ) -> dict[str, str]:
        """See ports.BudgetStore."""
        return await self._store.heartbeat(tenant, open_calls)

    def _note_failure(self, error: StoreError) -> None:
        if error.reason == "breaker_open" or error.reason in _NOT_COUNTED:
            return
        was_closed = self._breaker.is_closed
        self._breaker.failed()
        if was_closed and not self._breaker.is_closed:
            self._recorder.event("store_breaker_opened", "critical", reason=error.reason)

    def _keep(self, entry: Entry) -> None:
        try:
            self._journal.append(entry)
        except OSError as error:
            self._recorder.event("journal_failed", "critical", error=str(error))
            raise StoreError("journal_failed", f"the journal cannot be written: {error}") from None
        self._recorder.event("journalled", "warning", kind=type(entry).__name__)

    # Replay -------------------------------------------------------------------------------------

    async def keep_replaying(self) -> None:
        """Look whether the store is back, and replay the journal if it is; until cancelled."""
        while True:
            if self._store.connection.is_connected:
                await self.probe()
                await self.replay()
            await asyncio.sleep(_REPLAY_S)

    async def probe(self) -> None:
        """Close an open breaker if the store takes a write: with no calls nobody would find out."""
        if self._breaker.is_closed:
            return
        with suppress(StoreError):
            self._breaker.enter()
            await self._store.connection.execute("SET", PROBE_KEY, 1, "PX", _PROBE_MS)
            self._breaker.succeeded()

    async def replay(self) -> int:
        """Apply what waits in the journal; return how many entries were applied."""
        applied = 0
        for file in self._journal.waiting():
            try:
                count = await self._replay_file(file)
            except StoreError:
                file.close()
                continue
            file.remove()
            applied += count
        if applied:
            self._recorder.event("journal_replayed", entries=applied)
        return applied

    async def _replay_file(self, file: JournalFile) -> int:
        count = 0
        for entry in file.entries():
            try:
                await self._apply(entry)
            except StoreError as error:
                if error.reason not in _REFUSED:
                    raise
                file.set_aside(entry)
                self._recorder.event("journal_entry_rejected", "critical", error=str(error))
            count += 1
        self._breaker.succeeded()
        return count

    async def _apply(self, entry: Entry) -> None:
        match entry:
            case SettleEntry():
                await self._store.settle(entry.settlement)
            case ReleaseEntry():
                await self._store.release(entry.plan, entry.outcome)
            case RememberEntry():
                await self._store.remember_response(
                    entry.tenant, entry.response_id, entry.background
                )
