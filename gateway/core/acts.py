"""What somebody did to a task through the API, as the ledger's audit keeps it."""

from collections.abc import Mapping

from msgspec import Struct

from gateway.core.vocabulary import Vocabulary


class Act(Struct, frozen=True):
    """Who did what and why. `action` is like `task.kill`; `details` depend on it."""

    action: str
    actor: str
    reason: str
    details: Mapping[str, str] = {}


class TaskState(Vocabulary):
    """Where a task is in its life. In the store's hash, `open` is the lack of a state.

    A completed task that is called again counts on and is `reopened` from then on; only an operator
    gives it a whole budget again (G-18).
    """

    OPEN = "open"
    COMPLETED = "completed"
    REOPENED = "reopened"
    KILLED = "killed"
    BLOCKED = "blocked"


class Verb(Vocabulary):
    """What may be done to a task's state."""

    KILL = "kill"
    RESUME = "resume"
    COMPLETE = "complete"
    REOPEN = "reopen"


def state_after(
    verb: Verb,
    state: TaskState,
    before_kill: TaskState,
    before_block: TaskState = TaskState.BLOCKED,
) -> TaskState | None:
    """Return the state that follows; `state` itself if nothing changes, None if it cannot be.

    The specification of `store/lua/steer.lua`. A kill ends only by a resume; a block by a correct
    registration, and by a resume if the task was something before, which `before_block` says:
    neither by completing the task. Only what was completed is reopened.
    """
    if verb is Verb.KILL:
        return TaskState.KILLED
    if verb is Verb.RESUME:
        return {TaskState.KILLED: before_kill, TaskState.BLOCKED: before_block}.get(state, state)
    stopped = state in (TaskState.KILLED, TaskState.BLOCKED)
    if verb is Verb.REOPEN:
        return None if stopped or state is TaskState.OPEN else TaskState.REOPENED
    return None if stopped else TaskState.COMPLETED
