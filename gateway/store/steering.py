"""Killing, resuming, completing and reopening tasks: atomic acts, told to the ledger's audit."""

from dataclasses import dataclass

import msgspec

from gateway.core.acts import Act, TaskState, Verb
from gateway.core.errors import StoreError
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys
from gateway.store.limits import UnknownTask
from gateway.store.scripts import load_script


class WrongState(StoreError):
    """A task in `state` cannot do that; nothing was changed."""

    def __init__(self, task: str, state: TaskState) -> None:
        super().__init__("wrong_state", f"task {task} is {state.value}")
        self.state = state


@dataclass(frozen=True, slots=True)
class Steered:
    """The state that a task is in now, and whether this act made it so."""

    state: TaskState
    changed: bool


async def steer_task(
    connection: StoreConnection,
    names: TenantKeys,
    task: str,
    verb: Verb,
    act: Act,
    *,
    idle_ms: int | None = None,
    now_ms: str = "",
) -> Steered:
    """Change a task's state; it holds with the next call on every gateway.

    With `idle_ms`, only if it was idle for so long. Raises UnknownTask, WrongState. `now_ms`
    replaces the store's clock in tests.
    """
    reply = await connection.run(
        load_script("steer"),
        [names.clock, names.task(task), names.overrides(task), names.tasks, names.ledger],
        [now_ms, verb.value, msgspec.json.encode(act), "" if idle_ms is None else idle_ms],
    )
    if reply[0] == "absent":
        raise UnknownTask(task)
    state = TaskState(reply[1])
    if reply[0] == "impossible":
        raise WrongState(task, state)
    return Steered(state, reply[0] == "changed")
