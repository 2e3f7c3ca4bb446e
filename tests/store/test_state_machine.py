"""Any order of commands, however often each comes: the scripts do what the books say.

The real scripts on a real server, in virtual time, against `books.py`. Two tasks share an ancestor;
calls are of all kinds, in two phases or none; gateways crash, settle twice, and settle late.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
import redis
import uvloop
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from gateway.core.acts import Act, Verb
from gateway.core.admission import Effects, Need, Verdict
from gateway.core.budget import Amounts as Limits
from gateway.core.budget import Dimension, TaskProfile, task_limits
from gateway.core.decision import effects_of
from gateway.core.errors import StoreError
from gateway.core.overrides import Override, OverrideKind
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.policy import Effect, Mode, ReserveKind, StopLossPolicy
from gateway.ports import ReservePlan, TaskFacts
from gateway.store.address import parse_store_url
from gateway.store.connection import StoreConnection
from gateway.store.limits import NotEnoughRoom, UnknownTask, apply_override
from gateway.store.redis_store import RedisStore
from gateway.store.steering import WrongState, steer_task
from tests.soak import FULL, Sizes, fuzz
from tests.store.agent import ENFORCE, NOTHING_HELD, OBSERVE, STRICT, Look, budgets, settlement
from tests.store.books import LEASE_MS, Amounts, Books, Call, Place, Short, State, amounts

pytestmark = [pytest.mark.soak, pytest.mark.repeats]

STARTED_MS = 1_000_000
PARENTS = {"up": (), "one": ("up",), "other": ("up",)}
# Small: a task is at its line after a handful of calls, a phase after one or two.
SNAPSHOT = task_limits(budgets("0.01"), TaskProfile(Complexity.TINY, ImportanceTier.LOW))
PHASE_STRICT = effects_of(StopLossPolicy(phase_action=Effect.REFUSE), Mode.ENFORCE)

TASKS = st.sampled_from(("one", "one", "one", "other", "up"))
PHASES = st.sampled_from((None, WorkPhase.PLAN, WorkPhase.VERIFY))
TOKENS = st.integers(0, 4_000)
NANO_USD = st.integers(0, 12_000_000)
DURATIONS_MS = st.sampled_from((1, 999, 10_000, LEASE_MS - 1, LEASE_MS))

_tenants = count(1)
_call_ids = count(1)


@st.composite
def needs(draw: st.DrawFn) -> Need:
    high = draw(TOKENS)
    return Need(
        input_low=draw(st.integers(0, high)),
        input_high=high,
        input_nano_usd=draw(NANO_USD),
        output=draw(TOKENS),
        output_min=draw(st.integers(0, 200)),
        unit_nano_usd=draw(st.sampled_from((0, 900, 4_001))),
        output_weight=draw(st.sampled_from((1_000, 1_000, 333, 4_000))),
    )


@st.composite
def overrides(
    draw: st.DrawFn,
    now_ms: int,
    kinds: tuple[OverrideKind, ...] = tuple(OverrideKind),
    lasting_ms: tuple[int | None, ...] = (None, 1, 20_000),
) -> Override:
    kind, lasts_ms = draw(st.sampled_from(kinds)), draw(st.sampled_from(lasting_ms))
    limits, factor = Limits(), None
    if kind in (OverrideKind.GRANT, OverrideKind.PHASE_LIMIT):
        latency_ms = st.none() | st.integers(0, 90_000)
        limits = Limits(draw(st.none() | TOKENS), draw(latency_ms), draw(NANO_USD))
    elif kind is OverrideKind.MULTIPLIER:
        factor = Decimal(draw(st.sampled_from(("0.5", "1.5", "2"))))
    return Override(
        kind,
        "ann",
        "a reason",
        now_ms,
        expires_ms=None if lasts_ms is None else now_ms + lasts_ms,
        amounts=limits,
        phase=WorkPhase.PLAN if kind is OverrideKind.PHASE_LIMIT else None,
        factor=factor,
    )


class World:
    """One connection to the store for all machines of a test, and what they have seen happen."""

    def __init__(self, runner: asyncio.Runner, url: str, client: redis.Redis, name: str) -> None:
        self.run = runner.run
        self.client = client
        self.seen: Counter[str] = Counter()
        self.connection = StoreConnection(parse_store_url(url))
        self._name = name

    def tenant(self) -> str:
        """Return a tenant that no other machine uses."""
        return f"{self._name}-{next(_tenants)}"


class Gateways(RuleBasedStateMachine):
    """Gateways at work on the tasks of one tenant: every command in both worlds, then a look."""

    calls = Bundle("calls")

    kinds: tuple[ReserveKind, ...] = (*ReserveKind, ReserveKind.WORST_CASE)
    effects: tuple[Effects, ...] = (ENFORCE, ENFORCE, STRICT, PHASE_STRICT, OBSERVE)
    enforced_from: tuple[WorkPhase | None, ...] = (None, WorkPhase.VERIFY)

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.run = world.run
        self.tenant = world.tenant()
        self.look = Look(world.client, self.tenant)
        self.store = RedisStore(world.connection, lease_ms=LEASE_MS)
        self.store.now_ms = str(STARTED_MS)
        self.books = Books(PARENTS, SNAPSHOT, STARTED_MS)
        self.alive: list[Call] = []

    # Calls...

    def plan(self, **fields: Any) -> ReservePlan:
        """Return the plan of a new call."""
        parents = PARENTS[fields["task"]]
        return ReservePlan(
            call_id=f"call-{next(_call_ids)}",
            tenant=self.tenant,
            facts=TaskFacts(Complexity.TINY, ImportanceTier.LOW, parents),
            limits=SNAPSHOT,
            **fields,
        )

    def used_by(self, call: Call) -> st.SearchStrategy[Amounts]:
        """Return what a call may use: anything, whatever it holds; now and then all there is."""
        return st.builds(amounts, TOKENS | TOKENS | TOKENS | st.just(12_000), NANO_USD)

    def change_of_limits(self) -> st.SearchStrategy[Override]:
        """Return overrides of all kinds."""
        return overrides(self.books.now_ms)

    @rule(target=calls, task=TASKS, phase=PHASES, need=needs(), data=st.data())
    def reserve(self, task: str, phase: WorkPhase | None, need: Need, data: st.DataObject) -> Call:
        call = Call(
            self.plan(
                task=task,
                phase=phase,
                enforce_from=data.draw(st.sampled_from(self.enforced_from)),
                kind=data.draw(st.sampled_from(self.kinds)),
                effects=data.draw(st.sampled_from(self.effects)),
                need=need,
            )
        )
        self.books.calls.append(call)
        self.alive.append(call)
        self._ask(call)
        return call

    def _ask(self, call: Call) -> None:
        """Reserve; where the answer depends on it, count the input and ask again, as planners do."""
        if self._reserve(call) is Verdict.COUNT:
            need = call.plan.need
            exact = (need.input_low + need.input_high) // 2
            call.plan = replace(call.plan, need=replace(need, input_low=exact, input_high=exact))
            assert self._reserve(call) is not Verdict.COUNT

    def _reserve(self, call: Call) -> Verdict | None:
        expected = self.books.reserve(call)
        if expected is None:
            with self.nothing_changes(), pytest.raises(StoreError, match="seen this call"):
                self.run(self.store.reserve(call.plan))
            self.world.seen["duplicate reserve"] += 1
            return None
        answer, scopes = expected
        receipt = self.run(self.store.reserve(call.plan))
        self.world.seen[answer.verdict.value] += 1
        assert list(receipt.scopes) == scopes
        assert (receipt.verdict, receipt.output) == (answer.verdict, answer.output)
        assert (receipt.stop_scope, receipt.stop_dimension) == (answer.scope, answer.dimension)
        assert (receipt.stop_code, receipt.now_ms) == (answer.code, self.books.now_ms)
        if answer.verdict is Verdict.HELD:
            held = amounts(receipt.held_tokens, receipt.held_nano_usd)
            assert (receipt.phase, held) == (call.phase, call.held)
            self._check_worst_case(call)
        return answer.verdict

    def _check_worst_case(self, call: Call) -> None:
        """What is admitted in the worst case is paid for: S + H stays at or under every line."""
        if call.plan.kind is not ReserveKind.WORST_CASE:
            return
        for scope in self.books.scopes(call.plan.task, call.phase, call.plan.enforce_from):
            for dimension, balance in scope.balances.items():
                if call.plan.effects.of(scope.kind, dimension) is Effect.REFUSE:
                    assert balance.room >= 0, (scope.name, dimension, balance)

    @rule(target=calls, task=TASKS, phase=PHASES, need=needs(), data=st.data())
    def whole_call(
        self, task: str, phase: WorkPhase | None, need: Need, data: st.DataObject
    ) -> Call:
        """What becomes of most calls."""
        call = self.reserve(task, phase, need, data)
        if call.state is State.HELD:
            self.settle(call, data)
        return call

    @rule(call=calls, settles=st.booleans(), data=st.data())
    def come_back_late(self, call: Call, settles: bool, data: st.DataObject) -> None:
        """A gateway stands still for so long that the reaper takes its call for dead."""
        self.time_passes(LEASE_MS)
        self.expire()
        if settles:
            self.settle(call, data)
        else:
            self.release(call)

    @rule(call=calls)
    def reserve_again(self, call: Call) -> None:
        """A reserve that comes once more: a no-op, unless it was turned down before."""
        self._ask(call)

    @rule(call=calls, data=st.data())
    def settle(self, call: Call, data: st.DataObject) -> None:
        """Settle a call in whatever state; the second time, and after a release, it is a no-op."""
        used = data.draw(self.used_by(call))
        settling = self.store.settle(
            settlement(call.plan, used[Dimension.TOKENS], used[Dimension.NANO_USD])
        )
        self._note_end("settle", call)
        if call.is_over:
            with self.nothing_changes():
                assert self.run(settling).duplicate
            return
        place = (call.plan.task, None)
        before = self.books.settled(place, Dimension.TOKENS)
        self.books.settle(call, used)
        settled = self.run(settling)
        in_force = self.books.tasks[call.plan.task].in_force
        assert in_force is not None
        limit = in_force.task[Dimension.TOKENS].limit + in_force.granted.get(Dimension.TOKENS, 0)
        assert not settled.duplicate
        assert (settled.tokens_before, settled.limit) == (before, limit)
        assert settled.tokens_after == self.books.settled(place, Dimension.TOKENS)

    @rule(call=calls)
    def release(self, call: Call) -> None:
        """Release a call in whatever state; one that is over stays as it is."""
        self._note_end("release", call)
        if call.is_over:
            with self.nothing_changes():
                self.run(self.store.release(call.plan))
            return
        self.books.release(call)
        self.run(self.store.release(call.plan))

    def _note_end(self, command: str, call: Call) -> None:
        self.world.seen[f"{command} {call.state.value}"] += 1

    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        """Renew leases in one go, those of ended calls too; a call that outgrew its hold holds more."""
        said, over = [], {}
        for call in self.alive:
            seen = data.draw(self.used_by(call))
            said.append((call.plan, seen[Dimension.TOKENS], seen[Dimension.NANO_USD]))
            if code := self.books.heartbeat(call, seen):
                over[call.plan.call_id] = code
        assert self.run(self.store.heartbeat(self.tenant, said)) == over
        self.world.seen["told that it is over"] += bool(over)

    @rule(call=consumes(calls))
    def crash(self, call: Call) -> None:
        """Nobody will ever say anything about this call again."""
        self.alive.remove(call)
        self.world.seen[f"crash {call.state.value}"] += 1

    # Time...

    @rule(ms=DURATIONS_MS)
    def time_passes(self, ms: int) -> None:
        self.books.tick(ms)
        self.store.now_ms = str(self.books.now_ms)

    @rule(ms=DURATIONS_MS)
    def the_servers_clock_steps_back(self, ms: int) -> None:
        """Scripts stay at the latest time that any of them has seen."""
        self.world.client.set(self.look.keys.clock, self.books.now_ms * 1000)
        self.store.now_ms = str(self.books.now_ms - ms)

    @rule()
    def expire(self) -> None:
        """The reaper sweeps."""
        expired = self.run(self.store.expire_due(self.tenant))
        assert sorted(expired) == sorted(self.books.expire(int(self.store.now_ms)))
        assert self.run(self.store.expire_due(self.tenant)) == []
        self.world.seen["expired"] += len(expired)

    # Limits...

    @rule(task=st.sampled_from(tuple(PARENTS)), data=st.data())
    def override(self, task: str, data: st.DataObject) -> None:
        """Change limits; not those of an unknown task, and not by a grant that does not reach."""
        override = data.draw(self.change_of_limits())

        def apply() -> None:
            now_ms = str(self.books.now_ms)
            names = self.store.keys(self.tenant)
            self.run(apply_override(self.world.connection, names, task, override, now_ms=now_ms))

        if self.books.tasks[task].in_force is None:
            with pytest.raises(UnknownTask):
                apply()
            return
        tripped = self.books.tasks[task].trip
        short = self.books.override(task, override)
        if short is None:
            apply()
            self.world.seen["trip ended"] += bool(tripped and not self.books.tasks[task].trip)
            return
        with self.nothing_changes(), pytest.raises(NotEnoughRoom) as raised:
            apply()
        assert Short(raised.value.dimension, raised.value.missing) == short
        self.world.seen["grant too small"] += 1

    @rule(
        task=st.sampled_from(tuple(PARENTS)),
        verb=st.sampled_from((Verb.KILL, Verb.RESUME, Verb.RESUME, Verb.RESUME, Verb.COMPLETE)),
    )
    def steer(self, task: str, verb: Verb) -> None:
        """Kill, resume or complete a task; not one that is unknown, nor complete a killed one."""

        def apply() -> tuple[str, bool]:
            steered = self.run(
                steer_task(
                    self.world.connection,
                    self.store.keys(self.tenant),
                    task,
                    verb,
                    Act(f"task.{verb.value}", "ann", "a reason"),
                    now_ms=str(self.books.now_ms),
                )
            )
            return steered.state.value, steered.changed

        if self.books.tasks[task].in_force is None:
            with pytest.raises(UnknownTask):
                apply()
            return
        before = self.books.tasks[task].state
        after = self.books.steer(task, verb)
        if after is None:
            with self.nothing_changes(), pytest.raises(WrongState):
                apply()
            return
        assert apply() == (after.value, after is not before)
        self.world.seen[verb.value] += after is not before

    # The look...

    @contextmanager
    def nothing_changes(self) -> Iterator[None]:
        """What is done in here leaves every task, every call and every lease as it was."""
        before = self._everything()
        yield
        assert self._everything() == before

    def _everything(self) -> list[Any]:
        calls = (self.look.keys.call(call.plan.call_id) for call in self.books.calls)
        return self._read([*map(self.look.keys.task, PARENTS), *calls])

    def _read(self, keys: Iterable[str]) -> list[Any]:
        """Return these hashes, and the leases."""
        with self.world.client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hgetall(key)
            pipe.zrange(self.look.keys.leases, 0, -1, withscores=True)
            found: list[Any] = pipe.execute()
        return found

    @invariant()
    def the_store_has_what_the_books_have(self) -> None:
        *tasks, leases = self._read(map(self.look.keys.task, PARENTS))
        for (name, task), fields in zip(self.books.tasks.items(), tasks, strict=True):
            self._check_place((name, None), fields)
            for phase in (WorkPhase.PLAN, WorkPhase.VERIFY):
                self._check_place((name, phase), fields)
                self._check_executions(phase, fields)
            trip = task.trip.value if task.trip else None
            assert (fields.get("trip"), fields.get("trip_code", "")) == (trip, task.trip_code)
            assert int(fields.get("episode", 0)) == task.episode
            assert int(fields.get("refused", 0)) == task.refused
            assert fields.get("state", "open") == task.state.value
        open_calls = [call for call in self.books.calls if call.state is State.HELD]
        assert dict(leases) == {call.plan.call_id: call.lease_ms for call in open_calls}

    def _check_place(self, place: Place, fields: dict[str, str]) -> None:
        prefix = f"{place[1].value}." if place[1] else ""

        def number(name: str) -> int:
            return int(fields.get(prefix + name, 0))

        inflight = len(self.books.open_calls(place))
        assert number("inflight") == inflight
        for dimension in Dimension:
            name, settled = dimension.value, number(f"{dimension.value}.S")
            if dimension is Dimension.LATENCY_MS and inflight:
                settled += self.books.now_ms - number("since")
            assert settled == self.books.settled(place, dimension), (place, name)
            assert number(f"{name}.H") == self.books.held(place, dimension), (place, name)

    def _check_executions(self, phase: WorkPhase, fields: dict[str, str]) -> None:
        """The executions of a phase add up to the phase."""
        tokens = sum(
            int(value)
            for name, value in fields.items()
            if name.startswith(f"x.{phase.value}.") and name.endswith(".tokens")
        )
        assert tokens == int(fields.get(f"{phase.value}.tokens.S", 0))

    def teardown(self) -> None:
        """Whatever happened, and whoever crashed: a lease later nothing is held any more."""
        self.time_passes(LEASE_MS)
        self.expire()
        self.the_store_has_what_the_books_have()
        for place in self.books.places():
            prefix = f"{place[1].value}." if place[1] else ""
            assert self.look.held(place[0], prefix) == NOTHING_HELD
        assert self.look.leases() == {}
        self.world.seen["limits ran out"] += self.books.limits_lapsed


class WorstCaseGateways(Gateways):
    """All calls reserve the worst case and use no more of it: no line is crossed, ever."""

    kinds = (ReserveKind.WORST_CASE,)
    effects = (PHASE_STRICT,)
    enforced_from = (None,)

    @initialize()
    def every_task_has_limits(self) -> None:
        """An ancestor has limits only once it was created by a call of its own."""
        nothing = Need(0, 0, 0, 0, 0, 0)
        for task in PARENTS:
            plan = self.plan(
                task=task,
                phase=None,
                enforce_from=None,
                kind=ReserveKind.WORST_CASE,
                effects=PHASE_STRICT,
                need=nothing,
            )
            call = Call(plan)
            self.books.calls.append(call)
            self._ask(call)
            self.release(call)

    def used_by(self, call: Call) -> st.SearchStrategy[Amounts]:
        """Return at most what the call holds, or was charged when it expired."""
        most = call.held or call.charged
        tokens, nano_usd = (most.get(d, 0) for d in (Dimension.TOKENS, Dimension.NANO_USD))
        return st.builds(amounts, st.integers(0, tokens), st.integers(0, nano_usd))

    def change_of_limits(self) -> st.SearchStrategy[Override]:
        """Return grants that stay: any other change may put a line below what was allowed."""
        return overrides(self.books.now_ms, (OverrideKind.GRANT,), (None,))

    def steer(self) -> None:  # type: ignore[override]
        """Leave states alone: here no call is ever refused for what was done before."""

    @invariant()
    def no_line_is_crossed(self) -> None:
        """S + H <= C: of every task, and of every phase."""
        for task, phase in {(call.plan.task, call.phase) for call in self.books.calls}:
            for scope in self.books.scopes(task, phase):
                for dimension in (Dimension.TOKENS, Dimension.NANO_USD):
                    assert scope.balances[dimension].room >= 0, scope


@pytest.fixture
def world(valkey: str, redis_client: redis.Redis, tenant: str) -> Iterator[World]:
    """The store, from a test that has no loop of its own: each command is run to its end."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        made = World(runner, valkey, redis_client, tenant)
        runner.run(made.connection.open())
        yield made
        runner.run(made.connection.close())


EXAMPLES, STEPS, MOST_RUNS = 60, 40, 6
IN_A_SOAK = 2_000
OFTEN = {"held", "in_flight", "refused", "expired", "crash held", "duplicate reserve"} | {
    "settle held", "settle settled", "settle expired", "release settled", "release released",
}  # fmt: skip
EVERYTHING = (
    OFTEN
    | {verdict.value for verdict in Verdict if verdict is not Verdict.SOFT}
    | {f"{command} {state.value}" for command in ("settle", "release") for state in State}
    | {"kill", "resume", "complete"}
    | {"told that it is over", "grant too small", "trip ended", "limits ran out"}
)


def run_machine(machine: Callable[[World], Gateways], world: World, wanted: set[str]) -> set[str]:
    """Run it often; return what happened to its calls.

    What is rare may not have come up by then: it is run anew, by chance, until it has or a limit is
    reached.
    """
    how = settings(fuzz(EXAMPLES, IN_A_SOAK), stateful_step_count=STEPS)
    happened: set[str] = set()
    for _ in range(MOST_RUNS):
        run_state_machine_as_test(lambda: machine(world), settings=how)
        happened = {name for name, times in world.seen.items() if times}
        if happened >= wanted:
            break
        how = settings(how, derandomize=False)
    return happened


def test_calls_of_all_kinds(world: World, sizes: Sizes) -> None:
    """Settling twice is settling once, nothing stays held, and every sum is that of the calls."""
    wanted = EVERYTHING if sizes is FULL else OFTEN
    assert run_machine(Gateways, world, wanted) >= wanted


def test_worst_case_calls(world: World) -> None:
    """Whoever reserves the worst case never gets over a line."""
    wanted = {"held", "short", "in_flight", "count", "expired", "settle expired"}
    happened = run_machine(WorstCaseGateways, world, wanted)
    assert happened >= wanted
    assert "refused" not in happened
