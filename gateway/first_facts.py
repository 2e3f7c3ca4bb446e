"""What a task is taken for that this worker has not seen: step 4 makes it so, if it is new.

What its call's tags say, unless a roadmap knows the task: that goes before them. A parent that the
roadmap knows is begun with its first child; one that only a tag names has to be there, for nobody
has told how much it may use.
"""

from dataclasses import replace
from typing import NoReturn

from gateway.call import Call
from gateway.core.budget import EQUAL_WEIGHTS, TokenWeights
from gateway.core.errors import CallError, StoreError
from gateway.core.roadmap import RoadmapTask
from gateway.planner import Planner
from gateway.ports import Doors, TaskFacts

_MOST_PARENTS = 4


async def first_facts(doors: Doors, tenant: str, call: Call, planner: Planner) -> TaskFacts:
    """Return the facts of a call's task. Raises CallError for a new one that the roadmap blocks."""
    new = planner.new_task(call.task, call.tags)
    if new.problem:
        return await known_facts(doors, tenant, call.task) or _blocked(new)
    facts = facts_alone(call, planner)
    if call.is_untagged or not new.parent or new.parent == call.task:
        return facts
    return replace(facts, parents=await _chain_of(new.parent, doors, tenant, planner, (call.task,)))


def facts_alone(call: Call, planner: Planner) -> TaskFacts:
    """Return the facts of a new task but for its parents. Raises CallError for a blocked one."""
    new = planner.new_task(call.task, call.tags)
    if new.problem:
        _blocked(new)
    weights = EQUAL_WEIGHTS if call.is_untagged else planner.rules.budgets.token_weights
    return _facts(new, weights)


def _facts(new: RoadmapTask, weights: TokenWeights) -> TaskFacts:
    return TaskFacts(new.profile.complexity, new.profile.importance, (), weights)


def _blocked(task: RoadmapTask) -> NoReturn:
    raise CallError("task_blocked", f"Blocked by the roadmap: {task.problem}")


async def _chain_of(
    parent: str, doors: Doors, tenant: str, planner: Planner, below: tuple[str, ...]
) -> tuple[str, ...]:
    """Return a parent and its ancestors; none if nobody knows the parent."""
    facts = await known_facts(doors, tenant, parent)
    if facts is None:
        facts = await _begun(parent, doors, tenant, planner, (*below, parent))
    if facts is None:
        doors.recorder.event("unknown_parent", "warning", parent=parent)
        return ()
    return (parent, *facts.parents)[:_MOST_PARENTS]


async def _begun(
    task: str, doors: Doors, tenant: str, planner: Planner, chain: tuple[str, ...]
) -> TaskFacts | None:
    """Return the facts of a task that the roadmap knows, which begins with its first child.

    `chain` has the tasks below it and itself; a roadmap that goes round ends where it began.
    """
    new = planner.rules.roadmap.get(task)
    if new is None:
        return None
    if new.problem:
        _blocked(new)
    facts = _facts(new, planner.rules.budgets.token_weights)
    if new.parent and new.parent not in chain and len(chain) <= _MOST_PARENTS:
        parents = await _chain_of(new.parent, doors, tenant, planner, chain)
        facts = replace(facts, parents=parents)
    try:
        return await doors.store.begin(tenant, task, facts, planner.limits_of(facts, task))
    except StoreError:
        return None


async def known_facts(doors: Doors, tenant: str, task: str) -> TaskFacts | None:
    """Return the facts of a task that is there; None if there is none, or the store fails."""
    try:
        return await doors.store.read_facts(tenant, task)
    except StoreError:
        return None
