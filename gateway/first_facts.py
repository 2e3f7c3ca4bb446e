"""What a task is taken for that this worker has not seen: step 4 makes it so, if it is new.

What its call's tags say, unless a roadmap knows the task: that goes before them.
"""

from gateway.call import Call
from gateway.core.budget import EQUAL_WEIGHTS
from gateway.core.errors import CallError, StoreError
from gateway.planner import Planner
from gateway.ports import Doors, TaskFacts

_MOST_PARENTS = 4


async def first_facts(doors: Doors, tenant: str, call: Call, planner: Planner) -> TaskFacts:
    """Return the facts of a call's task. Raises CallError for a new one that the roadmap blocks."""
    new = planner.new_task(call.task, call.tags)
    if new.problem:
        return await _facts_despite(new.problem, doors, tenant, call)
    parents: tuple[str, ...] = ()
    if new.parent and new.parent != call.task and not call.is_untagged:
        parents = await _chain_of(new.parent, doors, tenant)
    return TaskFacts(
        new.profile.complexity,
        new.profile.importance,
        parents,
        EQUAL_WEIGHTS if call.is_untagged else planner.rules.budgets.token_weights,
    )


async def _facts_despite(problem: str, doors: Doors, tenant: str, call: Call) -> TaskFacts:
    """Return the facts of a task that is there already; the roadmap comes too late for it."""
    facts = await _known(doors, tenant, call.task)
    if facts is None:
        raise CallError("task_blocked", f"Blocked by the roadmap: {problem}")
    return facts


async def _chain_of(parent: str, doors: Doors, tenant: str) -> tuple[str, ...]:
    """Return a parent and its ancestors; none if the parent is not known yet."""
    facts = await _known(doors, tenant, parent)
    if facts is None:
        doors.recorder.event("unknown_parent", "warning", parent=parent)
        return ()
    return (parent, *facts.parents)[:_MOST_PARENTS]


async def _known(doors: Doors, tenant: str, task: str) -> TaskFacts | None:
    try:
        return await doors.store.read_facts(tenant, task)
    except StoreError:
        return None
