"""`GET /v1/budget`: an agent asks what is left. No call is made, counted or forwarded (GW-8)."""

from gateway.core.decision import Decision, Outcome
from gateway.core.errors import CallError, StoreError
from gateway.core.identity import Tags
from gateway.core.limit_standing import LimitStanding
from gateway.core.own_budget import Asker, OwnBudget, budget_json, unused_budget
from gateway.metering import Metering
from gateway.planner import Planner
from gateway.ports import Answer, BudgetStore, TaskFacts
from gateway.trace import Trace

_HEADERS = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]


async def own_budget(
    trace: Trace, metering: Metering, planner: Planner, store: BudgetStore, tenant: str
) -> Answer:
    """Return the answer about the task that a call of this caller would be counted for.

    Raises CallError if the store does not answer.
    """
    try:
        tags = await _tags_of_today(trace, metering, planner, store, tenant)
        budget = await _budget_of(tags, planner, store, tenant)
        limits = await _limits_of(trace, planner, store, tenant)
    except StoreError as error:
        raise CallError(
            "budget_store_unavailable", "The budget store does not answer; ask again shortly."
        ) from error
    trace.decision = Decision(Outcome.ALLOW)
    trace.status = 200
    return Answer(trace.status, _HEADERS, budget_json(budget, tags.phase, limits))


async def _tags_of_today(
    trace: Trace, metering: Metering, planner: Planner, store: BudgetStore, tenant: str
) -> Tags:
    """Return the tags under key and binding as they are now: no reserve tells of old copies."""
    session = trace.tags.session
    is_old = session is not None and await store.read_session(tenant, session.id) != session
    if is_old or trace.key is not None:
        await metering.callers.identify_anew(trace, planner)
    return trace.tags


async def _budget_of(
    tags: Tags, planner: Planner, store: BudgetStore, tenant: str
) -> OwnBudget | None:
    if tags.task is None:
        return None
    known = await store.read_budget(tenant, tags.task)
    return known or unused_budget(tags.task, planner.limits_of_new(tags.task, tags))


async def _limits_of(
    trace: Trace, planner: Planner, store: BudgetStore, tenant: str
) -> tuple[LimitStanding, ...]:
    """Return where the spend limits stand that a call of this caller would be held to."""
    tags = trace.tags
    facts = await store.read_facts(tenant, tags.task) if tags.task is not None else None
    if facts is None:
        profile = planner.new_task(tags.task or "", tags).profile
        facts = TaskFacts(profile.complexity, profile.importance)
    asker = Asker(trace.key, tags, tenant)
    return await store.read_limits(tenant, planner.spend_limits_of(asker, facts))
