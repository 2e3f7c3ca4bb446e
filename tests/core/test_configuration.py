"""What a worker runs on: values that cannot change under a call, with the documented defaults."""

import dataclasses
import pickle
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from gateway.core.budget import PhaseBudgetConfig
from gateway.core.configuration import DataPlane, Rules, UpstreamSettings
from gateway.core.policy import PolicySet
from gateway.core.prices import PriceTable

NOTHING: Mapping[object, object] = {}
BUDGETS = PhaseBudgetConfig({}, {}, {}, {})


def test_an_upstream_needs_only_its_address() -> None:
    """It is asked for usage, told no tags, and checked against the system's certificates."""
    upstream = UpstreamSettings("https://api.openai.com")
    assert (upstream.provider, upstream.include_usage, upstream.forward_tags) == ("", True, False)
    assert upstream.ca_file == ""
    assert upstream.read_timeout_ms >= 600_000  # SDKs wait as long


def test_a_data_plane_needs_only_a_store() -> None:
    """Defaults: tenant `default`, refusals with 400, leases three heartbeats long."""
    plane = DataPlane("unix:///run/valkey.sock")
    assert (plane.tenant, plane.refusal_status, plane.upstreams) == ("default", 400, NOTHING)
    assert plane.lease_ms == 3 * plane.heartbeat_ms == 30_000
    assert not plane.enforcement_disabled


def test_two_data_planes_share_nothing() -> None:
    """The default upstreams are not one mapping for all."""
    assert DataPlane("a").upstreams is not DataPlane("a").upstreams


@pytest.mark.parametrize(
    "value",
    [
        UpstreamSettings("https://a.example"),
        DataPlane("unix:///a", upstreams={"openai": UpstreamSettings("https://a.example")}),
        Rules(BUDGETS, PolicySet(), PriceTable()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_are_frozen_and_travel(value: Any) -> None:
    """Nothing is edited in place, and a supervisor can send them to a worker."""
    with pytest.raises(FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, None)
    assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301


def test_rules_say_where_the_budgets_come_from() -> None:
    """Defaults that took over unnoticed would be a silent change of every limit."""
    assert Rules(BUDGETS, PolicySet(), PriceTable()).budgets_source == "defaults"
