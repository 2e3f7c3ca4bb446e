"""What policies of every kind have in common: a name, a mode, and whom they are for.

A kind with a module of its own builds on this one; `core/policy.py` gathers all kinds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from gateway.core.match import CallMatch, Subject
from gateway.core.phases import Complexity, ImportanceTier
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


@dataclass(frozen=True, slots=True)
class Match:
    """Which tasks and calls a policy is for; an empty set matches all. Tiers are the snapshot's.

    Each of `calls` must be met; most policies have none, so that matching is a test of the tiers.
    """

    complexity: frozenset[Complexity] = frozenset()
    importance: frozenset[ImportanceTier] = frozenset()
    calls: tuple[CallMatch, ...] = ()

    def matches(
        self, complexity: Complexity, importance: ImportanceTier, call: Subject | None = None
    ) -> bool:
        """Return whether a call of a task with these tiers is meant.

        Without a call only policies for all calls are.
        """
        return (
            (not self.complexity or complexity in self.complexity)
            and (not self.importance or importance in self.importance)
            and (not self.calls or self._means(call))
        )

    def _means(self, call: Subject | None) -> bool:
        return call is not None and all(one.matches(call) for one in self.calls)

    def within(self, other: "Match") -> "Match | None":
        """Return what both mean, or None if they have no tiers in common."""
        complexity = _both(self.complexity, other.complexity)
        importance = _both(self.importance, other.importance)
        if complexity is None or importance is None:
            return None
        return Match(complexity, importance, tuple(dict.fromkeys(self.calls + other.calls)))


Tier = TypeVar("Tier", Complexity, ImportanceTier)


def _both(one: frozenset[Tier], other: frozenset[Tier]) -> frozenset[Tier] | None:
    """Return the tiers in both sets, an empty set being all tiers; None if there are none."""
    if not one or not other:
        return one | other
    return one & other or None


@dataclass(frozen=True, slots=True)
class Policy:
    """What policies of every kind state. Names are unique in a set."""

    name: str
    mode: Mode = Mode.OBSERVE
    match: Match = Match()


AnyPolicy = TypeVar("AnyPolicy", bound=Policy)


def first_match(
    policies: Sequence[AnyPolicy],
    complexity: Complexity,
    importance: ImportanceTier,
    call: Subject | None = None,
) -> AnyPolicy | None:
    """Return the first policy that is for a call of a task with these tiers."""
    for policy in policies:
        if policy.match.matches(complexity, importance, call):
            return policy
    return None
