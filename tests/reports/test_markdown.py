"""Reports, byte by byte: `tests/golden/reports/` is what readers get."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.reports.building import build_report
from gateway.reports.document import as_json, redacted
from gateway.reports.markdown import ESTIMATED, as_markdown, budget_summary
from gateway.reports.report import (
    Amount,
    Amounts,
    BreachReport,
    OverrideReport,
    Report,
    StopLossReport,
)
from gateway.store.keys import TenantKeys
from gateway.store.tasks import read_task
from tests.ledger.desk import Desk
from tests.reports.scenes import NOW_MS, in_plan, report_of, whole_life
from tests.store.agent import Agent

GOLDEN = Path(__file__).parents[1] / "golden" / "reports"


def same(text: str, name: str) -> None:
    """Compare with a golden file, but for the numbers of calls."""
    assert re.sub(r"call-\d+", "call-1", text) == (GOLDEN / name).read_text()


async def test_EC14_REP3_a_report_of_a_running_task(agent: Agent, desk: Desk) -> None:
    """The banner, and phases that were not begun with their limits."""
    await in_plan(agent)
    await desk.written()
    report = await report_of(agent, desk)
    text = as_markdown(report)
    assert "\nReport generated mid-task (current phase: PLAN)\n" in text
    assert "\n| THINK | - | 6,000 | - | 135.0 | Not Started |\n" in text
    assert "\n| STRATEGIZE | 4,300 | 4,500 | 60.0 | 90.0 | Within (96%) |\n" in text
    same(text, "running.md")


async def test_REP2_USE3_PM7_SL3b_the_report_of_a_whole_life(agent: Agent, desk: Desk) -> None:
    """Summary, phases, factors, breach, blocked attempts, override, anomalies, comparison.

    Estimates are told by phase; a person's text is no markup.
    """
    await whole_life(agent)
    await desk.written()
    report = await report_of(agent, desk)
    text = as_markdown(report)
    assert text.startswith("# Budget Report: T\n")
    assert "\n- **Total Tokens**: 32,400 / 33,400 (97%)\n" in text
    assert "\n- **Total Latency**: 75s / 573s (13%)\n" in text
    assert "\n- **Budget Status**: WITHIN LIMITS\n" in text
    assert "\n- **Blocked Attempts**: 2 (task_budget_exceeded 2)\n" in text
    assert "\n- **Config Hash**: 0f3a5c7e9b1d2468\n" in text
    assert " trip: task T exceeded its token budget: 31,400 / 23,400 (134%), line 28,080" in text
    assert f"\n- {ESTIMATED}: IMPLEMENT, calls: 1\n" in text
    assert r"the \*second\* attempt \| needs more \<b\>tokens\</b\>" in text
    assert len(report.executive_summary) == 3
    assert report.similar_tasks is not None
    assert report.similar_tasks.median_tokens == 13_500
    same(text, "whole_life.md")
    same(as_json(report).decode(), "whole_life.json")
    same(budget_summary(report, "../verify/budget_report.md"), "budget_summary.md")


async def test_REP5_the_json_twin_tells_the_same(agent: Agent, desk: Desk) -> None:
    await whole_life(agent)
    await desk.written()
    twin = json.loads(as_json(await report_of(agent, desk)))
    assert twin["task_id"] == "T"
    assert [phase["phase"] for phase in twin["phases"]][0] == "STRATEGIZE"
    assert len(twin["phases"]) == 9
    assert twin["totals"]["tokens"]["used"] == sum(
        phase["tokens"]["used"] for phase in twin["phases"]
    )
    assert (twin["budget_status"], twin["data_source"]) == ("within", "mixed")
    assert twin["phases"][3]["factors"]["phase_weight"] == "1.5"
    assert twin["estimated_share"] == round(25_000 / 32_400, 4)
    assert twin["recommendations"]


async def test_PM8_a_redacted_report_names_nobody(agent: Agent, desk: Desk) -> None:
    await whole_life(agent)
    await desk.written()
    whole = await report_of(agent, desk)
    for text in (as_markdown(redacted(whole)), as_json(redacted(whole)).decode()):
        assert "ada" not in text
        assert "attempt |" not in text
        assert "call-" not in text
        assert "32" in text
    assert "(withheld)" in as_markdown(redacted(whole))
    assert "ada" in as_markdown(whole)


def test_EC15_without_anything_there_is_a_report_all_the_same() -> None:
    same(as_markdown(build_report("T", None, None, NOW_MS)), "nothing_known.md")


async def test_EC15_without_the_ledger_the_figures_are_told(agent: Agent, desk: Desk) -> None:
    await in_plan(agent)
    await desk.written()
    whole = await report_of(agent, desk)
    view = await read_task(desk.store, TenantKeys(agent.tenant), "T", NOW_MS)
    report = build_report("T", view, None, NOW_MS)
    assert report.totals == whole.totals
    text = as_markdown(report)
    assert "**Data unavailable**: The ledger could not be read" in text
    assert "\n## Warnings and Breaches\n\n- Data unavailable.\n" in text
    assert (report.breaches, report.data_source, report.similar_tasks) == (None, None, None)


@pytest.mark.parametrize("status", ["warning", "exceeded"])
def test_the_words_of_a_status(status: str) -> None:
    totals = Amounts(*(Amount(9, 8, 0, 8, 113, status) for _ in range(4)))
    report: Report = replace(
        build_report("T", None, None, NOW_MS), totals=totals, budget_status=status
    )
    assert f"- **Budget Status**: {status.upper()}\n" in as_markdown(report)


OVERRIDE = OverrideReport("grant", None, None, None, None, None, "a", None, False, "ada", "why")
LINE = BreachReport("phase", None, "latency_ms", "flag", "", 90, 80, 85, 113, 0, None, None, "a")
STOPPED = StopLossReport("killed", "task_killed", None, "2026-11-02T09:41:12.250Z", 0, None)
MONEY = Amount(1_500_000, 3_000_000, 0, 3_000_000, 50, "within")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"overrides": (OVERRIDE,)}, "- a: grant (over), by ada: why"),
        (
            {"overrides": (replace(OVERRIDE, kind="phase_limit", phase="PLAN", tokens=1_000),)},
            "- a: phase_limit PLAN 1,000 tokens (over), by ada: why",
        ),
        (
            {"overrides": (replace(OVERRIDE, kind="multiplier", factor="1.5", in_force=True),)},
            "- a: multiplier x 1.5 (in force), by ada: why",
        ),
        (
            {"overrides": (replace(OVERRIDE, latency_ms=1_000, nano_usd=10**9, expires="b"),)},
            "- a: grant 1,000 ms $1.00 until b (over), by ada: why",
        ),
        (
            {"breaches": (LINE,)},
            "- a flag: phase exceeded its latency budget: 0s / 0s (113%), line 0s",
        ),
        ({"unpriced_calls": 2}, "- Calls without a known price: 2; their cost is missing."),
        (
            {"totals": Amounts(MONEY, MONEY, MONEY, MONEY), "stop_loss": STOPPED},
            "- **Stop-Loss**: killed: task_killed since 2026-11-02T09:41:12.250Z",
        ),
        (
            {"totals": Amounts(MONEY, MONEY, MONEY, MONEY)},
            "- **Total Cost**: $0.0015 / $0.0030 (50%)",
        ),
    ],
)
def test_a_line_of_each_kind(changes: dict[str, object], line: str) -> None:
    report = replace(build_report("T", None, None, NOW_MS), **changes)  # type: ignore[arg-type]
    assert f"\n{line}\n" in as_markdown(report)
