"""A task as others see it: values without behaviour but for what follows from the figures."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from gateway.core.acts import TaskState
from gateway.core.budget import (
    BreachStatus,
    Dimension,
    PhaseBudget,
    TaskLimits,
    breach_status,
    percent,
)
from gateway.core.notice_levels import crossed_levels
from gateway.core.overrides import Override
from gateway.core.phases import WorkPhase
from gateway.ports import TaskFacts

_WORST_FIRST = (BreachStatus.EXCEEDED, BreachStatus.WARNING, BreachStatus.WITHIN)


@dataclass(frozen=True, slots=True)
class Standing:
    """One dimension of a task or phase. Without a limit, `limit` and the lines are None.

    `line` and `runaway_line` have the grants in them; a phase has one line and no grants.
    """

    limit: int | None
    granted: int
    line: int | None
    runaway_line: int | None
    used: int
    reserved: int

    @property
    def allowed(self) -> int | None:
        """Return L + G, which messages and headers call the limit."""
        return None if self.limit is None else self.limit + self.granted

    @property
    def remaining(self) -> int | None:
        """Return what is neither used nor held of what is allowed."""
        return None if self.allowed is None else max(0, self.allowed - self.used - self.reserved)

    @property
    def percent(self) -> int | None:
        """Return used / allowed in percent."""
        return None if self.allowed is None else percent(self.used, self.allowed)

    @property
    def status(self) -> BreachStatus | None:
        """Return how far `used` stands against what is allowed and against the line."""
        if self.allowed is None or self.line is None:
            return None
        return breach_status(self.used, self.allowed, self.line)

    @property
    def pressure(self) -> int | None:
        """Return the highest notice level reached, 0 below the first."""
        if self.allowed is None:
            return None
        return max(crossed_levels(0, self.used, self.allowed), default=0)


Standings = Mapping[Dimension, Standing]


def worst_status(standings: Iterable[Standing]) -> BreachStatus:
    """Return the worst status of dimensions with a limit; `within` if none has one."""
    found = {standing.status for standing in standings}
    return next((status for status in _WORST_FIRST if status in found), BreachStatus.WITHIN)


class StopState(Enum):
    """Whether a task is stopped, and how."""

    OK = "ok"
    TRIPPED = "tripped"
    KILLED = "killed"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True)
class StopLossState:
    """A task's stop-loss. `code`, `dimension` and `since_ms` are of a stop that holds.

    `episode` counts trips, also past ones; `remediation` is the task named for the latest.
    """

    state: StopState
    code: str = ""
    dimension: Dimension | None = None
    since_ms: int | None = None
    episode: int = 0
    remediation: str = ""


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """What a list shows of a task. `status` leaves latency out, which by default stops nothing."""

    id: str
    facts: TaskFacts
    created_ms: int
    last_ms: int | None
    current_phase: WorkPhase | None
    open_calls: int
    stop_loss: StopLossState
    totals: Standings
    state: TaskState = TaskState.OPEN
    state_ms: int | None = None

    @property
    def status(self) -> BreachStatus:
        """Return the worst status of the dimensions that are held to the token thresholds."""
        return worst_status(
            standing
            for dimension, standing in self.totals.items()
            if dimension is not Dimension.LATENCY_MS
        )


@dataclass(frozen=True, slots=True)
class Execution:
    """One time that a phase was worked on. While calls are open in it, `ended_ms` is None.

    `latency_ms` is the time with a call open; `wall_ms` that from an explicit start to its end, or
    to now, with what calls took before that start; None without one.
    """

    number: int
    started_ms: int | None
    ended_ms: int | None
    tokens: int
    latency_ms: int
    wall_ms: int | None = None


@dataclass(frozen=True, slots=True)
class PhaseView:
    """A phase of a task: what it was given at first, where it stands, how often it was worked on.

    `absolute` tells that an override set its limits; then no multiplier scales them.
    """

    budget: PhaseBudget
    standings: Standings
    executions: tuple[Execution, ...]
    absolute: bool

    @property
    def status(self) -> BreachStatus:
        """Return the worst status of all dimensions (TRK-2)."""
        return worst_status(self.standings.values())


@dataclass(frozen=True, slots=True)
class CallsAndTokens:
    """How many calls of a kind there were, and the budget tokens they were charged."""

    calls: int
    tokens: int


@dataclass(frozen=True, slots=True)
class TaskView:
    """Everything that is known of a task at `now_ms`. Overrides are oldest first.

    `generation` counts how often it was begun: at first, and by each reopening.
    """

    summary: TaskSummary
    now_ms: int
    snapshot: TaskLimits
    overrides: tuple[Override, ...]
    phases: Mapping[WorkPhase, PhaseView]
    refused: int
    would_refuse: CallsAndTokens
    expired: CallsAndTokens
    estimated: CallsAndTokens
    raw_tokens: Mapping[str, int]
    parallel_phases: int = 0
    generation: int = 1


class Place(NamedTuple):
    """Where a task stands in the list: newest first means from the greatest place down."""

    created_ms: int
    task_id: str


@dataclass(frozen=True, slots=True)
class TaskPage:
    """Some tasks, newest first; `following` is the place to go on after, None at the end."""

    tasks: tuple[TaskSummary, ...]
    following: Place | None
