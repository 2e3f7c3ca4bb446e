"""What acts have made of a task, as the audit tells it: its state, phases by word, its latch.

So the store can be given it back, under the names of the task's hash (`store/keys.py`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from sqlalchemy import Connection, or_, select

from gateway.core.acts import TaskState
from gateway.core.phases import WorkPhase, elapsed_ms
from gateway.ledger.schema import AUDIT

Execution = tuple[str, int]
"""The name of a phase, and the number of one of its executions."""

_OPEN, _KILLED, _BLOCKED = (
    state.value for state in (TaskState.OPEN, TaskState.KILLED, TaskState.BLOCKED)
)


@dataclass(slots=True)
class Life:
    """A task on its way through its acts, which are to be followed in their order.

    `started` has the moments at which its executions began, in ms; so has `ended` those of their
    ends by word. `idle_ms` has the explicit ones, `closed` the latest of each phase that is closed.
    The latest explicit start has `phase`, and its act's number. `generation` of its life rises
    with each reopening, which leaves `reviews_before` behind; `may_complete` is the one that may.
    Nobody tells that a call has reopened a completed task: it is completed here.
    """

    started: Mapping[Execution, int] = field(default_factory=dict)
    state: str = _OPEN
    state_ms: int = 0
    before_kill: str = _OPEN
    before_block: str = _OPEN
    generation: int = 1
    reviews_before: int = 0
    may_complete: int | None = None
    number: int = 0
    phase: str | None = None
    idle_ms: dict[Execution, int] = field(default_factory=dict)
    ended: dict[Execution, int] = field(default_factory=dict)
    closed: dict[str, int] = field(default_factory=dict)

    def follow(self, number: int, at_ms: int, action: str, details: Mapping[str, str]) -> None:
        """Be what an act has made of it. One of a phase that names no execution makes nothing."""
        if action == "completion.allow":
            self.may_complete = self.generation
        elif action.startswith("phase."):
            self._follow_phase(number, at_ms, action, details)
        elif (told := details.get("state", "-")) != "-":
            self._enter(told, at_ms)
        if action == "task.complete":
            self._close_all(at_ms)
        elif action == "task.reopen":
            self.generation += 1
            self.reviews_before = self._latest(before_ms=at_ms).get(WorkPhase.REVIEW.value, 0)

    def _follow_phase(
        self, number: int, at_ms: int, action: str, details: Mapping[str, str]
    ) -> None:
        if not {"phase", "execution"} <= details.keys():
            return
        execution = details["phase"], int(details["execution"])
        if action == "phase.start":
            self.number, self.phase = number, execution[0]
            self.idle_ms.setdefault(execution, int(details.get("idle_ms", "0")))
        else:
            self._close(execution, at_ms)

    def _close(self, execution: Execution, at_ms: int) -> None:
        phase, number = execution
        self.ended[execution], self.closed[phase] = at_ms, number

    def _close_all(self, at_ms: int) -> None:
        """Close the latest execution of each phase, as completing a task does."""
        for phase, number in self._latest(before_ms=at_ms + 1).items():
            if number > self.closed.get(phase, 0):
                self._close((phase, number), at_ms)

    def _latest(self, before_ms: int) -> dict[str, int]:
        """Return the latest execution of each phase that had begun before."""
        latest: dict[str, int] = {}
        for (phase, number), started_ms in self.started.items():
            if started_ms < before_ms:
                latest[phase] = max(number, latest.get(phase, 0))
        return latest

    def _enter(self, told: str, at_ms: int) -> None:
        """Be in the state that an act told, by the rules of `register.lua` and `steer.lua`."""
        if told == self.state == _KILLED:
            self._change_behind_kill()
            return
        if told == _KILLED:
            self.before_kill = self.state
        elif told == _BLOCKED and self.state != _KILLED:
            self.before_block = self.state
        self.state, self.state_ms = told, at_ms

    def _change_behind_kill(self) -> None:
        """A registration blocked the killed task, or ended its block."""
        if self.before_kill == _BLOCKED:
            self.before_kill = self.before_block
        else:
            self.before_block, self.before_kill = self.before_kill, _BLOCKED

    def state_fields(self, *, was_nothing: bool) -> Iterator[tuple[str, str]]:
        """Yield what its hash has of its state; `was_nothing` is one blocked at registration."""
        if self.state == _OPEN:
            return
        yield "state", self.state
        yield "state_ms", str(self.state_ms)
        if self.state == _KILLED and self.before_kill != _OPEN:
            yield "before_kill", self.before_kill
        if not was_nothing and _BLOCKED in (self.state, self._behind_kill):
            yield "before_block", self.before_block

    @property
    def _behind_kill(self) -> str | None:
        return self.before_kill if self.state == _KILLED else None

    def phase_fields(self) -> Iterator[tuple[str, str]]:
        """Yield what its hash has of explicit executions, and whether it may complete."""
        for (phase, number), idle_ms in self.idle_ms.items():
            record, ended_ms = f"x.{phase}.{number}.", self.ended.get((phase, number))
            yield f"{record}explicit", "1"
            if idle_ms:
                yield f"{record}idle_ms", str(idle_ms)
            if ended_ms is not None:
                counted_from_ms = self.started.get((phase, number), ended_ms) + idle_ms
                yield f"{record}wall_ms", str(elapsed_ms(ended_ms, counted_from_ms))
        if self.may_complete is not None:
            yield "completion", str(self.may_complete)

    def generation_fields(self) -> dict[str, int]:
        """Return what its hash has of its generation; the first one has nothing."""
        if self.generation == 1:
            return {}
        return {"generation": self.generation, "REVIEW.past": self.reviews_before}


def read_lives(
    connection: Connection,
    tenant: str,
    tasks: Sequence[str],
    started: Mapping[str, Mapping[Execution, int]],
) -> dict[str, Life]:
    """Return what acts have made of some tasks, whose executions began when `started` says."""
    lives = {task: Life(started.get(task, {})) for task in tasks}
    for number, at_ms, task, action, details in _acts(connection, tenant, tasks):
        lives[task].follow(number, at_ms, action, msgspec.json.decode(details))
    return lives


def _acts(
    connection: Connection, tenant: str, tasks: Sequence[str]
) -> Iterable[tuple[int, int, str, str, str]]:
    act = AUDIT.c
    of_life = or_(
        act.action.like("task.%"), act.action.like("phase.%"), act.action == "completion.allow"
    )
    found = connection.execute(
        select(act.number, act.at_ms, act.subject, act.action, act.details)
        .where(act.tenant == tenant, act.subject.in_(tasks), of_life)
        .order_by(act.number)
    )
    return (tuple(row) for row in found)
