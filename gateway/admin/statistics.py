"""`GET /admin/v1/statistics`: how the gateway has done over a period, from the ledger."""

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime

from aiohttp import web
from pydantic import Field

from gateway.admin.answers import ApiError, json_answer
from gateway.admin.bodies import Body, Moment, Usd
from gateway.admin.parts import PARTS
from gateway.admin.query import Query, invalid_query
from gateway.admin.views import iso
from gateway.core.budget import NANO_USD_PER_USD
from gateway.core.errors import LedgerError
from gateway.core.statistics import (
    Statistics,
    percent,
    return_on_investment,
    saved_nano_usd,
    triggers,
)

GROUPS = ("phase", "complexity")
ONE_AT_A_TIME = web.AppKey("one_at_a_time", asyncio.Lock)
PARAMETERS = ("since", "until", "by")
_DAY_MS = 86_400_000
_DEFAULT_DAYS = 14
_MOST_DAYS = 366


class TasksBody(Body):
    """Tasks that began in the period. Shares are percents, null where there is no task."""

    tasks: int
    within_limit: int
    within_limit_percent: float | None
    stopped: int
    stopped_percent: float | None
    would_refuse: int
    importance: dict[str, int]


class CallsBody(Body):
    """Calls that ended in the period. `sources`: charged calls by who counted their tokens."""

    calls: int
    would_refuse: int
    refused: dict[str, int]
    tokens: int
    nano_usd: int
    cost_usd: Usd
    sources: dict[str, int]
    source_percents: dict[str, float | None]


class BlocksBody(Body):
    """Blocks of tasks of one importance, and what people judged of them."""

    importance: str
    blocks: int
    false_positives: int
    justified: int
    false_positive_percent: float | None = Field(description="Null before anybody judged one.")


class SpreadBody(Body):
    """Percentiles (`p50` ... `p99`) of executions of a phase. `complexity` is null for all."""

    phase: str
    complexity: str | None
    executions: int
    tokens: dict[str, int]
    latency_ms: dict[str, int]


class TrendBody(Body):
    """The median of tokens a call, in the last seven days of the period and the seven before."""

    model: str
    phase: str
    median_before: int
    median_now: int
    change_percent: float | None


class SavingsBody(Body):
    """The period against one as long before it."""

    tokens_per_task_before: float | None
    tokens_per_task: float | None
    tokens_change_percent: float | None
    p95_latency_ms_before: int | None
    p95_latency_ms: int | None
    latency_change_percent: float | None
    saved_nano_usd: int | None
    return_on_investment: float | None = Field(
        description="Null without telemetry.running_cost_usd, or nothing to compare to."
    )


class TriggerBody(Body):
    """A figure held to a threshold: alerts `above` or `below` it."""

    name: str
    rule: str
    value: float | None
    threshold: float
    beyond: str
    state: str = Field(description="`ok`, `alert` or `no_data`.")


class StatisticsBody(Body):
    """A period's figures."""

    since: Moment
    until: Moment
    tasks: TasksBody
    calls: CallsBody
    blocks: list[BlocksBody]
    spreads: list[SpreadBody]
    trends: list[TrendBody]
    savings: SavingsBody
    triggers: list[TriggerBody]


async def get_statistics(request: web.Request) -> web.Response:
    """Return a period's figures: by default, of the last 14 days."""
    query, parts = Query(request, PARAMETERS), request.app[PARTS]
    group = query.one_of("by", GROUPS)
    until_ms = _moment(query, "until") or int(datetime.now(UTC).timestamp() * 1000)
    since_ms = _moment(query, "since") or until_ms - _DEFAULT_DAYS * _DAY_MS
    if not 0 < until_ms - since_ms <= _MOST_DAYS * _DAY_MS:
        raise invalid_query("since", f"begin before `until`, by at most {_MOST_DAYS} days")
    try:
        async with request.app[ONE_AT_A_TIME]:  # they may take long, and share their threads
            figures = await asyncio.to_thread(
                parts.read_statistics, parts.names.tenant, since_ms, until_ms, group == "complexity"
            )
    except LedgerError as error:
        message = f"The ledger cannot be read: {error}"
        raise ApiError(503, "ledger_unavailable", message, headers={"Retry-After": "2"}) from None
    return json_answer(statistics_body(figures, parts.monthly_nano_usd))


def statistics_body(figures: Statistics, monthly_nano_usd: int | None = None) -> StatisticsBody:
    """Return a period's figures as they are sent; `monthly_nano_usd` is the gateway's own cost."""
    tasks, calls = figures.tasks, figures.calls
    return StatisticsBody(
        since=iso(figures.since_ms),
        until=iso(figures.until_ms),
        tasks=TasksBody(
            tasks=tasks.tasks,
            within_limit=tasks.within_limit,
            within_limit_percent=tasks.percent_of(tasks.within_limit),
            stopped=tasks.stopped,
            stopped_percent=tasks.percent_of(tasks.stopped),
            would_refuse=tasks.would_refuse,
            importance=dict(tasks.importance or {}),
        ),
        calls=CallsBody(
            **asdict(calls),
            cost_usd=f"{calls.nano_usd // NANO_USD_PER_USD}.{calls.nano_usd % NANO_USD_PER_USD:09}",
            source_percents={name: percent(n, calls.calls) for name, n in calls.sources.items()},
        ),
        blocks=[BlocksBody(**asdict(one)) for one in figures.blocks],
        spreads=[SpreadBody(**asdict(one)) for one in figures.spreads],
        trends=[TrendBody(**asdict(one)) for one in figures.trends],
        savings=SavingsBody(
            **asdict(figures.savings),
            saved_nano_usd=saved_nano_usd(figures),
            return_on_investment=return_on_investment(figures, monthly_nano_usd),
        ),
        triggers=[
            TriggerBody(**{**asdict(one), "state": one.state.value})
            for one in triggers(figures, monthly_nano_usd)
        ],
    )


def _moment(query: Query, name: str) -> int | None:
    text = query.text(name)
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return int(aware.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise invalid_query(name, "give an ISO 8601 time, such as 2026-11-23T08:00Z") from None
