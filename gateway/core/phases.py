"""Work phases and tiers: the closed vocabularies that a task is described with.

Every list of phases or tiers elsewhere (configuration, headers, the store's fields) derives from
these enums, so a phase cannot exist in one place and be missing in another.
"""

from typing import TypeVar

from gateway.core.vocabulary import Vocabulary


class WorkPhase(Vocabulary):
    """A named part of a task, in working order (the order decides `enforce_from`)."""

    STRATEGIZE = "STRATEGIZE"
    SPEC = "SPEC"
    PLAN = "PLAN"
    THINK = "THINK"
    IMPLEMENT = "IMPLEMENT"
    VERIFY = "VERIFY"
    REVIEW = "REVIEW"
    PR = "PR"
    MONITOR = "MONITOR"

    @property
    def order(self) -> int:
        """Return the phase's place in working order, 1 for STRATEGIZE."""
        return _ORDER[self]


class Complexity(Vocabulary):
    """How large the work is; the tier that scales every limit."""

    TINY = "Tiny"
    SMALL = "Small"
    MEDIUM = "Medium"
    LARGE = "Large"


class ImportanceTier(Vocabulary):
    """How much is at stake; the second tier that scales every limit."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


_DAY_MS = 86_400_000
_ORDER = {phase: place for place, phase in enumerate(WorkPhase, start=1)}

Term = TypeVar("Term", WorkPhase, Complexity, ImportanceTier)


def parse_term(vocabulary: type[Term], text: str) -> Term | None:
    """Return the member that `text` names, in any letter case, or None."""
    return _BY_FOLDED_NAME[vocabulary].get(text.strip().casefold())  # type: ignore[return-value]


def allowed_terms(vocabulary: type[Term]) -> str:
    """Return the vocabulary's words for an error message, in order."""
    return ", ".join(str(member.value) for member in vocabulary)


_BY_FOLDED_NAME: dict[type[Vocabulary], dict[str, Vocabulary]] = {
    vocabulary: {str(member.value).casefold(): member for member in vocabulary}
    for vocabulary in (WorkPhase, Complexity, ImportanceTier)
}


def elapsed_ms(now_ms: int, since_ms: int) -> int:
    """Return how long it took, in ms; what is longer than a day is taken for none (EC8).

    A clock was set, or something hung. The scripts of the store do the same.
    """
    elapsed = max(0, now_ms - since_ms)
    return elapsed if elapsed <= _DAY_MS else 0
