"""What an agent is told of its own task."""

import json

import pytest

from gateway.core.budget import Dimension, TaskProfile, task_limits
from gateway.core.identity import identify
from gateway.core.own_budget import (
    Figures,
    OwnBudget,
    asks_own_budget,
    budget_json,
    unused_budget,
)
from gateway.core.phases import WorkPhase
from tests.core.test_budget import CONFIG

UNLIMITED = dict.fromkeys(Dimension, Figures(None, None, 7))


@pytest.mark.parametrize(
    ("method", "target", "is_own"),
    [
        (b"GET", b"/v1/budget", True),
        (b"GET", b"/t/T/PLAN/v1/budget?x=1", True),
        (b"POST", b"/v1/budget", False),
        (b"GET", b"/u/openai/v1/budget", False),
        (b"GET", b"/v1/budgets", False),
    ],
)
def test_what_is_asked_of_the_gateway_itself(method: bytes, target: bytes, is_own: bool) -> None:
    assert asks_own_budget(method, identify(target, [])[1]) is is_own


def test_a_call_without_a_task_has_no_budget() -> None:
    told = json.loads(budget_json(None, WorkPhase.PLAN, ()))
    assert told == {"task": None, "phase": None, "spend_limits": []}


def test_a_task_before_its_first_call_has_all_of_it() -> None:
    own = unused_budget("T", task_limits(CONFIG, TaskProfile()))
    told = json.loads(budget_json(own, None, ()))
    assert (told["task"]["id"], told["task"]["state"], told["phase"]) == ("T", "new", None)
    assert told["task"]["budgets"]["tokens"] == {
        **{"limit": 23_400, "used": 0, "reserved": 0, "remaining": 23_400},
        **{"status": "within", "pressure": 0},
    }
    assert told["task"]["budgets"]["cost_usd"] == {
        **{"limit": None, "used": "0", "reserved": "0", "remaining": None},
        **{"status": None, "pressure": None},
    }
    assert json.loads(budget_json(own, WorkPhase.THINK, ()))["phase"]["name"] == "THINK"


def test_figures_are_those_of_the_headers() -> None:
    """Of a call's own phase, else of the task's current one; money is exact."""
    spent = {
        **UNLIMITED,
        Dimension.TOKENS: Figures(100, 120, 110, 5),
        Dimension.NANO_USD: Figures(2_500_000_000, 3_000_000_000, 1_000_000_001),
    }
    phases = {phase: UNLIMITED for phase in WorkPhase} | {WorkPhase.PLAN: spent}
    own = OwnBudget("T", "open", "tripped", "runaway_task", WorkPhase.PLAN, UNLIMITED, phases)
    told = json.loads(budget_json(own, None, ()))
    assert (told["task"]["stop_loss"], told["task"]["code"]) == ("tripped", "runaway_task")
    assert told["phase"]["name"] == "PLAN"
    assert told["phase"]["budgets"]["tokens"] == {
        **{"limit": 100, "used": 110, "reserved": 5, "remaining": 0},
        **{"status": "warning", "pressure": 110},
    }
    money = told["phase"]["budgets"]["cost_usd"]
    assert (money["limit"], money["used"], money["remaining"]) == (
        *("2.5", "1.000000001", "1.499999999"),
    )
    other = json.loads(budget_json(own, WorkPhase.PR, ()))["phase"]
    assert (other["name"], other["budgets"]["calls"]["used"]) == ("PR", 7)
