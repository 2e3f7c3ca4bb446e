"""The report as Markdown, in the sections that readers and tools know (REP-2). No I/O."""

import re
from collections.abc import Iterable, Iterator

from gateway.core.amount_text import NOUNS, format_amount
from gateway.core.budget import NANO_USD_PER_USD, Dimension
from gateway.core.notice_levels import NOTICE_LEVELS_PERCENT
from gateway.reports.advice import STATUS_WORDS, UNAVAILABLE, against
from gateway.reports.report import (
    Amount,
    BreachReport,
    OverrideReport,
    PhaseReport,
    Report,
)

ESTIMATED = "Budget tracker using estimated tokens (model response lacked usage data)"
_MARKUP = re.compile(r"([\\`*_\[\]<>|#~])")
_MOST_CHARACTERS = 300
_NEARLY_PERCENT = NOTICE_LEVELS_PERCENT[1]
_STATUS = {"within": "Within", "warning": "Warning", "exceeded": "Exceeded"}
_CALCULATION = (
    *("Phase", "Base Tokens", "Base Latency (s)", "Phase Weight"),
    *("Token Limit", "Latency Limit (s)"),
)
_WITHHELD = "(withheld)"


def as_markdown(report: Report) -> str:
    """Return the whole report, with a newline at its end."""
    parts = (
        _head(report),
        _section("Executive Summary", report.executive_summary),
        _section("Summary", _summary(report)),
        _section("Per-Phase Breakdown", _breakdown(report), ""),
        _section("Budget Calculation Details", _calculation(report), ""),
        _section("Overrides", _overrides(report)),
        _section("Warnings and Breaches", _warnings(report)),
        _section("Anomalies", _anomalies(report)),
        _section("Comparison with Similar Tasks", _comparison(report)),
        _section("Recommendations", report.recommendations),
        _section("Was the Block Right?", _doubts(report)) if report.doubts else "",
        _foot(report),
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def budget_summary(report: Report, link: str) -> str:
    """Return what MONITOR's evidence says of the budget, with a link to the whole (REP-4)."""
    lines = (
        f"# Budget Summary: {report.task_id}",
        _section("", _summary(report)).strip(),
        f"The whole report: [{link}]({link})",
    )
    return "\n\n".join(lines) + "\n"


def _section(title: str, lines: Iterable[str], mark: str = "- ") -> str:
    body = "\n".join(f"{mark}{line}" for line in lines)
    return f"## {title}\n\n{body}"[0 if title else 5 :]


def _head(report: Report) -> str:
    lines = [f"# Budget Report: {report.task_id}"]
    if report.mid_task:
        phase = report.current_phase or "none"
        lines.append(f"Report generated mid-task (current phase: {phase})")
    lines += [f"**{UNAVAILABLE}**: {reason}" for reason in report.unavailable]
    return "\n\n".join(lines)


# Summary ------------------------------------------------------------------------------------------


def _summary(report: Report) -> Iterator[str]:
    totals = report.totals
    if totals is None:
        for name in ("Total Tokens", "Total Latency", "Budget Status"):
            yield f"**{name}**: {UNAVAILABLE}"
        return
    yield f"**Total Tokens**: {_against(totals.tokens, Dimension.TOKENS)}"
    yield f"**Total Latency**: {_against(totals.latency_ms, Dimension.LATENCY_MS)}"
    yield f"**Total Cost**: {_cost(totals.nano_usd)}"
    yield f"**Calls**: {_against(totals.calls, Dimension.CALLS)}"
    yield f"**Budget Status**: {STATUS_WORDS[report.budget_status or 'within']}"
    yield f"**Stop-Loss**: {_stop(report)}"
    yield f"**Task State**: {report.state}"
    yield f"**Blocked Attempts**: {_blocked(report)}"
    share = UNAVAILABLE if report.estimated_share is None else f"{report.estimated_share:.1%}"
    yield f"**Data Source**: {report.data_source or UNAVAILABLE} (estimated: {share} of tokens)"
    yield f"**Config Hash**: {report.config_hash or 'none'}"


def _against(amount: Amount, dimension: Dimension) -> str:
    return against(amount.used, amount.allowed, dimension)


def _cost(amount: Amount) -> str:
    """Return dollars to a hundredth of a cent: a task's calls are often cheaper than a cent."""
    used = f"${amount.used / NANO_USD_PER_USD:,.4f}"
    if amount.allowed is None:
        return used
    return f"{used} / ${amount.allowed / NANO_USD_PER_USD:,.4f} ({amount.percent}%)"


def _stop(report: Report) -> str:
    stop = report.stop_loss
    if stop is None:
        return UNAVAILABLE
    if stop.state == "ok":
        return "ok" if not stop.episode else f"ok (tripped {stop.episode} times before)"
    since = f" since {stop.since}" if stop.since else ""
    return f"{stop.state}: {stop.code}{since}"


def _blocked(report: Report) -> str:
    blocked = report.blocked
    if blocked is None:
        return UNAVAILABLE
    codes = ", ".join(f"{code} {count:,}" for code, count in blocked.by_code.items())
    return f"{blocked.attempts:,}" + (f" ({codes})" if codes else "")


# Phases -------------------------------------------------------------------------------------------


def _breakdown(report: Report) -> Iterator[str]:
    yield "| Phase | Tokens Used | Token Limit | Latency (s) | Latency Limit (s) | Status |"
    yield "|---|---:|---:|---:|---:|---|"
    if not report.phases:
        yield f"| {UNAVAILABLE} | - | - | - | - | - |"
    for phase in report.phases:
        tokens, latency = phase.tokens, phase.latency_ms
        begun = phase.status != "not_started"
        cells = (
            phase.phase,
            f"{tokens.used:,}" if begun else "-",
            _or_dash(tokens.allowed),
            _seconds(latency.used) if begun else "-",
            _seconds(latency.allowed),
            _phase_status(phase),
        )
        yield f"| {' | '.join(cells)} |"


def _or_dash(amount: int | None) -> str:
    return "-" if amount is None else f"{amount:,}"


def _seconds(amount_ms: int | None) -> str:
    return "-" if amount_ms is None else f"{amount_ms / 1000:,.1f}"


def _phase_status(phase: PhaseReport) -> str:
    """Return the status, with the percentage where it comes near the limit (G-2)."""
    if phase.status == "not_started":
        return "Not Started"
    percent = max(phase.tokens.percent or 0, phase.latency_ms.percent or 0)
    again = f", {phase.executions} executions" if phase.executions > 1 else ""
    shown = f" ({percent}%{again})" if percent >= _NEARLY_PERCENT else ""
    return f"{_STATUS[phase.status]}{shown or again}"


def _calculation(report: Report) -> Iterator[str]:
    if not report.phases:
        yield f"{UNAVAILABLE}."
        return
    factors = report.phases[0].factors
    yield f"- **Complexity**: {report.complexity} (x {factors.complexity})"
    yield f"- **Importance**: {report.importance} (x {factors.importance})"
    yield f"- **Budget Multiplier**: x {factors.budget_multiplier}"
    yield "- **Formula**: base x complexity x importance x phase weight x multiplier, rounded up"
    lines = ", ".join(f"{name} {text}" for name, text in report.thresholds.items())
    yield f"- **Thresholds**: {lines}"
    yield ""
    yield f"| {' | '.join(_CALCULATION)} |"
    yield "|---|---:|---:|---:|---:|---:|"
    for phase in report.phases:
        of = phase.factors
        cells = (
            phase.phase,
            f"{of.base_tokens:,}",
            _seconds(of.base_latency_ms),
            f"{of.phase_weight} (overridden)" if of.absolute else of.phase_weight,
            _or_dash(phase.tokens.limit),
            _seconds(phase.latency_ms.limit),
        )
        yield f"| {' | '.join(cells)} |"


# What happened ------------------------------------------------------------------------------------


def _overrides(report: Report) -> Iterator[str]:
    for one in report.overrides:
        what = " ".join(_what(one))
        ends = f" until {one.expires}" if one.expires else ""
        state = "in force" if one.in_force else "over"
        by = _WITHHELD if one.approver is None else _plain(one.approver)
        why = _WITHHELD if one.reason is None else _plain(one.reason)
        yield f"{one.created}: {what}{ends} ({state}), by {by}: {why}"
    if not report.overrides:
        yield "None." if report.totals is not None else f"{UNAVAILABLE}."


def _what(one: OverrideReport) -> Iterator[str]:
    yield one.kind
    if one.phase:
        yield one.phase
    if one.factor:
        yield f"x {one.factor}"
    if one.tokens is not None:
        yield f"{one.tokens:,} tokens"
    if one.latency_ms is not None:
        yield f"{one.latency_ms:,} ms"
    if one.nano_usd is not None:
        yield format_amount(one.nano_usd, Dimension.NANO_USD)


def _warnings(report: Report) -> Iterator[str]:
    if report.breaches is None:
        yield f"{UNAVAILABLE}."
    lines = [
        *map(_breach, report.breaches or ()),
        *_trouble(report),
    ]
    yield from lines
    if report.breaches is not None and not lines:
        yield "None."


def _trouble(report: Report) -> Iterator[str]:
    if report.blocked is not None and report.blocked.attempts:
        yield f"Blocked attempts: {_blocked(report)}"
    for phase in report.phases:
        if phase.estimated_calls:
            yield f"{ESTIMATED}: {phase.phase}, calls: {phase.estimated_calls:,}"
    if report.unpriced_calls:
        yield f"Calls without a known price: {report.unpriced_calls:,}; their cost is missing."


def _breach(one: BreachReport) -> str:
    dimension = Dimension(one.dimension)
    whose = one.scope if one.name is None else f"{one.scope} {one.name}"
    figures = against(one.used, one.allowed, dimension)
    parts = [
        f"{one.at} {one.effect}: {whose} exceeded its {NOUNS[dimension]} budget: {figures}, ",
        f"line {format_amount(one.line, dimension)}",
        f", phase {one.phase}" if one.phase else "",
        f", {one.code}" if one.code else "",
        f", episode {one.episode}" if one.episode else "",
        f", call {one.call}" if one.call else "",
    ]
    return "".join(parts)


def _anomalies(report: Report) -> Iterator[str]:
    for one in report.anomalies:
        dimension = Dimension(one.dimension)
        figures = against(one.used, one.allowed, dimension)
        noun = "tokens" if dimension is Dimension.TOKENS else NOUNS[dimension]
        yield f"{one.phase}: {noun} {figures}"
    if not report.anomalies:
        yield "None." if report.phases else f"{UNAVAILABLE}."


def _doubts(report: Report) -> Iterator[str]:
    yield from report.doubts
    yield "Judge it: `tollgate breaches judge CALL false_positive|justified --reason ...`"


def _comparison(report: Report) -> Iterator[str]:
    same = report.similar_tasks
    if same is None:
        known = report.breaches is not None
        yield "No completed task of the same tiers yet." if known else f"{UNAVAILABLE}."
        return
    yield f"Completed tasks of the same complexity and importance: {same.tasks}"
    yield f"Median: {same.median_tokens:,} tokens, {_seconds(same.median_latency_ms)} s"
    if same.percent_of_median is not None:
        yield f"This task: {same.percent_of_median}% of the median's tokens"


def _foot(report: Report) -> str:
    internal = "redacted: names and texts are left out" if report.redacted else "internal"
    source = f", figures of the {report.figures_from}" if report.figures_from else ""
    return f"---\n\nGenerated {report.generated_at}{source}; {internal}."


def _plain(text: str) -> str:
    """Return a person's text on one line, without markup of its own."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split())[:_MOST_CHARACTERS])
