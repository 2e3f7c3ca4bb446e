"""`GET /admin/v1/tasks` and `GET /admin/v1/tasks/{id}`."""

import re
from collections.abc import Callable

from aiohttp import web

from gateway.admin.answers import ApiError, json_answer, store_wait
from gateway.admin.bodies import TaskBody, TaskOverridesBody, TaskPageBody, TaskPhasesBody
from gateway.admin.parts import PARTS
from gateway.admin.query import Query, invalid_query
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

STATUSES = (
    *(status.value for status in BreachStatus),
    *(state.value for state in StopState if state is not StopState.OK),
)
_PARAMETERS = ("limit", "cursor", "status", "phase", "complexity", "importance")
_CURSOR = re.compile(rf"([0-9]{{1,15}}):({ID_PATTERN.pattern})")
_SHOWN_CHARACTERS = 130


async def get_tasks(request: web.Request) -> web.Response:
    """Return tasks, newest first; `next_cursor` goes on where the page ends."""
    query = Query(request, _PARAMETERS)
    limit, after, wanted = query.limit(), _after(query), _wanted(query)
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


def _after(query: Query) -> Place | None:
    text = query.text("cursor")
    if not text:
        return None
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise invalid_query("cursor", "give the next_cursor of an answer, or leave it out")
    return Place(int(match[1]), match[2])


def _wanted(query: Query) -> Callable[[TaskSummary], bool]:
    """Return whether a task passes the filters."""
    status = query.one_of("status", STATUSES)
    phase = _term(query, "phase", WorkPhase)
    complexity = _term(query, "complexity", Complexity)
    importance = _term(query, "importance", ImportanceTier)

    def wanted(task: TaskSummary) -> bool:
        return (
            phase in (None, task.current_phase)
            and complexity in (None, task.facts.complexity)
            and importance in (None, task.facts.importance)
            and (not status or status in (task.status.value, task.stop_loss.state.value))
        )

    return wanted


def _term(query: Query, name: str, vocabulary: type[Term]) -> Term | None:
    """Return a parameter of a closed vocabulary, in any letter case; None if it is not given."""
    text = query.text(name)
    term = parse_term(vocabulary, text)
    if text and term is None:
        raise invalid_query(name, f"choose one of {allowed_terms(vocabulary)}")
    return term
