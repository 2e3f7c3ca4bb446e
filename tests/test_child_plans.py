"""What children are told of the settings."""

from pathlib import Path
from typing import Any

import pytest

from gateway.child_plans import ledger_plan, translator_plan
from gateway.control import FarSide
from gateway.core.configuration import Rules
from gateway.core.disconnect import Disconnect
from gateway.core.policy import PolicySet
from gateway.core.prices import PriceTable
from gateway.core.webhook import WebhookPolicy
from gateway.settings import data_plane, load_settings
from tests.store.agent import budgets

TRANSLATED: dict[str, Any] = {
    "bedrock": {
        "base_url": "http://far",
        "translate": "bedrock",
        "read_timeout_ms": 2_000,
        "proxy": "none",
    }
}


def test_without_translated_upstreams_there_is_no_translator() -> None:
    assert translator_plan(load_settings(None, {})) is None


def test_the_translator_is_told_of_translated_upstreams_only(tmp_path: Path) -> None:
    settings = load_settings(None, {"upstreams": TRANSLATED, "state_dir": str(tmp_path)})
    plan = translator_plan(settings)
    assert plan is not None
    assert plan.far_sides == {"bedrock": FarSide("bedrock", "http://far", 2.0)}
    assert plan.max_head_bytes == settings.limits.max_head_bytes


def test_workers_go_to_the_translator_and_price_by_the_far_side(tmp_path: Path) -> None:
    """What becomes of a stream whose client left is the far side's matter too."""
    settings = load_settings(None, {"upstreams": TRANSLATED, "state_dir": str(tmp_path)})
    plan = translator_plan(settings)
    upstreams = data_plane(settings, "redis://localhost").upstreams
    translated = upstreams["bedrock"]
    assert plan is not None
    assert translated.translator_socket == plan.socket_path
    assert translated.provider == "bedrock"
    assert translated.disconnect is Disconnect.DRAIN
    assert translated.dialects == ("openai", "anthropic")
    assert upstreams["openai"].translator_socket == ""


def test_the_ledgers_writer(tmp_path: Path) -> None:
    settings = load_settings(None, {"state_dir": str(tmp_path)})
    hook = WebhookPolicy(url="https://hooks.test/", secret_env="SECRET")
    rules = Rules(budgets(), PolicySet(webhook=(hook,)), PriceTable({}))
    plan = ledger_plan(settings, data_plane(settings, "redis://localhost"), rules)
    assert (plan.webhooks, plan.roadmap_file) == ((hook,), "")
    assert plan.evidence_dir == str(tmp_path / "evidence")
    assert plan.reports
    assert plan.store_url == "redis://localhost"
    assert plan.ledger_url.endswith("/ledger.db")


@pytest.mark.parametrize(
    ("sections", "written"),
    [
        ({}, True),
        ({"reports": {"enabled": False}}, False),
        ({"tracking": {"enabled": False}}, False),
    ],
)
def test_RBK2_reports_need_tracking(sections: dict[str, Any], written: bool) -> None:
    reports = {"dir": "elsewhere", **sections.pop("reports", {})}
    settings = load_settings(None, {**sections, "reports": reports})
    rules = Rules(budgets(), PolicySet(), PriceTable({}))
    plan = ledger_plan(settings, data_plane(settings, "redis://localhost"), rules)
    assert (plan.reports, plan.evidence_dir) == (written, "elsewhere")


def test_what_is_told_of_phases(tmp_path: Path) -> None:
    """Headers are taken apart; without tracking there is nothing to tell."""
    said = {
        "otlp_endpoint": "http://collector:4318/",
        "otlp_headers": "authorization=Bearer a=b, x-scope=team",
        "interval_s": 3,
        "running_cost_usd": 12.5,
    }
    rules = Rules(budgets(), PolicySet(), PriceTable({}))
    settings = load_settings(None, {"state_dir": str(tmp_path), "telemetry": said})
    told = ledger_plan(settings, data_plane(settings, "redis://localhost"), rules).telemetry
    assert told.otlp_endpoint == "http://collector:4318"
    assert told.otlp_headers == {"authorization": "Bearer a=b", "x-scope": "team"}
    assert (told.tells, told.interval_s, told.phase_idle_close_ms) == (True, 3, 60_000)
    assert (told.statistics_s, told.monthly_nano_usd) == (900, 12_500_000_000)
    proxy = load_settings(None, {"state_dir": str(tmp_path), "tracking": {"enabled": False}})
    assert not ledger_plan(proxy, data_plane(proxy, "redis://localhost"), rules).telemetry.tells
