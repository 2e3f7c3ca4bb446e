"""`GET /admin/v1/statistics` and verdicts of blocks."""

import asyncio
import threading
from typing import Any

import pytest

from gateway.core.statistics import CallCounts, Statistics, TaskCounts
from gateway.ledger.entries import EntryReader
from tests.admin.plane import WHO, StartPlane
from tests.core.test_statistics import figures_of

_JUDGED = {"verdict": "false_positive", **WHO}
_PATH = "/admin/v1/breaches/c-1/false-positive"


async def test_SUC1_figures_are_told_with_their_triggers(plane: StartPlane) -> None:
    asked: list[tuple[int, int, bool]] = []

    def read(_: str, since_ms: int, until_ms: int, by_complexity: bool) -> Statistics:
        asked.append((since_ms, until_ms, by_complexity))
        found = figures_of(since_ms, until_ms)
        calls = CallCounts(4, 0, {}, 10, 1_500_000_000, {"provider": 3, "none": 1})
        return Statistics(
            *(since_ms, until_ms, TaskCounts(10, 9), calls, (), (), (), found.savings, 0, 0)
        )

    admin = await plane(read_statistics=read)
    answer = await admin.get(
        "/admin/v1/statistics?since=2026-11-01&until=2026-11-02T00:00Z&by=complexity"
    )
    assert answer.status == 200, answer.text
    assert asked == [(1_793_491_200_000, 1_793_577_600_000, True)]
    told = answer.json
    assert told["tasks"]["within_limit_percent"] == 90.0
    assert told["calls"]["cost_usd"] == "1.500000000"
    assert told["calls"]["source_percents"] == {"provider": 75.0, "none": 25.0}
    states = {trigger["name"]: trigger["state"] for trigger in told["triggers"]}
    assert (states["within_limit"], states["token_trend"]) == ("ok", "no_data")
    await admin.get("/admin/v1/statistics")
    assert asked[1][1] - asked[1][0] == 14 * 86_400_000


@pytest.mark.parametrize(
    "query", ["since=yesterday", "until=1", "by=key", "since=2026-11-02&until=2026-11-01"]
)
async def test_SUC1_a_period_that_cannot_be(plane: StartPlane, query: str) -> None:
    answer = await (await plane()).get(f"/admin/v1/statistics?{query}")
    assert (answer.status, answer.error["code"]) == (400, "invalid_query")


async def test_SUC1_a_ledger_that_is_away(plane: StartPlane) -> None:
    admin = await plane()
    answer = await admin.get("/admin/v1/statistics")
    assert (answer.status, answer.error["code"]) == (503, "ledger_unavailable")
    answer = await admin.ask("POST", _PATH, json=_JUDGED)
    assert (answer.status, answer.error["code"]) == (503, "ledger_unavailable")


async def test_SUC1_figures_are_read_one_at_a_time(plane: StartPlane) -> None:
    """Two that ask at once never meet, so they take one thread from those who act."""
    meeting = threading.Barrier(2, timeout=0.3)
    met: list[bool] = []

    def read(_: str, since_ms: int, until_ms: int, __: bool) -> Statistics:
        try:
            meeting.wait()
            met.append(True)
        except threading.BrokenBarrierError:
            met.append(False)
        return figures_of(since_ms, until_ms)

    admin = await plane(read_statistics=read)
    await asyncio.gather(*(admin.get("/admin/v1/statistics") for _ in range(2)))
    assert met == [False, False]


async def test_PM2_a_verdict_comes_to_the_audit(
    plane: StartPlane, tenant: str, redis_client: Any
) -> None:
    admin = await plane(read_page=lambda *_: [{"call_id": "c-1"}])
    answer = await admin.ask("POST", _PATH, json=_JUDGED)
    assert answer.json == {"call": "c-1", "verdict": "false_positive", "approver": "ada"}
    stream = [
        (str(number), fields) for number, fields in redis_client.xrange(admin.parts.names.ledger)
    ]
    (row,) = EntryReader(tenant, 400).rows_of(stream).audit
    assert (row["subject"], row["action"], row["actor"]) == ("breach:c-1", "breach.verdict", "ada")
    assert '"verdict":"false_positive"' in row["details"].replace(" ", "")


async def test_PM2_a_call_that_crossed_no_line(plane: StartPlane) -> None:
    admin = await plane(read_page=lambda *_: [])
    answer = await admin.ask("POST", _PATH, json=_JUDGED)
    assert (answer.status, answer.error["code"]) == (404, "unknown_breach")
