"""`/metrics`: what the workers counted, and how the gateway is doing, for Prometheus."""

from collections.abc import Iterator

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from gateway.admin.parts import PARTS, AdminParts, Health, LedgerHealth
from gateway.telemetry import names
from gateway.telemetry.counters import Counters

_BUCKETS = (*map(str, names.CALL_MS_BUCKETS), "+Inf")


async def get_metrics(request: web.Request) -> web.Response:
    """Return all metrics, in the format that the scraper prefers."""
    registry = CollectorRegistry()
    registry.register(_Gateway(request.app[PARTS]))
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return web.Response(body=encode(registry), headers={"Content-Type": content_type})


class _Gateway(Collector):
    """Makes metric families of counters and health, anew for each scrape."""

    def __init__(self, parts: AdminParts) -> None:
        self._parts = parts

    def describe(self) -> Iterator[Metric]:
        """Name nothing beforehand: one collector alone cannot clash."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        for metric in names.COUNTERS:
            yield _counter(metric, self._parts.counters)
        yield _histogram(names.CALL_MS, self._parts.counters)
        yield from _gauges(self._parts.health())


def _counter(metric: names.Metric, counters: Counters) -> Metric:
    family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    counted = dict(counters.of(metric.name))
    if not metric.labels:
        counted.setdefault((), 0)
    for labels, value in counted.items():
        family.add_metric(labels, value)
    return family


def _histogram(metric: names.Metric, counters: Counters) -> Metric:
    """Return a histogram; what is counted by bucket is summed up over the buckets below."""
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    buckets = [(bucket, dict(counters.of(f"{metric.name}:{bucket}"))) for bucket in _BUCKETS]
    for labels, total in counters.of(f"{metric.name}:sum"):
        cumulative, rows = 0, []
        for bucket, counted in buckets:
            cumulative += counted.get(labels, 0)
            rows.append((bucket, cumulative))
        family.add_metric(labels, rows, sum_value=total)
    return family


def _ledger(ledger: LedgerHealth) -> Iterator[tuple[str, str, int]]:
    yield "tollgate_ledger_writing", "1 while this gateway's writer has the ledger.", ledger.writing
    yield "tollgate_ledger_bytes", "Size of the ledger's database.", ledger.size_bytes
    yield (
        "tollgate_ledger_waiting_entries",
        "Entries in the stream that the database does not have yet.",
        ledger.waiting,
    )
    yield "tollgate_ledger_lag_ms", "Age of the oldest of them, milliseconds.", ledger.lag_ms
    yield (
        "tollgate_ledger_lost_entries",
        "Entries that were dropped because the stream was full.",
        ledger.lost,
    )


def _gauges(health: Health) -> Iterator[Metric]:
    for name, text, value in (
        ("tollgate_workers_ready", "Workers that accept calls.", health.workers_ready),
        ("tollgate_open_calls", "Calls that are under way.", health.open_calls),
        ("tollgate_store_connected", "1 while the store is connected.", health.store_connected),
        (
            "tollgate_config_from_file",
            "1 if the budgets come from the file, 0 if they are the built-in defaults.",
            health.config_source == "file",
        ),
        *_ledger(health.ledger),
    ):
        yield GaugeMetricFamily(name, text, value=float(value))
    build = GaugeMetricFamily("tollgate_build_info", "1, labelled by version.", labels=["version"])
    build.add_metric([health.version], 1)
    yield build
