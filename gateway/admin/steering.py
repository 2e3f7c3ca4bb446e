"""`POST .../kill`, `.../resume`, `.../complete` and `.../reopen`: by whom and why on record."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from gateway.admin.act_requests import ActRequest, parse_request
from gateway.admin.answers import ApiError, json_answer, store_wait
from gateway.admin.auth import own_token, told_by
from gateway.admin.bodies import TaskChangedBody
from gateway.admin.body import read_json
from gateway.admin.overrides import Bounds
from gateway.admin.parts import PARTS
from gateway.admin.tasks import read_back, task_id_of
from gateway.admin.views import task_body
from gateway.core.acts import Act, TaskState, Verb
from gateway.core.overrides import Override, OverrideKind
from gateway.store.generations import reopen_task
from gateway.store.limits import apply_override, server_ms
from gateway.store.steering import Steered, WrongState, steer_task
from gateway.store.task_view import StopState
from gateway.store.tasks import read_task

_REMEDIES = {
    TaskState.KILLED: "resume it first",
    TaskState.BLOCKED: "register it correctly first, or resume it if it was at work before",
    TaskState.OPEN: "complete it first, or override its limits",
}
_EVENTS = {
    Verb.KILL: ("task_killed", "warning"),
    Verb.RESUME: ("task_resumed", "warning"),
    Verb.COMPLETE: ("task_completed", "info"),
    Verb.REOPEN: ("task_reopened", "warning"),
}


Done = tuple[Steered, list[str]]
"""What became of a task, and what whoever asked for it should know."""


async def post_kill(request: web.Request) -> web.Response:
    """Refuse every further call of a task, in every mode, until it is resumed."""
    return await _answer(request, Verb.KILL, _steer)


async def post_complete(request: web.Request) -> web.Response:
    """Close a task's executions and mark it completed."""
    return await _answer(request, Verb.COMPLETE, _steer)


async def post_resume(request: web.Request) -> web.Response:
    """End a kill, or the block of a task at work, and a trip as an override of kind resume does."""
    return await _answer(request, Verb.RESUME, _resume)


async def post_reopen(request: web.Request) -> web.Response:
    """Begin a new generation of a completed task (G-18)."""
    return await _answer(request, Verb.REOPEN, _reopen)


async def _answer(
    request: web.Request,
    verb: Verb,
    do: Callable[[web.Request, str, Verb, ActRequest], Awaitable[Done]],
) -> web.Response:
    task_id, asked = task_id_of(request), parse_request(ActRequest, await read_json(request))
    try:
        async with store_wait(request):
            steered, warnings = await do(request, task_id, verb, asked)
    except WrongState as error:
        raise ApiError(
            409, "wrong_state", f"{error}. Remedy: {_REMEDIES[error.state]}.", field="id"
        ) from None
    if steered.changed:
        name, level = _EVENTS[verb]
        reason = " ".join(asked.reason.split())
        request.app[PARTS].event(name, level, task=task_id, approver=asked.approver, reason=reason)
    view = await read_back(request, task_id)
    return json_answer(
        TaskChangedBody(
            state=steered.state.value,
            changed=steered.changed,
            warnings=warnings,
            task=task_body(view) if view else None,
        )
    )


async def _steer(request: web.Request, task_id: str, verb: Verb, asked: ActRequest) -> Done:
    parts = request.app[PARTS]
    act = told_by(request, Act(f"task.{verb.value}", asked.approver, asked.reason))
    return await steer_task(parts.connection, parts.names, task_id, verb, act), []


async def _reopen(request: web.Request, task_id: str, verb: Verb, asked: ActRequest) -> Done:
    parts = request.app[PARTS]
    act = told_by(request, Act(f"task.{verb.value}", asked.approver, asked.reason))
    bounds, token = Bounds(request, task_id), own_token(request)
    steered = await reopen_task(
        parts.connection, parts.names, task_id, act, token=token, check=bounds.check
    )
    return steered, bounds.warnings


async def _resume(request: web.Request, task_id: str, verb: Verb, asked: ActRequest) -> Done:
    parts = request.app[PARTS]
    steered, warnings = await _steer(request, task_id, verb, asked)
    view = await read_task(parts.connection, parts.names, task_id)
    if view.summary.stop_loss.state is not StopState.TRIPPED:
        return steered, warnings
    now_ms = await server_ms(parts.connection)
    override = Override(OverrideKind.RESUME, asked.approver, asked.reason, now_ms)
    await apply_override(parts.connection, parts.names, task_id, override)
    return Steered(steered.state, changed=True), warnings
