"""The budget store: turns plans into script calls and replies into receipts. No rule lives here."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.core.budget import TaskLimits
from gateway.core.call_facts import NO_OUTCOME, CallOutcome
from gateway.core.decision import Receipt
from gateway.core.enforcement import Switch
from gateway.core.errors import StoreError
from gateway.core.limit_standing import LimitStanding
from gateway.core.own_budget import OwnBudget
from gateway.core.phases import WorkPhase
from gateway.core.sessions import Session
from gateway.core.spend_limits import SpendLimit
from gateway.core.usage import UsageSource
from gateway.ports import (
    BackgroundCall,
    ReservePlan,
    Settled,
    Settlement,
    StaleFacts,
    StaleKey,
    StalePhase,
    StaleSession,
    StaleSwitch,
    TaskFacts,
)
from gateway.store.connection import Argument, StoreConnection
from gateway.store.enforcement import read_switch
from gateway.store.keys import (
    UNTAGGED_FACTS,
    TenantKeys,
    facts_from_text,
    facts_text,
    snapshot_fields,
)
from gateway.store.limits import refresh_limits, server_ms
from gateway.store.own_budget import read_budget, read_limits
from gateway.store.plan_words import EffectLetters, grace_words, loop_words, soft_line_words
from gateway.store.receipts import read_receipt
from gateway.store.registration import begin_task
from gateway.store.scripts import load_script
from gateway.store.sessions import SessionCopies, read_session
from gateway.store.task_caps import claim_task
from gateway.store.windows import WindowClock, rate_words

_FACTS_REMEMBERED = 100_000
_MOST_CALLS_PER_HEARTBEAT = 100
_MOST_ROUNDS = 20  # a new task, and overrides that run out on it and on its ancestors
_SNAPSHOT, _KIND, _WINDOWS = 4, 7, 25  # places among reserve's arguments
_SETTLES_WINDOWS = 20  # likewise, of settle
_BEFORE_TASK = 5  # keys of a script that come before the task's
_MOST_MODEL_TEXT = 64  # a longer value would make the hold's hash twice as dear
_encode = msgspec.json.Encoder().encode
_decode_background = msgspec.json.Decoder(BackgroundCall).decode
# A call must be known longer than what leads to it, else it would be charged twice.
_BACKGROUND_MS = 24 * 3_600_000
_BACKGROUND_TOMBSTONE_MS = 25 * 3_600_000


class RedisStore:
    """ports.BudgetStore over one connection."""

    def __init__(
        self,
        connection: StoreConnection,
        *,
        lease_ms: int = 30_000,
        tombstone_ms: int = 3_600_000,
        phase_idle_close_ms: int = 60_000,
        now_ms: str = "",
    ) -> None:
        self.connection = connection
        self.now_ms = now_ms  # '' is the server's clock; tests give their own
        self._lease_ms = lease_ms
        self._tombstone_ms = tombstone_ms
        self._phase_idle_close_ms = phase_idle_close_ms
        self._facts: OrderedDict[tuple[str, str], TaskFacts] = OrderedDict()
        self._sessions = SessionCopies()
        self._keys: dict[str, TenantKeys] = {}
        self._effects = EffectLetters()
        self._windows = WindowClock()
        self._switches: dict[str, Switch] = {}
        self._reserve, self._settle = load_script("reserve"), load_script("settle")
        self._release, self._expire = load_script("release"), load_script("expire")
        self._heartbeat = load_script("heartbeat")

    def keys(self, tenant: str) -> TenantKeys:
        """Return the key names of a tenant."""
        known = self._keys.get(tenant)
        if known is None:
            known = self._keys[tenant] = TenantKeys(tenant)
        return known

    def facts_of(self, tenant: str, task: str) -> TaskFacts | None:
        """Return a task's facts as far as this process has seen them."""
        return self._facts.get((tenant, task))

    def remember(self, tenant: str, task: str, facts: TaskFacts) -> None:
        """Keep a task's facts; of too many the oldest go."""
        self._facts[tenant, task] = facts
        if len(self._facts) > _FACTS_REMEMBERED:
            self._facts.popitem(last=False)

    async def read_facts(self, tenant: str, task: str) -> TaskFacts | None:
        """See ports.BudgetStore."""
        text = await self.connection.execute("HGET", self.keys(tenant).task(task), "facts")
        if text is None:
            return None
        facts = facts_from_text(text)
        self.remember(tenant, task, facts)
        return facts

    async def begin(
        self, tenant: str, task: str, facts: TaskFacts, limits: TaskLimits
    ) -> TaskFacts:
        """See ports.BudgetStore."""
        names = self.keys(tenant)
        begun = await begin_task(self.connection, names, task, facts, limits, now_ms=self.now_ms)
        self.remember(tenant, task, begun)
        return begun

    async def read_limits(
        self, tenant: str, limits: Sequence[SpendLimit]
    ) -> tuple[LimitStanding, ...]:
        """See ports.BudgetStore."""
        return await read_limits(self.connection, self.keys(tenant), self._windows, limits)

    async def read_budget(self, tenant: str, task: str) -> OwnBudget | None:
        """See ports.BudgetStore."""
        return await read_budget(self.connection, self.keys(tenant), task)

    def session_of(self, tenant: str, session_id: str) -> Session | None:
        """See ports.BudgetStore."""
        return self._sessions.get(tenant, session_id)

    async def read_session(self, tenant: str, session_id: str) -> Session:
        """See ports.BudgetStore."""
        session = await read_session(self.connection, self.keys(tenant), session_id)
        self._sessions.remember(tenant, session)
        return session

    def switch_of(self, tenant: str) -> Switch:
        """See ports.BudgetStore."""
        return self._switches.setdefault(tenant, Switch())

    async def read_switch(self, tenant: str) -> Switch:
        """See ports.BudgetStore."""
        switch = self.switch_of(tenant)
        switch.text = await read_switch(self.connection, self.keys(tenant))
        return switch

    # Reserve ------------------------------------------------------------------------------------

    async def reserve(self, plan: ReservePlan) -> Receipt:
        """See ports.BudgetStore."""
        reply = await self._ask(plan)
        self._check_fresh(plan, reply)
        if reply[0] == "duplicate":
            raise StoreError("duplicate", "the store has seen this call before")
        if (plan.tenant, plan.task) not in self._facts:
            self.remember(plan.tenant, plan.task, plan.facts)
        return read_receipt(plan, reply, self._windows.standing)

    async def look(self, plan: ReservePlan) -> Receipt:
        """Return what a reserve would answer; nothing is held, counted, tripped or created.

        Raises Stale, StoreError.
        """
        args = self._reserve_args(plan)
        args[_SNAPSHOT], args[_KIND] = self._snapshot_json(plan), f"look {plan.kind}"
        reply = await self._ask(plan, args)
        self._check_fresh(plan, reply)
        return read_receipt(plan, reply, self._windows.standing)

    def _check_fresh(self, plan: ReservePlan, reply: list[Any]) -> None:
        """Raise what was stale of a plan, and know it from now on."""
        if reply[0] == "facts":
            self.remember(plan.tenant, plan.task, facts_from_text(reply[1]))
            raise StaleFacts
        if reply[0] == "phase":
            raise StalePhase(WorkPhase(reply[1]) if reply[1] else None)
        if reply[0] == "key":
            raise StaleKey(reply[1])
        if reply[0] == "session" and plan.session is not None:
            self._sessions.forget(plan.tenant, plan.session.id)
            raise StaleSession
        if reply[0] == "switch":
            self.switch_of(plan.tenant).text = reply[1]
            raise StaleSwitch

    async def gate(self, plan: ReservePlan) -> Receipt:
        """Ask what a call would be told, holding nothing; a refusal counts, and may trip the task.

        Raises StaleFacts, StaleSwitch, StoreError.
        """
        args = self._reserve_args(plan)
        args[_KIND] = "gate"
        reply = await self._ask(plan, args)
        self._check_fresh(plan, reply)
        return read_receipt(plan, reply, self._windows.standing)

    async def _ask(self, plan: ReservePlan, args: list[Argument] | None = None) -> list[Any]:
        """Return reserve's reply, after giving the store what it lacked."""
        keys, args = self._plan_keys(plan), args or self._reserve_args(plan)
        if plan.session is not None:
            keys.append(self.keys(plan.tenant).session(plan.session.id))
        if plan.key_id:
            keys.append(self.keys(plan.tenant).key_versions)
        keys.append(self.keys(plan.tenant).enforcement)
        for _ in range(_MOST_ROUNDS):
            reply: list[Any] = await self.connection.run(self._reserve, keys, args)
            if reply[0] == "absent":
                await self._claim(plan)
                args[_SNAPSHOT] = self._snapshot_json(plan)
            elif reply[0] == "lapsed":
                task = (plan.task, *plan.facts.parents)[int(reply[1]) - 1]
                names = self.keys(plan.tenant)
                await refresh_limits(self.connection, names, task, now_ms=reply[2])
            elif reply[0] == "window":
                args[_WINDOWS] = self._windows_anew(plan, reply[1])
            else:
                return reply
        raise StoreError("lapsed", f"the limits of task {plan.task} keep running out")

    async def _claim(self, plan: ReservePlan) -> None:
        """Take note that the plan's key begins its task. Raises TooManyTasks."""
        if plan.task_caps is not None and plan.limits is not None:
            await claim_task(
                self.connection,
                self.keys(plan.tenant),
                plan.task,
                plan.key_id,
                plan.task_caps,
                now_ms=self.now_ms,
            )

    def _plan_keys(self, plan: ReservePlan) -> list[Argument]:
        names = self.keys(plan.tenant)
        return [
            names.clock,
            names.call(plan.call_id),
            names.leases,
            names.tasks,
            names.ledger,
            names.task(plan.task),
            *map(names.task, plan.facts.parents),
        ]

    def _reserve_args(self, plan: ReservePlan) -> list[Argument]:
        need = plan.need
        return [
            plan.call_id,
            self.now_ms,
            self._lease_ms,
            _facts(plan),
            "",
            plan.phase or "",
            plan.enforce_from.order if plan.enforce_from else 0,
            plan.kind,
            self._effects.of(plan.effects),
            need.input_low,
            need.input_high,
            need.input_nano_usd,
            need.output,
            need.output_min,
            need.unit_nano_usd,
            need.output_weight,
            self._phase_idle_close_ms,
            plan.about.model[:_MOST_MODEL_TEXT],
            _encode(plan.about),
            plan.key_id,
            plan.key_version,
            plan.session.text if plan.session is not None else "",
            loop_words(plan.loop) if plan.loop is not None else "",
            grace_words(plan.grace) if plan.grace is not None else "",
            soft_line_words(plan.soft_line) if plan.soft_line is not None else "",
            self._windows_of(plan),
            rate_words(plan.rate) if plan.rate else "",
            plan.switch,
            "1" if plan.one_phase else "",
            "-" if plan.judged_in is None else plan.judged_in,
        ]

    def _windows_of(self, plan: ReservePlan) -> bytes:
        return self._windows.named(self.keys(plan.tenant), plan.spend, self.now_ms)

    def _windows_anew(self, plan: ReservePlan, store_ms: str) -> bytes:
        """Return the windows at the store's time, which is not what it was taken for."""
        self._windows.learn(int(store_ms))
        return self._windows.named(self.keys(plan.tenant), plan.spend, store_ms)

    def _snapshot_json(self, plan: ReservePlan) -> bytes:
        facts = _facts(plan)
        if plan.limits is None:
            return msgspec.json.encode(["facts", facts, "version", "0"])
        return msgspec.json.encode(snapshot_fields(facts, plan.limits))

    # Settle, release ----------------------------------------------------------------------------

    async def settle(self, settlement: Settlement) -> Settled:
        """See ports.BudgetStore."""
        plan, usage = settlement.plan, settlement.usage
        args: list[Argument] = [
            plan.call_id,
            self.now_ms,
            _BACKGROUND_TOMBSTONE_MS if settlement.background != "no" else self._tombstone_ms,
            _facts(plan),
            "",
            settlement.phase or "",
            settlement.tokens,
            settlement.nano_usd,
            1,
            usage.plain_input,
            usage.cached_read,
            usage.cache_write,
            usage.output_total,
            usage.reasoning,
            int(settlement.source is UsageSource.ESTIMATED),
            int(settlement.would_refuse),
            _encode(plan.about),
            _encode(settlement.outcome),
            int(settlement.background == "queued"),
            plan.loop.growing_output_tokens if plan.loop and plan.loop.growing_calls else "",
            self._windows_of(plan),
            plan.rate.window_ms if plan.rate else "",
        ]
        keys = self._plan_keys(plan)
        reply = await self.connection.run(self._settle, keys, args)
        while reply[0] in ("absent", "window"):
            if reply[0] == "absent":
                args[4] = self._snapshot_json(plan)
            else:
                args[_SETTLES_WINDOWS] = self._windows_anew(plan, reply[1])
            reply = await self.connection.run(self._settle, keys, args)
        if reply[0] == "duplicate":
            return Settled(duplicate=True)
        before, after, limit, granted, left_out = map(int, reply[1:])
        return Settled(False, before, after, limit + granted, left_out)

    async def release(self, plan: ReservePlan, outcome: CallOutcome = NO_OUTCOME) -> None:
        """See ports.BudgetStore."""
        args = (
            plan.call_id,
            self.now_ms,
            self._tombstone_ms,
            _encode(plan.about),
            _encode(outcome),
        )
        await self.connection.run(self._release, self._plan_keys(plan), args)

    # Answers in the background ------------------------------------------------------------------

    async def remember_response(
        self, tenant: str, response_id: str, background: BackgroundCall
    ) -> None:
        """See ports.BudgetStore."""
        key = self.keys(tenant).response(response_id)
        await self.connection.execute("SET", key, _encode(background), "PX", _BACKGROUND_MS)

    async def recall_response(self, tenant: str, response_id: str) -> BackgroundCall | None:
        """See ports.BudgetStore."""
        text = await self.connection.execute("GET", self.keys(tenant).response(response_id))
        return _decode_background(text) if text else None

    # Leases -------------------------------------------------------------------------------------

    async def heartbeat(
        self, tenant: str, open_calls: Sequence[tuple[ReservePlan, int, int]]
    ) -> dict[str, str]:
        """See ports.BudgetStore."""
        over: dict[str, str] = {}
        names = self.keys(tenant)
        for start in range(0, len(open_calls), _MOST_CALLS_PER_HEARTBEAT):
            keys: list[Argument] = [names.clock, names.leases]
            args: list[Argument] = [self.now_ms, self._lease_ms]
            for plan, tokens, nano_usd in open_calls[start : start + _MOST_CALLS_PER_HEARTBEAT]:
                own = [names.call(plan.call_id), *self._plan_keys(plan)[_BEFORE_TASK:]]
                keys += own
                args += [
                    *(plan.call_id, len(own), tokens, nano_usd),
                    plan.enforce_from.order if plan.enforce_from else 0,
                    self._effects.of(plan.effects),
                    self._windows_of(plan),
                ]
            reply = await self.connection.run(self._heartbeat, keys, args)
            over |= zip(reply[::2], reply[1::2], strict=True)
        return over

    async def expire_due(self, tenant: str, most: int = 100) -> list[str]:
        """Charge up to `most` calls whose lease ran out; return their ids."""
        names = self.keys(tenant)
        now = self.now_ms or await server_ms(self.connection)
        due = await self.connection.execute(
            "ZRANGEBYSCORE", names.leases, "-inf", now, "LIMIT", 0, most
        )
        expired = []
        for call_id in due:
            call = names.call(call_id)
            task, parents = await self.connection.execute("HMGET", call, "task", "parents")
            if task is None:
                await self.connection.execute("ZREM", names.leases, call_id)
                continue
            reply = await self.connection.run(
                self._expire,
                [
                    *(names.clock, call, names.leases, names.tasks, names.ledger),
                    *(task, *(parents or "").split()),
                ],
                [call_id, self.now_ms, self._tombstone_ms],
            )
            if reply[0] == "expired":
                expired.append(call_id)
        return expired


def _facts(plan: ReservePlan) -> str:
    return UNTAGGED_FACTS if plan.limits is None else facts_text(plan.facts)
