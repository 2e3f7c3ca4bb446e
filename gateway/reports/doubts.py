"""What speaks for a block having been wrong, from a report's own figures (PM2). No I/O.

People judge (`POST .../false-positive`); these lines tell them what to look at first.
"""

from collections.abc import Iterator, Sequence

from gateway.reports.report import (
    Amounts,
    BlockedReport,
    BreachReport,
    Comparison,
    PhaseReport,
    StopLossReport,
)

_MUCH_ESTIMATED = 0.2
_BARELY_PERCENT = 105
_USUAL_PERCENT = 120
_MOST_OF_IT_PERCENT = 60
_ENOUGH_TASKS = 3
_OFTEN = 2
_STOPPING = ("refuse", "trip")
NOTHING_SPEAKS = "Nothing of the task's figures speaks for a false positive."


def doubts_about_blocks(
    totals: Amounts | None,
    phases: Sequence[PhaseReport],
    stops: tuple[StopLossReport | None, BlockedReport | None],
    breaches: Sequence[BreachReport],
    estimated_share: float | None,
    similar: Comparison | None,
) -> tuple[str, ...]:
    """Return why a block may have been wrong, one line at least; none for a task without a block.

    `stops` are the stop-loss as it stands, and what was blocked.
    """
    stop, blocked = stops
    is_tripped = stop is not None and stop.state == "tripped"
    if totals is None or not (is_tripped or (blocked is not None and blocked.attempts)):
        return ()
    lines = (
        *_on_estimates(estimated_share),
        *_on_lines(breaches),
        *_on_similar(totals, similar),
        *_on_rework(phases),
        *_on_one_phase(totals, phases),
    )
    return lines or (NOTHING_SPEAKS,)


def _on_estimates(share: float | None) -> Iterator[str]:
    if share is not None and share > _MUCH_ESTIMATED:
        yield f"{share:.0%} of the tokens are estimates: the true figure may be within the line."


def _on_lines(breaches: Sequence[BreachReport]) -> Iterator[str]:
    stopping = [one for one in breaches if one.effect in _STOPPING]
    barely = [one for one in stopping if one.used * 100 <= one.line * _BARELY_PERCENT]
    if stopping and len(barely) == len(stopping):
        yield "The line was crossed by 5% at most: the threshold decided, not a runaway."
    of_others = sorted({one.scope for one in stopping} - {"task", "phase"})
    if of_others:
        yield f"Other tasks used it up as well: the line is that of its {', '.join(of_others)}."


def _on_similar(totals: Amounts, similar: Comparison | None) -> Iterator[str]:
    if similar is None or similar.tasks < _ENOUGH_TASKS:
        return
    allowed, percent = totals.tokens.allowed, similar.percent_of_median
    if allowed is not None and similar.median_tokens > allowed:
        yield (
            f"Half of {similar.tasks} similar tasks needed more than {allowed:,} tokens: the "
            "budget of these tiers is too tight (tollgate calibrate)."
        )
    elif percent is not None and percent <= _USUAL_PERCENT:
        yield f"It used {percent}% of what similar tasks use: that is usual work."


def _on_rework(phases: Sequence[PhaseReport]) -> Iterator[str]:
    again = [one for one in phases if one.executions > _OFTEN]
    if again:
        told = ", ".join(f"{one.phase} {one.executions} times" for one in again)
        yield f"It went back and forth ({told}): rework counts, whoever asked for it."


def _on_one_phase(totals: Amounts, phases: Sequence[PhaseReport]) -> Iterator[str]:
    used = totals.tokens.used
    for one in phases:
        if used > 0 and one.tokens.used * 100 > used * _MOST_OF_IT_PERCENT and one.executions == 1:
            share = one.tokens.used * 100 // used
            yield f"{share}% went into {one.phase}, in one go: its base budget may be too small."
