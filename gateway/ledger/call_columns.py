"""Columns of a call's row that come from what a worker, or a refusing script, told of it."""

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.core.call_facts import CallOutcome, Standing

Row = dict[str, Any]

_MOST = 10**13  # what the store takes for the most that one call can use; more is a mangled figure
_encode = msgspec.json.Encoder().encode

# What a call has no figures for, in every column, so that all rows of a batch have the same ones.
NO_CALL: Row = {
    **dict.fromkeys(
        (
            *("decision", "code", "status", "would_refuse", "breaches", "model_served"),
            *("input_tokens", "cached_read_tokens", "cache_write_tokens", "output_tokens"),
            *("reasoning_tokens", "cache_write_1h_tokens", "web_searches", "seconds", "characters"),
            *("images", "terms", "corrected_ms"),
            *("usage_source", "expired_tokens", "latency_ms"),
            *("first_byte_ms", "client_left", "spent_tokens", "others_held_tokens", "line_tokens"),
            *("spent_latency_ms", "line_latency_ms", "spent_nano_usd", "others_held_nano_usd"),
            *("line_nano_usd", "phase_spent_tokens", "phase_others_held_tokens"),
            "phase_line_tokens",
        )
    ),
    "task_latency_ms": 0,
    "phase_latency_ms": 0,
}


def outcome_columns(outcome: CallOutcome) -> Row:
    """Return what a worker told of a call; of one that expired nobody is left who knows."""
    usage = outcome.usage
    columns: Row = {
        "decision": outcome.decision or None,
        "code": outcome.code or None,
        "status": outcome.status or None,
        "would_refuse": outcome.would_refuse,
        "breaches": _encode(outcome.breaches).decode() if outcome.breaches else None,
        "model_served": outcome.model_served or None,
        "usage_source": outcome.source or None,
        "client_left": outcome.client_left,
    }
    if not outcome.decision:
        return columns
    return columns | {
        "input_tokens": _amount(usage.input_total),
        "cached_read_tokens": _amount(usage.cached_read),
        "cache_write_tokens": _amount(usage.cache_write),
        "output_tokens": _amount(usage.output_total),
        "reasoning_tokens": _amount(usage.reasoning),
        "cache_write_1h_tokens": _amount(usage.cache_write_1h),
        "web_searches": _amount(usage.web_searches),
        "seconds": _amount(usage.seconds),
        "characters": _amount(usage.characters),
        "images": _amount(usage.images),
        "terms": usage.terms or None,
        "latency_ms": outcome.latency_ms,
        "first_byte_ms": outcome.first_byte_ms,
        **_standing_columns("", "tokens", outcome.task_tokens),
        **_standing_columns("", "nano_usd", outcome.task_cost),
        **_standing_columns("phase_", "tokens", outcome.phase_tokens),
        **_latency_columns(outcome.task_latency),
    }


def _standing_columns(prefix: str, unit: str, standing: Standing | None) -> Row:
    if standing is None:
        return {}
    return {
        f"{prefix}spent_{unit}": standing.spent,
        f"{prefix}others_held_{unit}": standing.held,
        f"{prefix}line_{unit}": standing.line,
    }


def _latency_columns(standing: Standing | None) -> Row:
    """Return S and C: latency is never held."""
    if standing is None:
        return {}
    return {"spent_latency_ms": standing.spent, "line_latency_ms": standing.line}


def balances(words: Sequence[str]) -> Row:
    """Return S, H and C at the decision, as a refusing script wrote them."""
    return {
        name: number_of(word)
        for name, word in zip(_BALANCES, words, strict=True)
        if name is not None
    }


_BALANCES = (
    *("spent_tokens", "others_held_tokens", "line_tokens"),
    *("spent_latency_ms", None, "line_latency_ms"),
    *("spent_nano_usd", "others_held_nano_usd", "line_nano_usd"),
    *("phase_spent_tokens", "phase_others_held_tokens", "phase_line_tokens"),
)


def number_of(word: str) -> int | None:
    """Return a figure of an entry's words; `-` is none."""
    return None if word == "-" else int(word)


def _amount(count: int) -> int:
    return max(0, min(count, _MOST))
