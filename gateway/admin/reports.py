"""`GET /admin/v1/tasks/{id}/report`: a task's budget report, also while it runs (EC14)."""

import asyncio
import time

from aiohttp import web
from pydantic import ConfigDict, RootModel

from gateway.admin.answers import ApiError, json_answer, store_wait
from gateway.admin.auth import own_token
from gateway.admin.parts import PARTS
from gateway.admin.query import Query
from gateway.admin.roles import MAIN_TOKEN
from gateway.admin.tasks import task_id_of
from gateway.core.acts import Act
from gateway.core.errors import LedgerError, StoreError
from gateway.reports.document import redacted
from gateway.reports.markdown import as_markdown
from gateway.reports.report import Report
from gateway.store.limits import UnknownTask
from gateway.store.notes import note_act
from gateway.store.task_view import TaskView
from gateway.store.tasks import read_task

FORMATS = ("markdown", "json")
SWITCH = ("true", "false")
MARKDOWN = "text/markdown"


class ReportBody(RootModel[Report]):
    """The report, as `verify/budget_enforcement.json` has it. Amounts are integers."""

    model_config = ConfigDict(defer_build=True)


async def get_report(request: web.Request) -> web.Response:
    """Return a task's report, and put on record who asked for it (PM8)."""
    task_id, query = task_id_of(request), Query(request, ("format", "redacted"))
    form = query.one_of("format", FORMATS) or _accepted(request)
    without_names = query.one_of("redacted", SWITCH) == "true"
    report = await _report(request, task_id)
    if without_names:
        report = redacted(report)
    await _put_on_record(request, task_id, form, without_names=without_names)
    if form == "json":
        return json_answer(ReportBody(report))
    return web.Response(
        text=as_markdown(report),
        content_type=MARKDOWN,
        charset="utf-8",
        headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
    )


def report_path(task_id: str) -> str:
    """Return where a task's report is, for those who are told of it."""
    return f"/admin/v1/tasks/{task_id}/report"


def _accepted(request: web.Request) -> str:
    """Return the format that a client without the parameter wants: JSON only if it says so."""
    accepted = request.headers.get("Accept", "")
    return "json" if "application/json" in accepted and MARKDOWN not in accepted else "markdown"


async def _report(request: web.Request, task_id: str) -> Report:
    """Return the report, of the ledger alone if the store does not know. Raises ApiError."""
    parts = request.app[PARTS]
    if parts.read_report is None:
        message = (
            "Reports are switched off. Remedy: set reports.enabled and tracking.enabled to true."
        )
        raise ApiError(404, "reports_off", message)
    view, now_ms = await _view(request, task_id), time.time_ns() // 1_000_000
    try:
        report = await asyncio.to_thread(
            parts.read_report, parts.names.tenant, task_id, view, view.now_ms if view else now_ms
        )
    except LedgerError as error:
        message = f"Neither the budget store nor the ledger can be read: {error}"
        raise ApiError(503, "ledger_unavailable", message, headers={"Retry-After": "2"}) from None
    if report is None:
        raise UnknownTask(task_id)
    return report


async def _view(request: web.Request, task_id: str) -> TaskView | None:
    parts = request.app[PARTS]
    try:
        async with store_wait(request):
            return await read_task(parts.connection, parts.names, task_id)
    except StoreError:  # unknown there, or no answer: the ledger may tell
        return None


async def _put_on_record(
    request: web.Request, task_id: str, form: str, *, without_names: bool
) -> None:
    """Tell log and audit who read what; a store that is away keeps nobody from reading."""
    parts, reader = request.app[PARTS], own_token(request) or MAIN_TOKEN
    details = {"format": form, "redacted": str(without_names).lower()}
    parts.event("report_read", "info", task=task_id, by=reader, **details)
    act = Act("report.read", reader, "", details)
    try:
        async with store_wait(request):
            await note_act(parts.connection, parts.names, f"task:{task_id}", act)
    except StoreError as error:
        parts.event("report_access_not_noted", "error", task=task_id, by=reader, error=str(error))
