"""Policies of kind `model_downgrade`: near its limit a task is served by a cheaper model.

The reserve script compares the soft line, for only the store knows the balance; above it nothing is
held, and the call is planned again with the other model (`shaping.over_soft_line`), whose name
replaces the first one's in the request (`model_rename.py`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gateway.core.budget import Dimension
from gateway.core.policy_base import Policy


@dataclass(frozen=True, slots=True)
class SoftLine:
    """`percent` of a limit (grants included): the task's, or that of the phase (`of_phase`)."""

    percent: int = 80
    dimension: Dimension = Dimension.TOKENS
    of_phase: bool = False


@dataclass(frozen=True, slots=True)
class ModelDowngradePolicy(Policy):
    """A policy of kind `model_downgrade`; `models` are (pattern, cheaper model), in order."""

    name: str = "model-downgrade"
    soft_line: SoftLine = SoftLine()
    models: tuple[tuple[str, str], ...] = ()

    def cheaper_than(self, names: Iterable[str | None]) -> str:
        """Return the model that stands in for one of these names, '' if none does."""
        known = [name for name in names if name]
        for pattern, cheaper in self.models:
            if any(fnmatchcase(name, pattern) for name in known):
                return "" if cheaper in known else cheaper
        return ""
