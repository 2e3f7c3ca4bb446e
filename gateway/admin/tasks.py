"""`GET /admin/v1/tasks` and `GET /admin/v1/tasks/{id}`."""

import re
from collections.abc import Callable

from aiohttp import web

from gateway.admin.answers import ApiError, json_answer, store_wait
from gateway.admin.bodies import TaskBody, TaskOverridesBody, TaskPageBody, TaskPhasesBody
from gateway.admin.parts import PARTS
from gateway.admin.views import summary_body, task_body
from gateway.core.budget import BreachStatus
from gateway.core.errors import StoreError
from gateway.core.identity import ID_PATTERN
from gateway.core.phases import (
    Complexity,
    ImportanceTier,
    Term,
    WorkPhase,
    allowed_terms,
    parse_term,
)
from gateway.store.task_view import Place, StopState, TaskSummary, TaskView
from gateway.store.tasks import list_tasks, read_task

DEFAULT_LIMIT = 50
MOST_TASKS = 200
STATUSES = (
    *(status.value for status in BreachStatus),
    *(state.value for state in StopState if state is not StopState.OK),
)
_PARAMETERS = ("limit", "cursor", "status", "phase", "complexity", "importance")
_CURSOR = re.compile(rf"([0-9]{{1,15}}):({ID_PATTERN.pattern})")
_SHOWN_CHARACTERS = 130


async def get_tasks(request: web.Request) -> web.Response:
    """Return tasks, newest first; `next_cursor` goes on where the page ends."""
    limit, after, wanted = _limit(request), _after(request), _wanted(request)
    parts = request.app[PARTS]
    async with store_wait(request):
        page = await list_tasks(parts.connection, parts.names, limit, after, wanted)
    following = page.following
    return json_answer(
        TaskPageBody(
            tasks=[summary_body(task) for task in page.tasks],
            next_cursor=f"{following.created_ms}:{following.task_id}" if following else None,
        )
    )


async def get_task(request: web.Request) -> web.Response:
    """Return everything that is known of a task."""
    return json_answer(await _whole(request))


async def get_task_phases(request: web.Request) -> web.Response:
    """Return a task's phases."""
    body = await _whole(request)
    return json_answer(TaskPhasesBody(task=body.id, as_of=body.as_of, phases=body.phases))


async def get_task_overrides(request: web.Request) -> web.Response:
    """Return a task's overrides, also those that have run out."""
    body = await _whole(request)
    return json_answer(TaskOverridesBody(task=body.id, as_of=body.as_of, overrides=body.overrides))


async def _whole(request: web.Request) -> TaskBody:
    task_id, parts = task_id_of(request), request.app[PARTS]
    async with store_wait(request):
        return task_body(await read_task(parts.connection, parts.names, task_id))


async def read_back(request: web.Request, task_id: str) -> TaskView | None:
    """Return a task after a change. That was made: a failure here must not look like one of it."""
    parts = request.app[PARTS]
    try:
        async with store_wait(request):
            return await read_task(parts.connection, parts.names, task_id)
    except StoreError:
        return None


def task_id_of(request: web.Request) -> str:
    """Return the task that the path names. Raises ApiError for what cannot be an id."""
    task_id = request.match_info["id"]
    if ID_PATTERN.fullmatch(task_id):
        return task_id
    raise ApiError(
        400,
        "invalid_task_id",
        f"{task_id[:_SHOWN_CHARACTERS]!r} cannot be a task's id: a letter or digit, then up to 127 "
        "letters, digits, dots, underscores, hyphens. Remedy: correct the path.",
        field="id",
    )


# Query --------------------------------------------------------------------------------------------


def _parameter(request: web.Request, name: str) -> str:
    """Return a parameter's text, '' if it is not given. Unknown and repeated ones are errors."""
    for given in request.query:
        if given not in _PARAMETERS:
            raise _invalid(given[:_SHOWN_CHARACTERS], f"choose from {', '.join(_PARAMETERS)}")
    texts = request.query.getall(name, [""])
    if len(texts) > 1:
        raise _invalid(name, "give it once")
    return texts[0]


def _invalid(name: str, remedy: str) -> ApiError:
    message = f"The query parameter {name!r} is not valid. Remedy: {remedy}."
    return ApiError(400, "invalid_query", message, field=name)


def _limit(request: web.Request) -> int:
    text = _parameter(request, "limit") or str(DEFAULT_LIMIT)
    if not re.fullmatch("[0-9]{1,3}", text) or not 1 <= int(text) <= MOST_TASKS:
        raise _invalid("limit", f"give a number from 1 to {MOST_TASKS}")
    return int(text)


def _after(request: web.Request) -> Place | None:
    text = _parameter(request, "cursor")
    if not text:
        return None
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise _invalid("cursor", "give the next_cursor of an answer, or leave it out")
    return Place(int(match[1]), match[2])


def _wanted(request: web.Request) -> Callable[[TaskSummary], bool]:
    """Return whether a task passes the filters."""
    status = _parameter(request, "status").lower()
    if status and status not in STATUSES:
        raise _invalid("status", f"choose one of {', '.join(STATUSES)}")
    phase = _term(request, "phase", WorkPhase)
    complexity = _term(request, "complexity", Complexity)
    importance = _term(request, "importance", ImportanceTier)

    def wanted(task: TaskSummary) -> bool:
        return (
            phase in (None, task.current_phase)
            and complexity in (None, task.facts.complexity)
            and importance in (None, task.facts.importance)
            and (not status or status in (task.status.value, task.stop_loss.state.value))
        )

    return wanted


def _term(request: web.Request, name: str, vocabulary: type[Term]) -> Term | None:
    """Return a parameter of a closed vocabulary, in any letter case; None if it is not given."""
    text = _parameter(request, name)
    term = parse_term(vocabulary, text)
    if text and term is None:
        raise _invalid(name, f"choose one of {allowed_terms(vocabulary)}")
    return term
