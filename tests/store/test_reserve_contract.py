"""The script `reserve` gives the answers of `core/admission.admit`, whatever the balances.

Balances are made up and written into the hashes directly; numbers are small so that boundaries are
met often.
"""

from dataclasses import dataclass
from dataclasses import replace as dataclass_replace
from itertools import count

import redis
from hypothesis import HealthCheck, given, settings
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
)
from gateway.core.budget import Dimension
from gateway.core.phases import WorkPhase
from gateway.core.policy import Effect, ReserveKind
from gateway.ports import ReservePlan
from gateway.store.keys import TenantKeys, facts_text
from gateway.store.redis_store import RedisStore
from tests.store.agent import FACTS, LIMITS

NOW = 5_000_000
AMOUNTS = st.integers(0, 40)
LIMITS_DRAWN = st.integers(0, 120)
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

    @property
    def effective_phase(self) -> WorkPhase | None:
        return self.phase or self.current_phase

    @property
    def scopes(self) -> list[Scope]:
        """The scopes as the rules see them: before `enforce_from` the line is the runaway line."""
        phase, start = self.effective_phase, self.enforce_from
        runaway_only = phase is not None and start is not None and phase.order < start.order
        return [_with_line(written.scope, runaway_only) for written in self.written]


def _with_line(scope: Scope, runaway_only: bool) -> Scope:
    if scope.kind is ScopeKind.PHASE or not runaway_only:
        return scope
    balances = {d: replace(b, line=b.runaway) for d, b in scope.balances.items()}
    return replace(scope, balances=balances)


@st.composite
def balances(draw: st.DrawFn, kind: ScopeKind) -> Balance:
    cumulative = draw(LIMITS_DRAWN)
    runaway = cumulative if kind is ScopeKind.PHASE else cumulative + draw(AMOUNTS)
    spent = draw(st.sampled_from((0, 0, cumulative // 2, cumulative - 20, cumulative, runaway)))
    return Balance(
        limit=draw(LIMITS_DRAWN),
        granted=0 if kind is ScopeKind.PHASE else draw(AMOUNTS),
        line=cumulative,
        cumulative=cumulative,
        runaway=runaway,
        settled=max(0, spent + draw(st.integers(-2, 3))),
        held=draw(st.sampled_from((0, 0, 0, 1, 19, 20, 21))),
    )


@st.composite
def written(draw: st.DrawFn, kind: ScopeKind, name: str) -> Written:
    limited = draw(st.sets(st.sampled_from(Dimension), max_size=4))
    made = {d: draw(balances(kind)) for d in Dimension if d in limited}
    open_ms = 0
    if Dimension.LATENCY_MS in made:
        open_ms = draw(st.integers(0, made[Dimension.LATENCY_MS].settled))
    scope = Scope(kind, name, made)
    if kind is not ScopeKind.PHASE:
        trip = draw(st.sampled_from((None, None, None, None, *Dimension)))
        scope = replace(
            scope,
            state=draw(st.sampled_from(("open",) * 40 + ("killed", "blocked"))),
            trip_dimension=trip,
            trip_code=draw(st.sampled_from(TRIP_CODES)) if trip else "",
        )
    return Written(scope, draw(st.integers(1, 3)) if open_ms else 0, open_ms)


_EFFECT = st.sampled_from((None, Effect.FLAG, Effect.REFUSE, Effect.REFUSE))


def _table(effects: list[Effect | None]) -> dict[Dimension, Effect]:
    return {d: effect for d, effect in zip(Dimension, effects, strict=True) if effect}


@st.composite
def needs(draw: st.DrawFn) -> Need:
    low = draw(AMOUNTS)
    return Need(
        input_low=low,
        input_high=low + draw(st.sampled_from((0, 0, 1, 7, 60))),
        input_nano_usd=draw(AMOUNTS),
        output=draw(st.integers(0, 120)),
        output_min=draw(st.integers(0, 40)),
        unit_nano_usd=draw(st.integers(0, 3)),
        output_weight=draw(st.sampled_from((1000, 1000, 0, 1, 333, 500, 1001, 4000))),
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    phases = st.none() | st.sampled_from((WorkPhase.PLAN, WorkPhase.VERIFY, WorkPhase.PR))
    current, phase = draw(phases), draw(phases)
    scopes = [draw(written(ScopeKind.TASK, "task"))]
    for at in range(draw(st.integers(0, 2))):
        scopes.append(draw(written(ScopeKind.PARENT, f"parent{at}")))
    if phase or current:
        scopes.append(draw(written(ScopeKind.PHASE, (phase or current or WorkPhase.PR).value)))
    four = st.lists(_EFFECT, min_size=4, max_size=4)
    return Case(
        tuple(scopes),
        current,
        phase,
        draw(st.none() | st.sampled_from((WorkPhase.PLAN, WorkPhase.VERIFY))),
        Effects(_table(draw(four)), _table(draw(four))),
        draw(st.sampled_from((*ReserveKind, *(ReserveKind.WORST_CASE,) * 3))),
        draw(needs()),
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


@dataclass
class Put:
    """A case as it stands in the store."""

    client: redis.Redis
    keys: TenantKeys
    plan: ReservePlan

    @property
    def hashes(self) -> list[str]:
        return [self.keys.task(name) for name in (self.plan.task, *self.plan.facts.parents)]

    def read(self) -> list[dict[str, str]]:
        return [self.client.hgetall(key) for key in self.hashes]


def _put(client: redis.Redis, tenant: str, case: Case) -> Put:
    number = next(_numbers)
    renamed = {"task": f"task-{number}", "parent0": f"up-{number}", "parent1": f"top-{number}"}
    parents = tuple(
        renamed[item.scope.name] for item in case.written if item.scope.kind is ScopeKind.PARENT
    )
    facts = dataclass_replace(FACTS, parents=parents)
    plan = ReservePlan(
        call_id=f"call-{number}",
        tenant=tenant,
        task=renamed["task"],
        facts=facts,
        limits=LIMITS,
        phase=case.phase,
        enforce_from=case.enforce_from,
        kind=case.kind,
        effects=case.effects,
        need=case.need,
    )
    put = Put(client, TenantKeys(tenant), plan)
    with client.pipeline() as pipe:
        for item in case.written:
            name = plan.task if item.scope.kind is ScopeKind.PHASE else renamed[item.scope.name]
            pipe.hset(put.keys.task(name), mapping=_fields(item))
        pipe.hset(put.keys.task(plan.task), "facts", facts_text(facts))
        if case.current_phase:
            pipe.hset(put.keys.task(plan.task), "phase", case.current_phase.value)
        pipe.execute()
    return put


@settings(
    max_examples=700,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(case=cases())
async def test_the_script_answers_as_the_specification(
    store: RedisStore, redis_client: redis.Redis, tenant: str, case: Case
) -> None:
    """Same verdict, scope, dimension, code and output as `admit`; the same scopes; and it holds
    everywhere exactly what it says, or changes nothing but the stop-loss.
    """
    store.now_ms = str(NOW)
    put = _put(redis_client, tenant, case)
    expected = admit(case.scopes, case.effects, case.kind, case.need)
    before = put.read()

    receipt = await store.reserve(put.plan)

    scopes = [
        scope if scope.kind is ScopeKind.PHASE else replace(scope, name=name)
        for scope, name in zip(
            case.scopes, (put.plan.task, *put.plan.facts.parents, ""), strict=False
        )
    ]
    stop = None if expected.scope is None else scopes[case.scopes.index(expected.scope)]
    trips = _trips(expected)
    named = [replace(s, trip_dimension=s.trip_dimension, trip_code=s.trip_code) for s in scopes]
    assert receipt.verdict is expected.verdict
    assert receipt.stop_scope == stop
    assert receipt.stop_dimension is expected.dimension
    assert receipt.stop_code == expected.code
    assert receipt.output == expected.output
    assert receipt.tripped_now is trips
    assert list(receipt.scopes) == named
    assert receipt.phase is case.effective_phase
    _check_what_was_written(case, put, receipt.held_tokens, expected, before)


def _trips(expected: Admission) -> bool:
    """The stop-loss is set by a refusal for a line of a task that is not marked already."""
    return (
        expected.verdict is Verdict.REFUSED
        and expected.code in TRIP_CODES
        and expected.scope is not None
        and expected.scope.kind is not ScopeKind.PHASE
        and expected.scope.trip_dimension is None
    )


def _check_what_was_written(
    case: Case, put: Put, held_tokens: int, expected: Admission, before: list[dict[str, str]]
) -> None:
    if expected.verdict is not Verdict.HELD:
        free = {"trip", "trip_code", "trip_ms", "episode", "refused"}
        after = put.read()
        assert [_without(a, free) for a in after] == [_without(b, free) for b in before]
        assert put.client.exists(put.keys.call(put.plan.call_id)) == 0
        return
    need = case.need
    tokens = need.input_high + need.output_tokens(expected.output)
    assert held_tokens == tokens
    nano_usd = need.input_nano_usd + expected.output * need.unit_nano_usd
    prefixes = [""] * len(before)
    if case.effective_phase:
        before, prefixes = [*before, before[0]], [*prefixes, f"{case.effective_phase.value}."]
    after = put.read()
    for at, prefix in enumerate(prefixes):
        now = after[at] if at < len(after) else after[0]
        for field, more in (("tokens.H", tokens), ("nano_usd.H", nano_usd), ("calls.H", 1)):
            was = int(before[at].get(prefix + field, 0))
            assert int(now[prefix + field]) == was + more


def _without(fields: dict[str, str], names: set[str]) -> dict[str, str]:
    return {name: value for name, value in fields.items() if name not in names}
