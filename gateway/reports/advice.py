"""What a reader should take from a report (PM7): anomalies, advice, three lines. No I/O."""

from collections.abc import Iterator, Sequence

from gateway.core.amount_text import format_amount
from gateway.core.budget import Dimension
from gateway.reports.report import (
    Amounts,
    Anomaly,
    BlockedReport,
    Comparison,
    PhaseReport,
    StopLossReport,
)

_OVER_PERCENT = 150
_UNDER_PERCENT = 50
_MUCH_ESTIMATED = 0.2
_FAR_ABOVE_MEDIAN_PERCENT = 200
_ENOUGH_TASKS = 3
STATUS_WORDS = {"within": "WITHIN LIMITS", "warning": "WARNING", "exceeded": "EXCEEDED"}
UNAVAILABLE = "Data unavailable"


def find_anomalies(phases: Sequence[PhaseReport], current_phase: str | None) -> tuple[Anomaly, ...]:
    """Return phases far above a limit, and those that needed far fewer tokens than they have.

    `current_phase` is the one that is still worked on, None of a completed task: it may yet need
    them. Latency far below its limit says nothing: limits are generous there.
    """
    return tuple(
        anomaly
        for phase in phases
        if phase.status != "not_started"
        for anomaly in _of_phase(phase, is_over=phase.phase != current_phase)
    )


def _of_phase(phase: PhaseReport, *, is_over: bool) -> Iterator[Anomaly]:
    for dimension, amount in (("tokens", phase.tokens), ("latency_ms", phase.latency_ms)):
        percent, allowed = amount.percent, amount.allowed
        if percent is None or allowed is None:
            continue
        under = is_over and dimension == "tokens" and percent < _UNDER_PERCENT
        if percent > _OVER_PERCENT or under:
            yield Anomaly(phase.phase, dimension, percent, amount.used, allowed)


def compare(
    tokens: int | None, similar_tokens: Sequence[int], similar_latency_ms: Sequence[int]
) -> Comparison | None:
    """Return how a task stands among others; None without any."""
    if not similar_tokens:
        return None
    median = _median(similar_tokens)
    percent = None if tokens is None or median <= 0 else (tokens * 200 + median) // (2 * median)
    return Comparison(len(similar_tokens), median, _median(similar_latency_ms), percent)


def _median(numbers: Sequence[int]) -> int:
    """Return the median; of an even number the mean of the two in the middle, rounded down."""
    ordered, middle = sorted(numbers), len(numbers) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) // 2


# Recommendations ----------------------------------------------------------------------------------


def recommend(
    totals: Amounts | None,
    status: str | None,
    stop: StopLossReport | None,
    anomalies: Sequence[Anomaly],
    estimated_share: float | None,
    similar: Comparison | None,
) -> tuple[str, ...]:
    """Return what to do, the most urgent first; one line at least."""
    lines = [
        *_on_stop(stop),
        *_on_status(totals, status, stop),
        *_on_anomalies(anomalies),
        *_on_comparison(similar),
        *_on_estimates(estimated_share),
    ]
    if totals is None:
        lines.append("Look at the gateway's log: the figures of this task could not be read.")
    return tuple(lines) or ("No action needed.",)


def _on_stop(stop: StopLossReport | None) -> Iterator[str]:
    if stop is None or stop.state == "ok":
        return
    if stop.state == "tripped":
        mend = f"{stop.remediation} mends it; " if stop.remediation else ""
        yield (
            f"The stop-loss has stopped the task ({stop.code}): {mend}"
            "to go on, an operator grants more or resumes it."
        )
    elif stop.state == "killed":
        yield "An operator killed the task: find out why before it is resumed."
    else:
        yield "The task's registration is wrong: correct it, then its calls are let through."


def _on_status(
    totals: Amounts | None, status: str | None, stop: StopLossReport | None
) -> Iterator[str]:
    if status == "exceeded" and stop is not None and stop.state == "ok":
        yield "The budget is exceeded: split the task, or raise its tier for the next one."
    elif status == "warning":
        yield "The task used more than its limit: look at the phases above theirs."
    percent = totals.latency_ms.percent if totals is not None else None
    if percent is not None and percent > 100:  # noqa: PLR2004  # of a percent's whole
        yield f"The task took {percent}% of its time: look for slow models and for waiting calls."


def _on_anomalies(anomalies: Sequence[Anomaly]) -> Iterator[str]:
    for one in anomalies:
        if one.percent > _OVER_PERCENT:
            unit = "tokens" if one.dimension == "tokens" else "time"
            yield (
                f"{one.phase} used {one.percent}% of its {unit}: shorten what it carries along, "
                "or raise its base budget."
            )
    under = [one.phase for one in anomalies if one.percent < _UNDER_PERCENT]
    if under:
        yield f"{', '.join(under)} used less than half: their base budgets may be lowered."


def _on_comparison(similar: Comparison | None) -> Iterator[str]:
    if similar is None or similar.tasks < _ENOUGH_TASKS or similar.percent_of_median is None:
        return
    if similar.percent_of_median > _FAR_ABOVE_MEDIAN_PERCENT:
        yield (
            f"It used {similar.percent_of_median}% of what similar tasks use: see whether it was "
            "one task, and of this complexity."
        )


def _on_estimates(share: float | None) -> Iterator[str]:
    if share is not None and share > _MUCH_ESTIMATED:
        yield (
            f"{share:.0%} of the tokens are estimates: have the provider report usage "
            "(include_usage of its upstream)."
        )


# Executive summary --------------------------------------------------------------------------------


def summarise(
    totals: Amounts | None,
    status: str | None,
    phases: Sequence[PhaseReport],
    trouble: tuple[int | None, BlockedReport | None, int],
    recommendations: Sequence[str],
) -> tuple[str, str, str]:
    """Return three lines. `trouble` is crossed lines, what was blocked, and anomalies."""
    breaches, blocked, anomalies = trouble
    crossed = UNAVAILABLE.lower() if breaches is None else f"{breaches:,}"
    refused = UNAVAILABLE.lower() if blocked is None else f"{blocked.attempts:,}"
    return (
        _standing(totals, status),
        f"{_busiest(phases)}. Lines crossed: {crossed}; blocked attempts: {refused}; "
        f"anomalies: {anomalies:,}.",
        f"Recommendation: {recommendations[0]}",
    )


def _standing(totals: Amounts | None, status: str | None) -> str:
    if totals is None:
        return f"{UNAVAILABLE}."
    tokens = against(totals.tokens.used, totals.tokens.allowed, Dimension.TOKENS)
    latency = against(totals.latency_ms.used, totals.latency_ms.allowed, Dimension.LATENCY_MS)
    return f"{STATUS_WORDS[status or 'within']}: {tokens} tokens, {latency}."


def _busiest(phases: Sequence[PhaseReport]) -> str:
    if not phases:
        return f"{UNAVAILABLE} on its phases"
    worked_on = [phase for phase in phases if phase.tokens.used > 0]
    if not worked_on:
        return "No phase has used tokens"
    most = max(worked_on, key=lambda phase: phase.tokens.used)
    return f"Most went into {most.phase} ({most.tokens.used:,} tokens)"


def against(used: int, allowed: int | None, dimension: Dimension) -> str:
    """Return `8,234 / 10,000 (82%)`, or what was used where there is no limit."""
    text = format_amount(used, dimension)
    if allowed is None:
        return text
    percent = (used * 200 + allowed) // (2 * allowed) if allowed > 0 else 100 * (used > 0)
    return f"{text} / {format_amount(allowed, dimension)} ({percent}%)"
