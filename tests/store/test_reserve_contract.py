"""The script `reserve` gives the answers of `core/admission.admit`, whatever the balances.

Balances are made up and written into the hashes directly; numbers are small so that boundaries are
met often.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.core.admission import (
    Admission,
    Balance,
    Effects,
    Need,
    Scope,
    ScopeKind,
    Verdict,
    admit,
    may_complete,
)
from gateway.core.budget import Dimension
from gateway.core.limit_standing import LimitStanding
from gateway.core.phases import WorkPhase
from gateway.core.policy import Effect, ReserveKind
from gateway.core.spend_limits import LimitScope, SpendLimit
from gateway.core.velocity import RATED, RatePlan, RateStanding, used_in_window
from gateway.core.windows import Span, Window
from gateway.ports import ReservePlan, TaskFacts
from gateway.store.keys import TenantKeys, facts_text
from gateway.store.redis_store import RedisStore
from tests.soak import fuzz
from tests.store.agent import FACTS, LIMITS

NOW = 5_000_000
AMOUNTS = st.integers(0, 40)
REVIEW_WORKS = ("closed", "active")
TRIP_CODES = ("task_budget_exceeded", "runaway_task")
_numbers = count(1)


@dataclass(frozen=True)
class Written:
    """One hash as it is put into the store, and the scope that it stands for."""

    scope: Scope
    inflight: int = 0
    open_ms: int = 0


@dataclass(frozen=True)
class Case:
    """Everything that a verdict depends on."""

    written: tuple[Written, ...]
    current_phase: WorkPhase | None
    phase: WorkPhase | None
    enforce_from: WorkPhase | None
    effects: Effects
    kind: ReserveKind
    need: Need
    review: str = ""
    latched: bool = False
    completion: Mapping[Dimension, int] = field(default_factory=dict)
    limits: tuple[LimitStanding, ...] = ()
    rate: RateStanding | None = None
    one_phase: bool = False
    working: tuple[WorkPhase, ...] = ()

    @property
    def parallel_phase(self) -> WorkPhase | None:
        """The phase that a call has to wait for, where phases work one at a time."""
        return self.other_phase if self.one_phase else None

    @property
    def other_phase(self) -> WorkPhase | None:
        """The first phase but the call's that has calls open; REVIEW may have some as well."""
        here = self.effective_phase
        others = {*self.working, *([WorkPhase.REVIEW] if self.review in REVIEW_WORKS else [])}
        found = sorted(others - {here}, key=lambda phase: phase.order)
        return found[0] if here is not None and found else None

    @property
    def begins_beside(self) -> WorkPhase | None:
        """The phase beside whose calls the call's own begins to work."""
        begins = self.written[0].inflight > 0 and self.written[-1].inflight == 0
        return self.other_phase if begins else None

    @property
    def too_fast(self) -> Dimension | None:
        """The dimension in which velocity refuses."""
        return self.rate.crossed if self.rate and self.rate.plan.refuses else None

    @property
    def exempt(self) -> bool:
        """A task that is let through to its end, or is from now on."""
        last = self.effective_phase in (WorkPhase.PR, WorkPhase.MONITOR)
        return (
            last
            and not self.runaway_only
            and (
                self.latched
                or may_complete(
                    self.effective_phase,
                    self.written[0].scope,
                    self.completion,
                    review_closed=self.review in ("closed", "idle"),
                )
            )
        )

    @property
    def effective_phase(self) -> WorkPhase | None:
        return self.phase or self.current_phase

    @property
    def runaway_only(self) -> bool:
        """Before `enforce_from` the line is the runaway line."""
        phase, start = self.effective_phase, self.enforce_from
        return phase is not None and start is not None and phase.order < start.order


@st.composite
def balances(draw: st.DrawFn, kind: ScopeKind, calm: bool) -> Balance:
    cumulative = draw(st.integers(0, 120))
    runaway = cumulative if kind is ScopeKind.PHASE else cumulative + draw(AMOUNTS)
    spent = (0, 0, cumulative // 2, cumulative - 20)
    settled = draw(st.sampled_from(spent if calm else (*spent, cumulative, runaway)))
    return Balance(
        limit=draw(st.integers(0, 120)),
        granted=0 if kind is ScopeKind.PHASE else draw(AMOUNTS),
        line=cumulative,
        cumulative=cumulative,
        runaway=runaway,
        settled=max(0, settled + draw(st.integers(-2, 0 if calm else 3))),
        held=draw(st.sampled_from((0, 0, 0, 1, 19, 20, 21))),
    )


@st.composite
def written(draw: st.DrawFn, kind: ScopeKind, name: str, calm: bool) -> Written:
    limited = [d for d in Dimension if draw(st.sampled_from((True, True, True, False)))]
    made = {d: draw(balances(kind, calm)) for d in limited}
    open_ms = 0
    if Dimension.LATENCY_MS in made:
        open_ms = draw(st.integers(0, made[Dimension.LATENCY_MS].settled))
    scope = Scope(kind, name, made)
    if kind is not ScopeKind.PHASE and not calm:
        trip = draw(st.sampled_from((None, None, None, None, *Dimension)))
        scope = replace(
            scope,
            state=draw(st.sampled_from(("open",) * 40 + ("killed", "blocked"))),
            trip_dimension=trip,
            trip_code=draw(st.sampled_from(TRIP_CODES)) if trip else "",
        )
    return Written(scope, draw(st.integers(1, 3)) if open_ms else 0, open_ms)


@st.composite
def limits(draw: st.DrawFn, at: int, calm: bool) -> LimitStanding:
    """A limit in a window that never ends, under a name of its own."""
    hard, settled, held = {}, {}, {}
    for dimension in RATED:
        line = draw(st.integers(0, 120))
        spent = (0, line // 2, line - 20) if calm else (0, line - 20, line)
        settled[dimension] = max(0, draw(st.sampled_from(spent)) + draw(st.integers(-2, 0)))
        settled[dimension] += 0 if calm else draw(st.integers(0, 3))
        held[dimension] = draw(st.sampled_from((0, 0, 0, 1, 19, 20, 21)))
        if draw(st.booleans()):
            hard[dimension] = line
    enforced = draw(st.sampled_from((True, True, True, False)))
    kind = draw(st.sampled_from(LimitScope))
    made = SpendLimit(f"p{at}", kind, f"of-{at}", Span.LIFETIME, "UTC", enforced, {}, hard)
    return LimitStanding(made, Window(), settled, held)


@st.composite
def rates(draw: st.DrawFn, calm: bool) -> RateStanding:
    """A velocity, as it comes to from what is counted in two spans."""
    used = {dimension: draw(AMOUNTS) for dimension in RATED}
    more = (0, 1, 5) if calm else (-1, 0, 1)
    lines = {d: used[d] + draw(st.sampled_from(more)) for d in RATED if draw(st.booleans())}
    return RateStanding(RatePlan("fast", 60_000, draw(st.booleans()), False, lines), used)


def effects() -> st.SearchStrategy[dict[Dimension, Effect]]:
    one = st.sampled_from((Effect.REFUSE, Effect.REFUSE, Effect.REFUSE, Effect.FLAG, None))
    four = st.tuples(one, one, one, one)
    return four.map(lambda drawn: {d: e for d, e in zip(Dimension, drawn, strict=True) if e})


@st.composite
def needs(draw: st.DrawFn) -> Need:
    low = draw(AMOUNTS)
    return Need(
        input_low=low,
        input_high=low + draw(st.sampled_from((0, 0, 1, 7, 60))),
        input_nano_usd=draw(AMOUNTS),
        output=draw(st.integers(0, 120)),
        output_min=draw(st.integers(0, 30)),
        unit_nano_usd=draw(st.integers(0, 3)),
        output_weight=draw(st.sampled_from((1000, 1000, 0, 1, 333, 500, 1001, 4000))),
    )


@st.composite
def cases(draw: st.DrawFn, calm: bool) -> Case:
    """Any case; a calm one is not stopped, so that what it asks for decides."""
    phases = st.none() | st.sampled_from((WorkPhase.PLAN, WorkPhase.VERIFY, WorkPhase.PR))
    current, phase = draw(phases), draw(phases)
    scopes = [draw(written(ScopeKind.TASK, "task", calm))]
    for at in range(draw(st.integers(0, 2))):
        scopes.append(draw(written(ScopeKind.PARENT, f"parent{at}", calm)))
    here = phase or current
    if here:
        scopes.append(draw(written(ScopeKind.PHASE, here.value, calm)))
    worst_case = (ReserveKind.WORST_CASE,) * (9 if calm else 1)
    return Case(
        tuple(scopes),
        current,
        phase,
        draw(st.none() | st.sampled_from((WorkPhase.PLAN, WorkPhase.VERIFY))),
        Effects(draw(effects()), draw(effects())),
        draw(st.sampled_from((*ReserveKind, *worst_case))),
        draw(needs()),
        draw(st.sampled_from(("", "open", "closed", "idle", "active"))),
        draw(st.sampled_from((False, False, False, True))),
        {
            dimension: balance.settled + draw(st.integers(-1, 2))
            for dimension, balance in scopes[0].scope.balances.items()
            if dimension in (Dimension.TOKENS, Dimension.NANO_USD) and draw(st.booleans())
        },
        tuple(draw(limits(at, calm)) for at in range(draw(st.sampled_from((0, 0, 1, 2, 8))))),
        draw(st.none() | rates(calm)),
        draw(st.sampled_from((False, False, False, True))),
        tuple(draw(st.sets(st.sampled_from((WorkPhase.SPEC, WorkPhase.IMPLEMENT)), max_size=2))),
    )


def _fields(item: Written) -> dict[str, str]:
    """The hash fields of one scope, made without the code under test."""
    scope, fields = item.scope, {}
    is_phase = scope.kind is ScopeKind.PHASE
    prefix = f"{scope.name}." if is_phase else ""
    for dimension, balance in scope.balances.items():
        settled = balance.settled
        if dimension is Dimension.LATENCY_MS:
            settled -= item.open_ms
        values = {"L": balance.limit, "C": balance.cumulative, "S": settled, "H": balance.held}
        if not is_phase:
            values |= {"G": balance.granted, "R": balance.runaway}
        fields |= {f"{prefix}{dimension.value}.{k}": str(v) for k, v in values.items()}
    fields[f"{prefix}inflight"] = str(item.inflight)
    fields[f"{prefix}since"] = str(NOW - item.open_ms)
    if scope.state != "open":
        fields["state"] = scope.state
    if scope.trip_dimension:
        fields |= {"trip": scope.trip_dimension.value, "trip_code": scope.trip_code}
        fields["episode"] = "4"
    return fields


REVIEWS = {
    "": {},
    "open": {"exec": "1", "inflight": "0", "last": str(NOW - 59_999)},
    "closed": {"exec": "2", "closed": "2", "inflight": "1", "last": str(NOW)},
    "idle": {"exec": "2", "closed": "1", "inflight": "0", "last": str(NOW - 60_000)},
    "active": {"exec": "1", "inflight": "1", "last": str(NOW - 70_000)},
}


def _completion_fields(case: Case) -> dict[str, str]:
    fields = {f"REVIEW.{name}": text for name, text in REVIEWS[case.review].items()}
    fields |= {f"{dimension.value}.A": str(line) for dimension, line in case.completion.items()}
    return fields | ({"completion": "1"} if case.latched else {})


@dataclass
class Put:
    """A case as it stands in the store."""

    client: redis.Redis
    keys: TenantKeys
    plan: ReservePlan
    scopes: list[Scope]
    limits: tuple[LimitStanding, ...]

    @property
    def compared(self) -> list[Scope]:
        """What admission looks at: the enforced limits stand before the phase."""
        enforced = [one.scope for one in self.limits if one.limit.enforced]
        at = sum(scope.kind is not ScopeKind.PHASE for scope in self.scopes)
        return [*self.scopes[:at], *enforced, *self.scopes[at:]]

    def read_limits(self) -> list[dict[str, str]]:
        found = [self.client.hgetall(_window_key(self.keys, one)) for one in self.limits]
        for fields, one in zip(found, self.limits, strict=True):
            told = fields.pop("told", None)
            assert told in (None, " ".join(str(one.limit.line(d) or "-") for d in RATED))
        return found

    @property
    def hashes(self) -> list[str]:
        return [self.keys.task(name) for name in (self.plan.task, *self.plan.facts.parents)]

    def read(self) -> list[dict[str, str]]:
        return [self.client.hgetall(key) for key in self.hashes]


def _put(client: redis.Redis, tenant: str, case: Case) -> Put:
    """Write a case under names of its own."""
    number = next(_numbers)
    scopes = [_named(item.scope, number, case.runaway_only) for item in case.written]
    if case.exempt:
        scopes[0] = replace(_named(case.written[0].scope, number, True), exempt=True)
    parents = tuple(scope.name for scope in scopes if scope.kind is ScopeKind.PARENT)
    facts = TaskFacts(FACTS.complexity, FACTS.importance, parents)
    plan = ReservePlan(
        call_id=f"call-{number}",
        tenant=tenant,
        task=scopes[0].name,
        facts=facts,
        limits=LIMITS,
        phase=case.phase,
        enforce_from=case.enforce_from,
        kind=case.kind,
        effects=case.effects,
        need=case.need,
        spend=tuple(replace(one.limit, name=f"{one.name}-{number}") for one in case.limits),
        rate=case.rate.plan if case.rate else None,
        one_phase=case.one_phase,
    )
    standings = map(replace_limit, case.limits, plan.spend)
    put = Put(client, TenantKeys(tenant), plan, scopes, tuple(standings))
    with client.pipeline() as pipe:
        for one in put.limits:
            pipe.hset(_window_key(put.keys, one), mapping=_window_fields(one))
        if case.rate:
            pipe.hset(put.keys.task(plan.task) + ":rate:60000", mapping=_rate_fields(case.rate))
        for item, scope in zip(case.written, scopes, strict=True):
            name = plan.task if scope.kind is ScopeKind.PHASE else scope.name
            pipe.hset(put.keys.task(name), mapping=_fields(item))
        own = {"facts": facts_text(facts), **_completion_fields(case)}
        own |= {f"{phase.value}.inflight": "1" for phase in case.working}
        pipe.hset(put.keys.task(plan.task), mapping=own)
        if case.current_phase:
            pipe.hset(put.keys.task(plan.task), "phase", case.current_phase.value)
        pipe.execute()
    return put


def replace_limit(standing: LimitStanding, limit: SpendLimit) -> LimitStanding:
    return replace(standing, limit=limit)


def _window_key(keys: TenantKeys, standing: LimitStanding) -> str:
    return keys.window(standing.limit.policy, standing.limit.kind, standing.name)


def _window_fields(standing: LimitStanding) -> dict[str, str]:
    fields = {f"{d.value}.S": str(amount) for d, amount in standing.settled.items()}
    return fields | {f"{d.value}.H": str(amount) for d, amount in standing.held.items()}


def _rate_fields(rate: RateStanding) -> dict[str, str]:
    """A third of it in the span before this one, as far as that still counts."""
    span = NOW // 60_000
    assert used_in_window(0, 60_000, NOW, 60_000) == 60_000 - NOW % 60_000
    fields = {"at": str(span)}
    for dimension, used in rate.used.items():
        before = used // 3 * 60_000 // (60_000 - NOW % 60_000)
        now = used - used_in_window(0, before, NOW, 60_000)
        fields |= {dimension.value: str(now), f"was.{dimension.value}": str(before)}
    return fields


def _named(scope: Scope, number: int, runaway_only: bool) -> Scope:
    """Return a scope as the rules see it, with a name that no other case has."""
    if scope.kind is ScopeKind.PHASE:
        return scope
    balances = scope.balances
    if runaway_only:
        balances = {d: replace(balance, line=balance.runaway) for d, balance in balances.items()}
    return replace(scope, name=f"{scope.name}-{number}", balances=balances)


@pytest.mark.repeats
@fuzz(100, 3_000)
@pytest.mark.parametrize("calm", [False, True])
@given(data=st.data())
async def test_the_script_answers_as_the_specification(
    store: RedisStore, redis_client: redis.Redis, tenant: str, calm: bool, data: st.DataObject
) -> None:
    """Same verdict, scope, dimension, code and output as `admit`; the same scopes; and it holds
    everywhere exactly what it says, or changes nothing but the stop-loss.
    """
    case = data.draw(cases(calm))
    store.now_ms = str(NOW)
    put = _put(redis_client, tenant, case)
    before = put.read()
    limits_before = put.read_limits()
    expected = _expected(case, put)

    receipt = await store.reserve(put.plan)

    assert receipt.verdict is expected.verdict
    assert receipt.stop_scope == expected.scope
    assert receipt.stop_dimension is expected.dimension
    assert receipt.stop_code == expected.code
    assert receipt.output == expected.output
    assert receipt.tripped_now is _trips(expected)
    assert list(receipt.scopes) == put.scopes
    assert receipt.limits == put.limits
    assert receipt.rate == case.rate
    assert receipt.parallel_phase is _beside(case, expected)
    of_limits = {d.value: 0 for d in RATED}
    if expected.verdict is Verdict.HELD:
        nano_usd = case.need.input_nano_usd + expected.output * case.need.unit_nano_usd
        tokens = _tokens(case.need, expected.output)
        of_limits = {"tokens": tokens, "nano_usd": nano_usd, "calls": 1}
    for was, now in zip(limits_before, put.read_limits(), strict=True):
        more = {f"{name}.H": int(was[f"{name}.H"]) + held for name, held in of_limits.items()}
        assert now == was | {name: str(amount) for name, amount in more.items()}
    assert receipt.phase is case.effective_phase
    if expected.verdict is Verdict.HELD:
        _check_that_it_is_held(case, put, expected.output, before)
        latched = put.read()[0].get("completion") == "1"
        assert latched is (case.latched or case.exempt)
        assert receipt.held_tokens == _tokens(case.need, expected.output)
    else:
        _check_that_nothing_is(put, before)
        need = _tokens(case.need, case.need.output_min)
        assert receipt.held_tokens == (need if expected.verdict is Verdict.SHORT else 0)


def _expected(case: Case, put: Put) -> Admission:
    return admit(
        *(put.compared, case.effects, case.kind, case.need, case.too_fast),
        parallel=case.parallel_phase is not None,
    )


def _beside(case: Case, expected: Admission) -> WorkPhase | None:
    """The phase beside which the call begins, or that puts it off.

    That it is put off for a phase is the one case of `in_flight` that is of no dimension.
    """
    if expected.verdict is Verdict.HELD:
        return case.begins_beside
    waits = expected.verdict is Verdict.IN_FLIGHT and expected.dimension is None
    return case.parallel_phase if waits else None


def _trips(expected: Admission) -> bool:
    """The stop-loss is set by a refusal for a line of a task that is not marked already."""
    return (
        expected.verdict is Verdict.REFUSED
        and expected.code in TRIP_CODES
        and expected.scope is not None
        and expected.scope.kind is not ScopeKind.PHASE
        and expected.scope.trip_dimension is None
    )


def _tokens(need: Need, output: int) -> int:
    return need.input_high + need.output_tokens(output)


def _check_that_it_is_held(case: Case, put: Put, output: int, before: list[dict[str, str]]) -> None:
    """In every hash, and in the phase's part of the task's."""
    need = case.need
    more = {
        "tokens.H": _tokens(need, output),
        "nano_usd.H": need.input_nano_usd + output * need.unit_nano_usd,
        "calls.H": 1,
    }
    after = put.read()
    places = [("", was, now) for was, now in zip(before, after, strict=True)]
    if case.effective_phase:
        places.append((f"{case.effective_phase.value}.", before[0], after[0]))
    for prefix, was, now in places:
        for name, amount in more.items():
            assert int(now[prefix + name]) == int(was.get(prefix + name, 0)) + amount


def _check_that_nothing_is(put: Put, before: list[dict[str, str]]) -> None:
    """Only the stop-loss and the count of refusals may have changed."""
    may_change = {"trip", "trip_code", "trip_ms", "episode", "refused"}
    for was, now in zip(before, put.read(), strict=True):
        changed = {name for name, _ in was.items() ^ now.items()}
        assert changed <= may_change
    assert put.client.exists(put.keys.call(put.plan.call_id)) == 0
