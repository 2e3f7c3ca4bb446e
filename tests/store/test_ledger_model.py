"""Any order of commands, however often each comes: the totals are those of a simple ledger.

The model is the semantics in twenty lines: a call is open, charged or given back, and the first end
it comes to is its end.
"""

from dataclasses import dataclass, field, replace
from itertools import count

import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.admission import Need
from gateway.core.errors import StoreError
from gateway.ports import ReservePlan
from gateway.store.redis_store import RedisStore
from tests.store.agent import FACTS, OBSERVE, Agent, Look, settlement

LEASE_MS = 30_000
_numbers = count(1)


@dataclass
class Call:
    """What is known of one call."""

    plan: ReservePlan
    state: str = "unknown"
    held: int = 0
    charged: int = 0
    lease: int = 0


@dataclass
class Ledger:
    """What the store must come to."""

    now: int = 1_000_000
    latency: int = 0
    calls: list[Call] = field(default_factory=list)

    def tick(self, ms: int) -> None:
        if any(call.state == "held" for call in self.calls):
            self.latency += ms
        self.now += ms

    def reserve(self, call: Call) -> None:
        if call.state == "unknown":
            need = call.plan.need
            call.state, call.held = "held", need.input_high + need.output
            call.lease = self.now + LEASE_MS

    def settle(self, call: Call, tokens: int) -> None:
        if call.state not in ("settled", "released"):
            call.state, call.held, call.charged = "settled", 0, tokens

    def release(self, call: Call) -> None:
        if call.state != "settled":
            call.state, call.held, call.charged = "released", 0, 0

    def heartbeat(self, call: Call, seen: int) -> None:
        if call.state == "held":
            call.held, call.lease = max(call.held, seen), self.now + LEASE_MS

    def expire(self) -> None:
        for call in self.calls:
            if call.state == "held" and call.lease <= self.now:
                call.state, call.held, call.charged = "expired", 0, call.held


CALLS = st.integers(0, 2)
TOKENS = st.integers(0, 200)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("tick"), st.sampled_from((1, 10_000, 30_000, 30_000))),
        st.tuples(st.just("reserve"), CALLS),
        st.tuples(st.just("reserve"), CALLS),
        st.tuples(st.just("settle"), CALLS, TOKENS),
        st.tuples(st.just("release"), CALLS),
        st.tuples(st.just("heartbeat"), CALLS, TOKENS),
        st.tuples(st.just("expire")),
    ),
    min_size=6,
    max_size=20,
)


async def _do(store: RedisStore, ledger: Ledger, step: tuple) -> None:  # type: ignore[type-arg]
    """Take one step in both worlds."""
    name, *args = step
    if name == "tick":
        ledger.tick(args[0])
        store.now_ms = str(ledger.now)
        return
    if name == "expire":
        ledger.expire()
        await store.expire_due(ledger.calls[0].plan.tenant)
        return
    call = ledger.calls[args[0]]
    getattr(ledger, name)(call, *args[1:])
    if name == "heartbeat":
        await store.heartbeat(call.plan.tenant, [(call.plan, args[1], 0)])
    elif name == "settle":
        await store.settle(settlement(call.plan, args[1]))
    elif name == "release":
        await store.release(call.plan)
    else:
        try:
            await store.reserve(call.plan)
        except StoreError as error:
            assert error.reason == "duplicate"


@settings(
    max_examples=200,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS)
async def test_totals_are_those_of_the_ledger(
    store: RedisStore, redis_client: redis.Redis, tenant: str, steps: list[tuple[str, int]]
) -> None:
    """Settled is what calls were charged, held is what open calls hold: task, phase, ancestor."""
    number = next(_numbers)
    agent = Agent(store, f"{tenant}-{number}", effects=OBSERVE)
    facts = replace(FACTS, parents=("up",))
    ledger = Ledger()
    for tokens in (10, 20, 40):
        need = Need(tokens, tokens, 0, 5, 0, 0)
        ledger.calls.append(Call(agent.plan("PLAN", need=need, facts=facts)))
    agent.at(ledger.now)
    for step in steps:
        await _do(store, ledger, step)

    look = Look(redis_client, agent.tenant)
    held = sum(call.held for call in ledger.calls)
    inflight = sum(call.state == "held" for call in ledger.calls)
    charged = [call.charged for call in ledger.calls]
    counted = sum(call.state in ("settled", "expired") for call in ledger.calls)
    for task, scope in (("T", ""), ("T", "PLAN."), ("up", "")):
        assert look.held(task, scope) == (held, 0, inflight, inflight)
        assert look.settled(task, scope) == sum(charged)
        assert look.number(f"{scope}calls.S", task) == counted
        latency = look.number(f"{scope}latency_ms.S", task)
        if inflight:
            latency += ledger.now - look.number(f"{scope}since", task)
        assert latency == ledger.latency
    assert len(look.leases()) == inflight
