"""Policies as values: what a YAML document of `policies/` says, once validated.

Numbers (limits, thresholds) live in `phase_budgets.yaml` and are frozen per task; a policy is live
and says what happens when a line is crossed. A call takes one `PolicySet` and keeps it to its end.
"""

from dataclasses import dataclass

from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.vocabulary import Vocabulary


class Mode(Vocabulary):
    """Whether a policy acts: not at all, by flagging only, or fully."""

    OFF = "off"
    OBSERVE = "observe"
    ENFORCE = "enforce"


class Effect(Vocabulary):
    """What crossing a line does to a call."""

    FLAG = "flag"
    REFUSE = "refuse"


class ReserveKind(Vocabulary):
    """What is held before a call, and whether it is compared (section 6 of the arithmetic)."""

    EXPECTED = "expected"
    WORST_CASE = "worst_case"
    NONE = "none"


class StoreFailure(Vocabulary):
    """What happens to a call when the budget store does not answer."""

    OPEN = "open"
    CLOSED = "closed"
    ALLOWANCE = "allowance"


@dataclass(frozen=True, slots=True)
class Match:
    """Which tasks a policy is for; an empty set matches all. Tiers are those of the snapshot."""

    complexity: frozenset[Complexity] = frozenset()
    importance: frozenset[ImportanceTier] = frozenset()

    def matches(self, complexity: Complexity, importance: ImportanceTier) -> bool:
        """Return whether a task with these tiers is meant."""
        return (not self.complexity or complexity in self.complexity) and (
            not self.importance or importance in self.importance
        )


@dataclass(frozen=True, slots=True)
class StopLossPolicy:
    """A policy of kind `stop_loss`. `enforce_from` None stands for `any`."""

    name: str = "stop-loss"
    mode: Mode = Mode.OBSERVE
    match: Match = Match()
    effect: Effect = Effect.REFUSE
    enforce_from: WorkPhase | None = WorkPhase.VERIFY
    reserve: ReserveKind = ReserveKind.EXPECTED
    latency_action: Effect = Effect.FLAG
    phase_action: Effect = Effect.FLAG
    store_failure: StoreFailure = StoreFailure.OPEN
    allowance_tokens: int = 50_000

    def __hash__(self) -> int:
        """Return a hash over the name alone: names are unique in a set, and calls look up by it."""
        return hash(self.name)


@dataclass(frozen=True, slots=True)
class PolicySet:
    """All policies in force, in file-name order, with the hash that every answer names."""

    stop_loss: tuple[StopLossPolicy, ...] = (StopLossPolicy(),)
    policy_hash: str = ""

    def stop_loss_for(self, complexity: Complexity, importance: ImportanceTier) -> StopLossPolicy:
        """Return the first stop-loss policy that matches, or one that is off."""
        for policy in self.stop_loss:
            if policy.match.matches(complexity, importance):
                return policy
        return _NO_POLICY

    @property
    def refuses_without_store(self) -> bool:
        """Return whether every policy refuses its tasks' calls while the store does not answer."""
        return bool(self.stop_loss) and all(
            policy.mode is Mode.ENFORCE and policy.store_failure is StoreFailure.CLOSED
            for policy in self.stop_loss
        )


_NO_POLICY = StopLossPolicy(name="none", mode=Mode.OFF)
