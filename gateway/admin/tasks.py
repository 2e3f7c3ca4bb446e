"""`GET /admin/v1/tasks/{id}`, and what is below it."""

from aiohttp import web

from gateway.admin.answers import ApiError, json_answer, store_wait
from gateway.admin.bodies import TaskBody, TaskOverridesBody, TaskPhasesBody
from gateway.admin.parts import PARTS
from gateway.admin.views import task_body
from gateway.core.errors import StoreError
from gateway.core.identity import ID_PATTERN
from gateway.store.task_view import TaskView
from gateway.store.tasks import read_task

_SHOWN_CHARACTERS = 130


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
