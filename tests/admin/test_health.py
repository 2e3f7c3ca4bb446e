"""`/healthz` and `/readyz`."""

from typing import Any

import pytest

from tests.admin.plane import StartPlane


async def test_alive_whatever_else_is_wrong(plane: StartPlane) -> None:
    """A process that is restarted for its store's sake only makes things worse."""
    admin = await plane(workers_ready=0, store_connected=False, draining=True)
    answer = await admin.get("/healthz", token=None)
    assert (answer.status, answer.json) == (200, {"status": "ok"})
    assert answer.headers["Cache-Control"] == "no-store"


async def test_ready(plane: StartPlane) -> None:
    """All that is known of the gateway's health is told."""
    answer = await (await plane()).get("/readyz", token=None)
    assert answer.status == 200
    assert answer.json == {
        "status": "ready",
        "reasons": [],
        "workers_ready": 2,
        "workers_wanted": 2,
        "store_connected": True,
        "store_up": True,
        "workers_without_store": 0,
        "journal_entries": 0,
        "gateways_with_other_rules": [],
        "enforcement_switched_off": False,
        "config_source": "file",
        "config_hash": "c0ffee",
        "policy_hash": "decade",
        "draining": False,
        "open_calls": 3,
        "uptime_s": 12.346,
        "version": "9.8.7",
    }


async def test_one_worker_of_two_is_enough(plane: StartPlane) -> None:
    """It is visible all the same."""
    answer = await (await plane(workers_ready=1, config_source="defaults")).get("/readyz")
    assert answer.status == 200
    assert answer.json["workers_ready"] == 1
    assert answer.json["config_source"] == "defaults"


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"draining": True}, ["the gateway is draining"]),
        ({"workers_ready": 0}, ["no worker is ready (0 of 2)"]),
        (
            {"store_connected": False, "refuses_without_store": True},
            ["store: not connected"],
        ),
        (
            {"workers_without_store": 1, "refuses_without_store": True},
            ["store: no answers to 1 of 2 workers"],
        ),
        (
            {"workers_ready": 0, "workers_wanted": 4, "store_connected": False},
            ["no worker is ready (0 of 4)", "store: not connected"],
        ),
    ],
)
async def test_not_ready(plane: StartPlane, changes: dict[str, Any], reasons: list[str]) -> None:
    """Every reason is named."""
    answer = await (await plane(**changes)).get("/readyz")
    assert answer.status == 503
    assert answer.json["status"] == "not_ready"
    assert answer.json["reasons"] == reasons


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"store_connected": False}, "store: not connected"),
        ({"workers_without_store": 2, "journal_entries": 7}, "store: no answers to 2 of 2 workers"),
    ],
)
async def test_store_trouble_alone_sends_nobody_away(
    plane: StartPlane, changes: dict[str, Any], reason: str
) -> None:
    """Calls are served all the same; that it is not as it should be is said."""
    answer = await (await plane(**changes)).get("/readyz")
    assert answer.status == 200
    assert (answer.json["status"], answer.json["reasons"]) == ("degraded", [reason])
    assert answer.json["store_up"] is False
    assert answer.json["journal_entries"] == changes.get("journal_entries", 0)


async def test_without_its_translator_it_is_degraded(plane: StartPlane) -> None:
    """Other calls are served; policies on a failing store have nothing to do with it."""
    admin = await plane(lacks_translator=True, refuses_without_store=True)
    answer = await admin.get("/readyz")
    assert answer.status == 200
    assert answer.json["status"] == "degraded"
    assert answer.json["reasons"] == [
        "translator: not running; calls to translated upstreams are answered 502"
    ]


async def test_with_other_rules_than_its_neighbours_it_is_degraded(plane: StartPlane) -> None:
    """They would decide the same call differently; who it is is said."""
    answer = await (await plane(gateways_with_other_rules=("b:8081",))).get("/readyz")
    assert answer.status == 200
    assert answer.json["gateways_with_other_rules"] == ["b:8081"]
    assert answer.json["reasons"] == [
        "rules: b:8081 of the same store has other policies or budgets"
    ]
