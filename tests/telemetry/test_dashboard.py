"""The dashboard and the alert rules name what the gateway has."""

import json
import re
from pathlib import Path

import yaml

from gateway.telemetry import names

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs/observability"


def alerts() -> dict[str, str]:
    """Return the expression of each alert, by name."""
    document = yaml.safe_load((PAGES / "alerts.yaml").read_text())
    return {rule["alert"]: rule["expr"] for group in document["groups"] for rule in group["rules"]}


def expressions() -> list[str]:
    panels = json.loads((PAGES / "budget_dashboard.json").read_text())["panels"]
    drawn = [target["expr"] for panel in panels for target in panel["targets"]]
    return [*drawn, *alerts().values()]


def test_MET4_every_metric_that_is_named_exists() -> None:
    """With each label that an expression selects by or sums by."""
    labels = {metric.name: set(metric.labels) for metric in (*names.COUNTERS, *names.GAUGES)}
    for metric in names.HISTOGRAMS:
        for end in ("bucket", "sum", "count"):
            labels[f"{metric.name}_{end}"] = {*metric.labels, "le"}
    assert len(expressions()) > 15
    for expression in expressions():
        named = re.findall(r"(?:tollgate|autopilot)_\w+", expression)
        assert named, expression
        assert set(named) <= labels.keys(), expression
        summed = re.findall(r"by \(([^)]*)\)", expression)
        used = {label.strip() for group in summed for label in group.split(",")}
        used |= set(re.findall(r"(\w+)=~?\"", expression))
        assert used <= labels[named[0]], expression


def test_MET4_every_event_that_is_named_exists() -> None:
    source = "".join(file.read_text() for file in (ROOT / "gateway").rglob("*.py"))
    events = {name for text in expressions() for name in re.findall(r'{name="(\w+)"', text)}
    assert len(events) >= 4
    assert [name for name in sorted(events) if f'"{name}"' not in source] == []


def test_MET4_what_must_alert_does() -> None:
    """Above 80 %, a stop, a store that is lost; and the page explains every alert."""
    found = alerts()
    assert 'percent=~"80|90|100"' in found["TollgateBudgetAbove80Percent"]
    assert "stop_loss_tripped" in found["TollgateStopLossTriggered"]
    assert "store_lost_data" in found["TollgateStoreLostData"]
    page = (ROOT / "docs/observability.md").read_text()
    assert [name for name in found if f"| `{name}` |" not in page] == []
