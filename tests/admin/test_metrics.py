"""`/metrics`, read back by Prometheus' own parsers."""

from collections.abc import Iterable
from typing import Any

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from gateway.admin.parts import LedgerHealth
from gateway.telemetry import names
from gateway.telemetry.counters import Counters
from tests.admin.plane import StartPlane

_ALERT = names.STATISTICS_ALERT.name
CALLS_LABELS = ("allow", "", "openai_chat", "openai", "2xx", "PLAN")


def families(found: Iterable[Metric]) -> dict[str, Metric]:
    return {family.name: family for family in found}


def samples(family: Metric) -> dict[tuple[str, Any], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for sample in family.samples
    }


async def test_every_metric_is_there_from_the_start(plane: StartPlane) -> None:
    """So that alerts on them can be written before anything happened."""
    answer = await (await plane()).get("/metrics", token=None)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    found = families(text_string_to_metric_families(answer.text))
    for metric in names.COUNTERS:
        family = found[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == ("counter", metric.help)
        assert [sample.value for sample in family.samples] == ([] if metric.labels else [0])
    assert found[names.CALL_MS.name].type == "histogram"
    for gauge in names.GAUGES:
        family = found[gauge.name]
        assert (family.type, family.documentation) == ("gauge", gauge.help)
        known = [] if gauge is names.STATISTICS_ALERT else [gauge.labels]
        assert [tuple(sample.labels) for sample in family.samples] == known


async def test_counters_have_their_labels_in_order(plane: StartPlane) -> None:
    admin = await plane()
    admin.counters.add(names.CALLS, CALLS_LABELS, 7)
    admin.counters.add(names.UNPRICED, amount=2)
    admin.counters.add(names.EVENTS, ('odd "name"\n', "info"))
    found = families(text_string_to_metric_families((await admin.get("/metrics")).text))
    (calls,) = found["tollgate_calls"].samples
    assert (calls.name, calls.value) == ("tollgate_calls_total", 7)
    assert calls.labels == dict(zip(names.CALLS.labels, CALLS_LABELS, strict=True))
    assert found["tollgate_unpriced_calls"].samples[0].value == 2
    assert found["tollgate_events"].samples[0].labels["name"] == 'odd "name"\n'


async def test_statistics_that_alarm(plane: StartPlane) -> None:
    """As the writer's process has found; a figure of which nothing is known is missing."""
    health = LedgerHealth(alarming={"stop_loss": True, "stuck_tasks": False})
    answer = await (await plane(ledger=health)).get("/metrics")
    alerts = samples(families(text_string_to_metric_families(answer.text))[_ALERT])
    assert alerts == {
        (_ALERT, (("trigger", "stop_loss"),)): 1,
        (_ALERT, (("trigger", "stuck_tasks"),)): 0,
    }


async def test_the_histogram_is_cumulative(plane: StartPlane) -> None:
    """Counted by bucket, told summed up; also when it came from workers in parts."""
    admin = await plane()
    worker = Counters()
    for value_ms in (3, 5, 7, 100, 400_000):
        worker.observe_ms(names.CALL_MS, ("openai_chat",), value_ms)
    admin.counters.merge(worker.take())
    admin.counters.observe_ms(names.CALL_MS, ("unmetered",), 60_001)
    found = families(text_string_to_metric_families((await admin.get("/metrics")).text))
    by_bucket = {
        (sample.labels["dialect"], sample.labels.get("le", sample.name.rpartition("_")[2])): (
            sample.value
        )
        for sample in found[names.CALL_MS.name].samples
    }
    assert by_bucket["openai_chat", "5"] == 2
    assert by_bucket["openai_chat", "10"] == 3
    assert by_bucket["openai_chat", "50"] == 3
    assert by_bucket["openai_chat", "100"] == 4
    assert by_bucket["openai_chat", "300000"] == 4
    assert by_bucket["openai_chat", "+Inf"] == by_bucket["openai_chat", "count"] == 5
    assert by_bucket["openai_chat", "sum"] == 400_115
    assert by_bucket["unmetered", "60000"] == 0
    assert by_bucket["unmetered", "300000"] == by_bucket["unmetered", "+Inf"] == 1
    assert len([dialect for dialect, _ in by_bucket if dialect == "unmetered"]) == 17


async def test_gauges_tell_the_health(plane: StartPlane) -> None:
    answer = await (await plane()).get("/metrics")
    found = families(text_string_to_metric_families(answer.text))
    values = {name: family.samples[0].value for name, family in found.items() if family.samples}
    assert values["tollgate_workers_ready"] == 2
    assert values["tollgate_open_calls"] == 3
    assert values["tollgate_store_connected"] == 1
    assert values["tollgate_config_from_file"] == 1
    assert samples(found["tollgate_build_info"]) == {
        ("tollgate_build_info", (("version", "9.8.7"),)): 1
    }


async def test_gauges_tell_trouble(plane: StartPlane) -> None:
    admin = await plane(store_connected=False, config_source="defaults")
    text = (await admin.get("/metrics")).text
    assert "tollgate_store_connected 0.0" in text
    assert "tollgate_config_from_file 0.0" in text
    assert "tollgate_store_up 0.0" in text


async def test_gauges_tell_what_workers_see(plane: StartPlane) -> None:
    """The supervisor may well be connected to a store that answers none of them."""
    changes = {"workers_without_store": 1, "journal_entries": 3, "journal_bytes": 2_100}
    text = (await (await plane(**changes)).get("/metrics")).text
    assert "tollgate_store_connected 1.0" in text
    assert "tollgate_store_up 0.0" in text
    assert "tollgate_journal_entries 3.0" in text
    assert "tollgate_journal_bytes 2100.0" in text


async def test_a_scraper_may_ask_for_openmetrics(plane: StartPlane) -> None:
    admin = await plane()
    admin.counters.add(names.CALLS, CALLS_LABELS)
    admin.counters.observe_ms(names.CALL_MS, ("openai_chat",), 12.5)
    accept = "application/openmetrics-text; version=1.0.0"
    answer = await admin.get("/metrics", headers={"Accept": accept})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert "tollgate_calls" in families(openmetrics(answer.text))
