"""Export by OTLP over HTTP: metrics of budgets, and spans of tasks, phases and calls.

In the background and within bounds: what the collector does not take after three more tries is
dropped, with one warning for as long as it is away (EC18). Metrics are cumulative, so that the next
export makes up for one that was lost; of spans it is counted how many were.

A task is a trace, its phases' executions and their calls are spans in it. Ids are made of names, so
that what is sent twice is the same.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from importlib.metadata import version
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from gateway.telemetry import names
from gateway.telemetry.counters import Counters

Row = Mapping[str, Any]
_MOST_SPANS = 20_000
_BATCH = 500
_TIMEOUT_S = 5.0
_NS_PER_MS = 1_000_000
_OK, _FIRST_ERROR = 200, 400
_TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_OPERATIONS = {
    **dict.fromkeys(("openai_chat", "openai_responses", "anthropic_messages", "ollama"), "chat"),
    **dict.fromkeys(("gemini", "gemini_stream"), "generate_content"),
    **dict.fromkeys(("openai_embeddings", "ollama_embed"), "embeddings"),
    "openai_completions": "text_completion",
}


@dataclass(frozen=True, slots=True)
class OtlpRules:
    """Where to and how. Before try n + 1 it is waited for `backoff_s[n-1]`."""

    endpoint: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    interval_s: float = 10.0
    include_task_id: bool = False
    backoff_s: tuple[float, ...] = (0.5, 1.0, 2.0)


class NotTaken(Exception):
    """The collector did not take what was sent; `again` tells whether it may the next time."""

    def __init__(self, problem: str, *, again: bool) -> None:
        super().__init__(problem)
        self.again = again


class OtlpExport:
    """Collects metrics (as `budgets.Instruments`) and spans, and sends them every so often.

    `event` is ports.Recorder.event.
    """

    def __init__(
        self, rules: OtlpRules, counters: Counters, event: Callable[..., None], instance: str = ""
    ) -> None:
        self._rules = rules
        self._counters = counters
        self._event = event
        said = {"service.name": "tollgate", "service.version": version("tollgate")}
        if instance:
            said["service.instance.id"] = instance
        self._resource = Resource(said)
        self._scope = InstrumentationScope("tollgate", version("tollgate"))
        self._reader = InMemoryMetricReader()
        provider = MeterProvider([self._reader], self._resource, shutdown_on_exit=False)
        self._meter = provider.get_meter("tollgate", version("tollgate"))
        self._instruments: dict[str, Any] = {}
        self._spans: deque[ReadableSpan] = deque()
        self._lock = threading.Lock()  # rows come from the writer's thread
        self._is_away = False

    # Metrics ------------------------------------------------------------------------------------

    def add(self, name: str, amount: int, attributes: dict[str, str], task_id: str) -> None:
        """See budgets.Instruments."""
        made = self._instruments.get(name)
        if made is None:
            made = self._instruments[name] = self._meter.create_counter(name)
        made.add(amount, self._told_of(attributes, task_id))

    def observe(self, name: str, value: int, attributes: dict[str, str], task_id: str) -> None:
        """See budgets.Instruments."""
        made = self._instruments.get(name)
        if made is None:
            bounds = names.PHASE_MS_BUCKETS
            made = self._instruments[name] = self._meter.create_histogram(
                name, unit="ms", explicit_bucket_boundaries_advisory=bounds
            )
        made.record(value, self._told_of(attributes, task_id))

    def _told_of(self, attributes: dict[str, str], task_id: str) -> dict[str, str]:
        return {**attributes, "task_id": task_id} if self._rules.include_task_id else attributes

    # Spans --------------------------------------------------------------------------------------

    def add_calls(self, rows: Sequence[Row]) -> None:
        """Take the ledger's rows of calls; a refused one is a span too."""
        for row in rows:
            parent = f"{row['phase']}:{row['execution']}" if row.get("execution") else "task"
            error = row.get("code") or row.get("status")
            is_error = bool(row.get("code")) or (row.get("status") or 0) >= _FIRST_ERROR
            self._add(
                "call",
                (row["tenant"], row["task"]),
                (row["call_id"], parent),
                (row["started_ms"], row["at_ms"]),
                dict(_of_call(row)),
                str(error) if is_error else "",
            )

    def add_phase(
        self, tenant: str, facts: Mapping[str, object], times_ms: tuple[int, int], execution: int
    ) -> None:
        """Take an ended execution, by the facts of its event."""
        own = f"{facts['phase']}:{execution}"
        attributes = {f"tollgate.{name}": value for name, value in facts.items()}
        attributes["tollgate.execution"] = execution
        subject = tenant, str(facts["task"])
        self._add(f"phase {facts['phase']}", subject, (own, "task"), times_ms, attributes)

    def add_task(self, tenant: str, facts: Mapping[str, object], times_ms: tuple[int, int]) -> None:
        """Take a completed task, by the facts of its event."""
        attributes = {f"tollgate.{name}": value for name, value in facts.items()}
        self._add("task", (tenant, str(facts["task"])), ("task", ""), times_ms, attributes)

    def _add(
        self,
        name: str,
        subject: tuple[str, str],
        place: tuple[str, str],
        times_ms: tuple[int, int],
        attributes: Mapping[str, object],
        error: str = "",
    ) -> None:
        """Queue a span. `subject` is tenant and task, `place` the span and its parent."""
        trace = _id(16, *subject)
        own, parent = (_context(trace, _id(8, *subject, one)) if one else None for one in place)
        span = ReadableSpan(
            name,
            own,
            parent,
            self._resource,
            {key: value for key, value in attributes.items() if value is not None},  # type: ignore[misc]
            kind=SpanKind.CLIENT if name == "call" else SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR, error) if error else Status(StatusCode.UNSET),
            start_time=times_ms[0] * _NS_PER_MS,
            end_time=times_ms[1] * _NS_PER_MS,
            instrumentation_scope=self._scope,
        )
        with self._lock:
            self._spans.append(span)
            if len(self._spans) > _MOST_SPANS:
                self._spans.popleft()
                self._counters.add(names.TELEMETRY_DROPPED)

    # Sending ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send every so often until cancelled."""
        while True:
            await asyncio.sleep(self._rules.interval_s)
            await self.flush()

    async def flush(self) -> None:
        """Send what there is; what is not taken is dropped, and told once."""
        timeout = ClientTimeout(total=_TIMEOUT_S)
        async with ClientSession(timeout=timeout, headers=dict(self._rules.headers)) as session:
            data = self._reader.get_metrics_data()
            if data is not None:
                await self._sent(session, "metrics", encode_metrics(data).SerializeToString(), 0)
            while spans := self._taken():
                body = encode_spans(spans).SerializeToString()
                if not await self._sent(session, "traces", body, len(spans)):
                    return

    def _taken(self) -> list[ReadableSpan]:
        with self._lock:
            return [self._spans.popleft() for _ in range(min(_BATCH, len(self._spans)))]

    async def _sent(self, session: ClientSession, signal: str, body: bytes, spans: int) -> bool:
        """Send until it is taken, or drop it; return whether it was taken."""
        waits = iter(self._rules.backoff_s)
        while True:
            try:
                await self._post(session, signal, body)
            except NotTaken as error:
                wait_s = next(waits, None) if error.again else None
                if wait_s is None:
                    self._drop(signal, spans, str(error))
                    return False
                await asyncio.sleep(wait_s)
            else:
                self._is_away = False
                return True

    async def _post(self, session: ClientSession, signal: str, body: bytes) -> None:
        url = f"{self._rules.endpoint}/v1/{signal}"
        kind = {"Content-Type": "application/x-protobuf"}
        try:
            async with session.post(url, data=body, headers=kind, allow_redirects=False) as answer:
                status = answer.status
        except (ClientError, TimeoutError, OSError) as error:
            raise NotTaken(f"{type(error).__name__}: {error}", again=True) from error
        if status // 100 * 100 != _OK:
            raise NotTaken(f"HTTP {status}", again=status in _TRY_AGAIN)

    def _drop(self, signal: str, spans: int, problem: str) -> None:
        if spans:
            self._counters.add(names.TELEMETRY_DROPPED, (), spans)
        if not self._is_away:
            self._event(
                "telemetry_dropped",
                "warning",
                signal=signal,
                error=problem,
                remedy="see that the collector at telemetry.otlp_endpoint answers",
            )
        self._is_away = True


def _id(size: int, *words: str) -> int:
    return int.from_bytes(blake2b("\0".join(words).encode(), digest_size=size).digest()) or 1


def _context(trace_id: int, span_id: int) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(1))


def _of_call(row: Row) -> Iterator[tuple[str, object]]:
    """Yield a call's attributes: what OpenTelemetry has a name for goes by that (MET-5)."""
    yield "gen_ai.provider.name", row.get("upstream")
    dialect = row.get("dialect")
    yield "gen_ai.operation.name", _OPERATIONS.get(dialect, dialect) if dialect else None
    yield "gen_ai.request.model", row.get("model")
    yield "gen_ai.response.model", row.get("model_served")
    yield "gen_ai.usage.input_tokens", row.get("input_tokens")
    yield "gen_ai.usage.output_tokens", row.get("output_tokens")
    yield "gen_ai.usage.cache_read.input_tokens", row.get("cached_read_tokens")
    yield "http.response.status_code", row.get("status")
    for name in ("task", "phase", "execution", "complexity", "importance", "decision", "code"):
        yield f"tollgate.{name}", row.get(name)
    for name in ("call_id", "key", "policy", "state", "tokens", "nano_usd", "usage_source"):
        yield f"tollgate.{name}", row.get(name)
