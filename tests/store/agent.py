"""Calls of one task, as an agent makes them, in virtual time; and a look at what they left."""

from dataclasses import dataclass
from decimal import Decimal
from itertools import count
from typing import Any

import redis
from msgspec import structs

from gateway.core.admission import Effects, Need
from gateway.core.budget import (
    BaseBudget,
    PhaseBudgetConfig,
    TaskLimits,
    TaskProfile,
    task_limits,
)
from gateway.core.call_facts import NO_OUTCOME, CallOutcome
from gateway.core.decision import Receipt, effects_of
from gateway.core.overrides import Override
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.policy import Effect, Mode, ReserveKind, StopLossPolicy
from gateway.core.usage import Usage, UsageSource
from gateway.ports import ReservePlan, Settled, Settlement, TaskFacts
from gateway.store.keys import TenantKeys
from gateway.store.limits import apply_override
from gateway.store.redis_store import RedisStore

_BASES = {
    "STRATEGIZE": (3000, 60_000, "1.5"),
    "SPEC": (1500, 40_000, "1.0"),
    "PLAN": (2000, 50_000, "1.2"),
    "THINK": (4000, 90_000, "1.5"),
    "IMPLEMENT": (3500, 120_000, "1.0"),
    "VERIFY": (2500, 60_000, "0.8"),
    "REVIEW": (2000, 50_000, "1.0"),
    "PR": (1500, 30_000, "0.6"),
    "MONITOR": (1000, 20_000, "0.6"),
}
_COMPLEXITY = {"Tiny": "0.5", "Small": "0.8", "Medium": "1.0", "Large": "1.5"}
_IMPORTANCE = {"low": "0.7", "medium": "1.0", "high": "1.5", "critical": "2.0"}


def budgets(cost_usd: str | None = None) -> PhaseBudgetConfig:
    """The default budgets; with a money limit of `cost_usd` per phase base, if given."""
    cost = None if cost_usd is None else Decimal(cost_usd)
    return PhaseBudgetConfig(
        {phase: BaseBudget(*_BASES[phase.value][:2], cost) for phase in WorkPhase},
        {tier: Decimal(_COMPLEXITY[tier.value]) for tier in Complexity},
        {tier: Decimal(_IMPORTANCE[tier.value]) for tier in ImportanceTier},
        {phase: Decimal(_BASES[phase.value][2]) for phase in WorkPhase},
    )


LIMITS = task_limits(budgets(), TaskProfile())
LIMITS_WITH_MONEY = task_limits(budgets("0.01"), TaskProfile())
FACTS = TaskFacts(Complexity.MEDIUM, ImportanceTier.MEDIUM)
NEED = Need(15_000, 15_000, 0, 2_048, 0, 0)

ENFORCE = effects_of(StopLossPolicy(), Mode.ENFORCE)
OBSERVE = effects_of(StopLossPolicy(), Mode.OBSERVE)
STRICT = effects_of(
    StopLossPolicy(latency_action=Effect.REFUSE, phase_action=Effect.REFUSE), Mode.ENFORCE
)

_call_ids = count(1)


@dataclass
class Agent:
    """Makes calls of one task. Unless told otherwise: 15,000 tokens in, 800 out, enforced."""

    store: RedisStore
    tenant: str
    task: str = "T"
    facts: TaskFacts = FACTS
    limits: TaskLimits | None = LIMITS
    effects: Effects = ENFORCE
    kind: ReserveKind = ReserveKind.EXPECTED
    enforce_from: WorkPhase | None = WorkPhase.VERIFY
    need: Need = NEED

    def plan(self, phase: str = "", **changes: Any) -> ReservePlan:
        """Return the plan of a new call."""
        plan = ReservePlan(
            call_id=f"call-{next(_call_ids)}",
            tenant=self.tenant,
            task=self.task,
            facts=self.facts,
            limits=self.limits,
            phase=WorkPhase(phase) if phase else None,
            enforce_from=self.enforce_from,
            kind=self.kind,
            effects=self.effects,
            need=self.need,
        )
        return structs.replace(plan, **changes)

    def at(self, now_ms: int) -> None:
        """Set the clock of everything that the store does."""
        self.store.now_ms = str(now_ms)

    async def reserve(self, phase: str = "", **changes: Any) -> tuple[ReservePlan, Receipt]:
        """Begin a call."""
        plan = self.plan(phase, **changes)
        return plan, await self.store.reserve(plan)

    async def call(self, phase: str = "", tokens: int = 15_800, nano_usd: int = 0) -> Receipt:
        """Make a whole call, if it is let through."""
        plan, receipt = await self.reserve(phase)
        if receipt.held_tokens and receipt.verdict.value == "held":
            await self.store.settle(settlement(plan, tokens, nano_usd))
        return receipt

    async def spend(self, tokens: int, phase: str = "IMPLEMENT", nano_usd: int = 0) -> Settled:
        """Charge something without asking, as after a reserve that never arrived."""
        return await self.store.settle(settlement(self.plan(phase), tokens, nano_usd))

    async def override(self, override: Override) -> None:
        """Put an override in force, at the agent's own time."""
        keys = TenantKeys(self.tenant)
        await apply_override(
            self.store.connection, keys, self.task, override, now_ms=self.store.now_ms
        )


def settlement(
    plan: ReservePlan, tokens: int = 15_800, nano_usd: int = 0, **changes: Any
) -> Settlement:
    """Return what a call used: all but 800 tokens of it input."""
    output = min(tokens, 800)
    made = Settlement(
        plan=plan,
        phase=plan.phase,
        tokens=tokens,
        nano_usd=nano_usd,
        usage=Usage(input_total=tokens - output, output_total=output),
        source=UsageSource.PROVIDER,
    )
    made = structs.replace(made, **changes)
    if made.outcome is not NO_OUTCOME:
        return made
    told = CallOutcome(
        decision="allow",
        status=200,
        would_refuse=made.would_refuse,
        usage=made.usage,
        source=made.source.value,
        priced=True,
    )
    return structs.replace(made, outcome=told)


class Look:
    """What stands in the hashes of one tenant."""

    def __init__(self, client: redis.Redis, tenant: str) -> None:
        self.client = client
        self.keys = TenantKeys(tenant)

    def task(self, task: str = "T") -> dict[str, str]:
        """All fields of a task's hash."""
        fields: dict[str, str] = self.client.hgetall(self.keys.task(task))
        return fields

    def everything(self) -> dict[str, bytes | None]:
        """All keys of the tenant, but for the clock, as the server would dump them."""
        names = {str(key) for key in self.client.keys(f"tg:{{{self.keys.tenant}}}:*")}
        names.discard(self.keys.clock)
        return {name: self.client.dump(name) for name in sorted(names)}

    def number(self, field: str, task: str = "T") -> int:
        """One field as a number; 0 where there is none."""
        return int(self.client.hget(self.keys.task(task), field) or 0)

    def settled(self, task: str = "T", scope: str = "") -> int:
        """Tokens settled of a task, or of one of its phases (`PLAN.`)."""
        return self.number(f"{scope}tokens.S", task)

    def held(self, task: str = "T", scope: str = "") -> tuple[int, int, int, int]:
        """Tokens, nano-dollars and calls held, and how many calls are open."""
        names = ("tokens.H", "nano_usd.H", "calls.H", "inflight")
        tokens, nano_usd, calls, inflight = (self.number(scope + name, task) for name in names)
        return tokens, nano_usd, calls, inflight

    def call(self, call_id: str) -> dict[str, str]:
        """All fields of a call's hash."""
        fields: dict[str, str] = self.client.hgetall(self.keys.call(call_id))
        return fields

    def leases(self) -> dict[str, int]:
        """Open calls with the end of their lease."""
        return {
            str(name): int(score)
            for name, score in self.client.zrange(self.keys.leases, 0, -1, withscores=True)
        }


NOTHING_HELD = (0, 0, 0, 0)
