"""The report for people: figures with their aims beside them."""

from collections.abc import Iterator, Sequence

from loadtest.figures import spread
from loadtest.measurements import (
    CHUNK_DELAY_MS,
    CHUNKS,
    CONCURRENCY,
    LARGE_BYTES,
    OPEN_RATE,
    STREAMS,
    Closed,
    Compared,
    Figures,
    Open,
    Streams,
)

AIM_CALL_US = 150
AIM_CHUNK_US = 25
LATE_MS = 1.0
_Row = tuple[str, str, str]


def table(figures: Figures) -> str:
    """Return everything that was measured, as text."""
    sections: list[tuple[str, Sequence[_Row]]] = [
        (f"1 KB chat call, closed loop, {CONCURRENCY} connections", [*_closed(figures.plain)]),
        (f"the same at {OPEN_RATE:.0f} calls/s, open loop", [*_open(figures.open)]),
        ("1 KB chat call, provider on TLS", [*_calls(figures.tls)]),
        (
            f"{STREAMS} streams at once, {CHUNKS} chunks each, one every {CHUNK_DELAY_MS} ms",
            [*_streams(figures.streams)],
        ),
        (f"{LARGE_BYTES // 1000} KB prompt", [*_calls(figures.large)]),
        ("refused call, mode enforce", [*_refusals(figures)]),
        ("memory", [("worker, peak RSS", f"{figures.peak_rss_mb:.0f} MB", "")]),
    ]
    lines: list[str] = []
    for title, rows in sections:
        lines += ["", title]
        lines += [f"  {name:<38}{figure:>12}  {note}".rstrip() for name, figure, note in rows]
    return "\n".join(lines)


def _closed(result: Closed) -> Iterator[_Row]:
    direct = sum(result.direct_per_s) / len(result.direct_per_s)
    yield (
        "calls/s through the gateway",
        f"{sum(result.calls_per_s) / len(result.calls_per_s):,.0f}",
        f"straight to the provider {direct:,.0f}",
    )
    yield from _calls(result, f"aim {AIM_CALL_US}")
    yield "supervisor, CPU us per call", f"{result.per_call.supervisor_us:.1f}", ""
    yield "ledger's writer, CPU us per call", f"{result.per_call.ledger_us:.0f}", "beside the calls"


def _calls(result: Closed, aim: str = "") -> Iterator[_Row]:
    cost, between = result.per_call, spread(result.worker_us)
    notes = [f"slices {between}" if between else "", aim, f"{result.calls:,} calls"]
    yield "worker, CPU us per call", f"{cost.worker_us:.0f}", ", ".join(filter(None, notes))
    yield "Valkey, CPU us per call", f"{cost.store_us:.0f}", ""


def _open(result: Open) -> Iterator[_Row]:
    yield from _compared("added", result.p50, result.p99)
    yield (
        "generator lag p99",
        f"{result.lag_p99_ms:.2f} ms",
        "" if result.lag_p99_ms <= LATE_MS else f"ABOVE {LATE_MS:.0f} ms: do not trust these rows",
    )
    yield (
        "offered, achieved",
        f"{result.offered_per_s:.1f}/s",
        f"{result.achieved_per_s:.1f}/s in {result.rounds} rounds of both arms in random order",
    )


def _compared(what: str, p50: Compared, p99: Compared) -> Iterator[_Row]:
    for name, each in (("p50", p50), ("p99", p99)):
        low, high = each.added.low_ms, each.added.high_ms
        interval = f"95 % CI {low:.2f} to {high:.2f}, " if low < high else ""  # none of one round
        yield (
            f"{what} {name}",
            f"{each.added.ms:.2f} ms",
            f"{interval}{each.direct_ms:.2f} -> {each.through_ms:.2f}",
        )


def _streams(result: Streams) -> Iterator[_Row]:
    yield (
        "worker, CPU us per chunk",
        f"{result.chunk.worker_us:.1f}",
        f"aim {AIM_CHUNK_US}, {result.chunks:,} chunks at {result.chunks_per_s:,.0f}/s",
    )
    yield from _compared("first chunk, added", result.first_p50, result.first_p99)
    yield (
        "between chunks p99",
        f"{result.gap_p99_through_ms:.2f} ms",
        f"straight from the provider {result.gap_p99_direct_ms:.2f} ms",
    )


def _refusals(figures: Figures) -> Iterator[_Row]:
    yield from _calls(figures.refusals.closed)
    yield "requests that reached the provider", f"{figures.refusals.upstream_requests:,}", ""
