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

from gateway.admin.parts import PARTS, AdminParts, Health
from gateway.telemetry import names
from gateway.telemetry.counters import Counters


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
        for metric in names.HISTOGRAMS:
            yield _histogram(metric, self._parts.counters)
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
    bounds = (*map(str, metric.buckets_ms), "+Inf")
    buckets = [(bound, dict(counters.of(f"{metric.name}:{bound}"))) for bound in bounds]
    for labels, total in counters.of(f"{metric.name}:sum"):
        cumulative, rows = 0, []
        for bucket, counted in buckets:
            cumulative += counted.get(labels, 0)
            rows.append((bucket, cumulative))
        family.add_metric(labels, rows, sum_value=total)
    return family


def _gauges(health: Health) -> Iterator[Metric]:
    ledger = health.ledger
    for metric, value in (
        (names.WORKERS_READY, health.workers_ready),
        (names.OPEN_CALLS, health.open_calls),
        (names.STORE_CONNECTED, health.store_connected),
        (names.STORE_UP, health.store_up),
        (names.JOURNAL_ENTRIES, health.journal_entries),
        (names.JOURNAL_BYTES, health.journal_bytes),
        (names.OTHER_RULES, len(health.gateways_with_other_rules)),
        (names.ENFORCEMENT_OFF, health.enforcement_switched_off),
        (names.CONFIG_FROM_FILE, health.config_source == "file"),
        (names.LEDGER_WRITING, ledger.writing),
        (names.LEDGER_BYTES, ledger.size_bytes),
        (names.LEDGER_WAITING, ledger.waiting),
        (names.LEDGER_LAG, ledger.lag_ms),
        (names.LEDGER_LOST, ledger.lost),
    ):
        yield GaugeMetricFamily(metric.name, metric.help, value=float(value))
    alert = names.STATISTICS_ALERT
    family = GaugeMetricFamily(alert.name, alert.help, labels=alert.labels)
    for trigger, alarms in ledger.alarming.items():
        family.add_metric([trigger], float(alarms))
    yield family
    build = names.BUILD_INFO
    family = GaugeMetricFamily(build.name, build.help, labels=build.labels)
    family.add_metric([health.version], 1)
    yield family
