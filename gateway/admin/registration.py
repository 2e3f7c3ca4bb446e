"""`POST /admin/v1/tasks`: a task gets its tiers and its own limits before its first call."""

from collections.abc import Iterator, Mapping
from typing import Literal

from aiohttp import web

from gateway.admin.answers import ApiError, json_answer, store_wait
from gateway.admin.auth import told_by
from gateway.admin.bodies import TaskRegisteredBody
from gateway.admin.body import read_json
from gateway.admin.overrides import below_calculated
from gateway.admin.parts import PARTS
from gateway.admin.registration_requests import (
    Malformed,
    RegisterRequest,
    invalid_parent,
    parse_registration,
)
from gateway.admin.tasks import read_back
from gateway.admin.views import plain, task_body
from gateway.core.acts import Act
from gateway.core.budget import TaskLimits, TaskProfile, task_limits
from gateway.core.registration import MOST_ANCESTORS
from gateway.ports import TaskFacts
from gateway.store.registration import Registered, Registration, facts_of, register_task

_CREATED = 201
_OUTCOMES: Mapping[Registered, Literal["created", "same", "unblocked"]] = {
    Registered.CREATED: "created",
    Registered.SAME: "same",
    Registered.UNBLOCKED: "unblocked",
}


async def post_task(request: web.Request) -> web.Response:
    """Register a task; the same content again changes nothing, other content is refused."""
    asked = parse_registration(await read_json(request))
    if isinstance(asked, Malformed):
        await _block(request, asked)
        raise asked.error
    limits = task_limits(request.app[PARTS].rules().budgets, asked.profile)
    async with store_wait(request):
        facts = _facts(limits, await _ancestors(request, asked))
        what = Registration(asked.id, facts, limits, asked.digest, told_by(request, _act(asked)))
        outcome = await _register(request, what)
    if outcome is Registered.CONFLICT:
        raise ApiError(
            409,
            "task_exists",
            f"Task {asked.id} exists with other content, which is fixed for its life. Remedy: "
            "change what it may use by an override, and resume it if it is blocked, or choose "
            "another id.",
            field="id",
        )
    if outcome is not Registered.SAME:
        request.app[PARTS].event(
            "task_registered", "info", task=asked.id, by=asked.registered_by, outcome=outcome.value
        )
    view = await read_back(request, asked.id)
    return json_answer(
        TaskRegisteredBody(
            outcome=_OUTCOMES[outcome],
            warnings=list(_warnings(asked, limits)),
            task=task_body(view) if view else None,
        ),
        _CREATED if outcome is Registered.CREATED else 200,
    )


async def _block(request: web.Request, what: Malformed) -> None:
    """Have the task refuse every call until it is registered correctly (EC17)."""
    limits = task_limits(request.app[PARTS].rules().budgets, what.profile)
    reason = what.error.message
    act = Act("task.block", "admin", reason, {"field": str(what.error.details["field"])})
    act = told_by(request, act)
    async with store_wait(request):
        made = Registration(what.id, _facts(limits, ()), limits, "", act)
        await _register(request, made)
    request.app[PARTS].event("task_blocked", "warning", task=what.id, reason=reason)


async def _register(request: web.Request, what: Registration) -> Registered:
    parts = request.app[PARTS]
    return await register_task(parts.connection, parts.names, what)


async def _ancestors(request: web.Request, asked: RegisterRequest) -> tuple[str, ...]:
    """Return the parent and its ancestors. Raises ApiError where it cannot be the parent."""
    parent, parts = asked.parent, request.app[PARTS]
    if parent is None:
        return ()
    known = await facts_of(parts.connection, parts.names, parent)
    if known is None:
        raise invalid_parent(asked.id, f"there is no task {parent}", "register it first")
    if asked.id in (parent, *known.parents):
        raise invalid_parent(asked.id, "a task cannot be below itself", "choose another parent")
    if len(known.parents) >= MOST_ANCESTORS:
        problem = f"{parent} has {MOST_ANCESTORS} ancestors, which is the most"
        raise invalid_parent(asked.id, problem, "choose one further up")
    return (parent, *known.parents)


def _facts(limits: TaskLimits, ancestors: tuple[str, ...]) -> TaskFacts:
    profile: TaskProfile = limits.profile
    return TaskFacts(profile.complexity, profile.importance, ancestors, limits.token_weights)


def _act(asked: RegisterRequest) -> Act:
    """Return what the audit keeps: all overrides are logged there (OVR-1, AC6)."""
    details = {
        "complexity": asked.profile.complexity.value,
        "importance": asked.importance.value,
        "budget_multiplier": plain(asked.budget_multiplier),
    }
    for phase, limits in asked.budget_overrides.items():
        for name, amount in limits.model_dump(exclude_none=True).items():
            details[f"budget_overrides.{phase.value}.{name}"] = str(amount)
    return Act("task.register", asked.registered_by, asked.justification or "", details)


def _warnings(asked: RegisterRequest, limits: TaskLimits) -> Iterator[str]:
    for phase, amounts in limits.profile.overrides.phases.items():
        yield from below_calculated(limits.budgets[phase], amounts)
    if asked.complexity is not None and (asked.files, asked.changed_lines) != (None, None):
        yield "complexity was given: files and changed_lines have no effect."
