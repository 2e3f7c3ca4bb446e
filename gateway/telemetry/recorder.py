"""Step 9, record: a finished call becomes counts and one log line; nothing here can fail a call."""

from gateway.core.usage import UsageSource
from gateway.ports import CallRecord
from gateway.telemetry import names
from gateway.telemetry.counters import Counters
from gateway.telemetry.event_log import EventLog
from gateway.telemetry.feed import EventFeed

_NS_PER_MS = 1_000_000


class CountingRecorder:
    """ports.Recorder: plain integers and log lines, shipped by whoever owns the two."""

    def __init__(
        self, counters: Counters, log: EventLog, *, log_calls: bool, feed: EventFeed | None = None
    ) -> None:
        self._counters = counters
        self._log = log
        self._log_calls = log_calls
        self._feed = feed

    def event(self, name: str, level: str = "info", **fields: object) -> None:
        """Record something noteworthy."""
        self._counters.add(names.EVENTS, (name, level))
        if name == "budget_notice":
            self._counters.add(names.BUDGET_NOTICES, (str(fields["percent"]),))
        self._log.write(name, level, fields)
        if self._feed is not None:
            self._feed.publish(name, level, fields)

    def call(self, record: CallRecord) -> None:
        """Record a finished call."""
        self._count(record)
        if self._log_calls:
            self._log.write("call", "info", _line(record))

    def _count(self, record: CallRecord) -> None:
        add, phase = self._counters.add, record.phase
        status_class = f"{record.status // 100}xx" if record.status else "none"
        add(
            names.CALLS,
            (record.outcome, record.code, record.dialect, record.upstream, status_class, phase),
        )
        self._counters.observe_ms(names.CALL_MS, (record.dialect,), record.latency_ms)
        if record.overhead_ms is not None:
            add(names.OVERHEAD_CALLS)
            add(names.OVERHEAD_NS, (), round(record.overhead_ms * _NS_PER_MS))
        if record.client_left:
            add(names.CLIENT_LEFT)
        if record.would_refuse:
            add(names.WOULD_REFUSE, (phase, record.complexity, record.importance))
        for breach in record.breaches:
            add(names.BREACHES, (breach.scope, breach.dimension, phase))
        if record.source != UsageSource.NONE:
            self._count_usage(record)

    def _count_usage(self, record: CallRecord) -> None:
        add, phase, usage = self._counters.add, record.phase, record.usage
        add(names.USAGE_SOURCE, (record.source,))
        for bucket, amount in (
            ("input", usage.plain_input),
            ("cached_read", usage.cached_read),
            ("cache_write", usage.cache_write),
            ("output", usage.output_total),
        ):
            if amount:
                add(names.TOKENS, (bucket, record.source, phase), amount)
        add(names.BUDGET_TOKENS, (phase,), record.tokens)
        if record.nano_usd is None:
            add(names.UNPRICED)
        else:
            add(names.COST, (phase,), record.nano_usd)


def _line(record: CallRecord) -> dict[str, object]:
    """Return the log line of a call: an allow-list, so that no body or credential gets in."""
    usage = record.usage
    return {
        "call_id": record.call_id,
        "key": record.key,
        "task": record.task,
        "phase": record.phase,
        "method": record.method,
        "path": record.path,
        "upstream": record.upstream,
        "model": record.model[:256],
        "status": record.status,
        "decision": record.outcome,
        "code": record.code,
        "would_refuse": record.would_refuse,
        "tokens": record.tokens,
        "input": usage.input_total,
        "output": usage.output_total,
        "usage": record.source,
        "held": record.held_tokens,
        "nano_usd": record.nano_usd,
        "ms": round(record.latency_ms, 1),
        "first_byte_ms": round(record.first_byte_ms, 1),
        "client_left": record.client_left,
        **({"passed_over": record.passed_over} if record.passed_over else {}),
    }
