"""What a roadmap says of a task before its first call: tiers, own limits, parent."""

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.core.budget import TaskBudgetOverrides, TaskProfile

NO_OVERRIDES = TaskBudgetOverrides()
_DEFAULT = TaskProfile()


@dataclass(frozen=True, slots=True)
class RoadmapTask:
    """One task. A `problem` with its budget blocks it: what is wrong where, and the remedy."""

    profile: TaskProfile = _DEFAULT
    parent: str | None = None
    problem: str = ""


Roadmap = Mapping[str, RoadmapTask]
"""Tasks by id."""
