"""`tollgate backtest` over a ledger that a store has written."""

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import update

from gateway.backtest_cli import backtest
from gateway.core.budget import TaskBudgetOverrides, TaskProfile, task_limits
from gateway.core.call_facts import CallAbout, CallOutcome
from gateway.core.decision import effects_of
from gateway.core.policy import Mode, StopLossPolicy
from gateway.ledger.database import open_engine
from gateway.ledger.schema import TASKS
from gateway.store.address import parse_store_url
from gateway.store.connection import StoreConnection
from gateway.store.redis_store import RedisStore
from tests.ledger.desk import Desk
from tests.store.agent import Agent, budgets, settlement

REPOSITORY = Path(__file__).parents[1]
BUDGETS = (REPOSITORY / "config/phase_budgets.yaml").read_text()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, valkey: str, tenant: str) -> Path:
    """A folder of a gateway whose ledger has five calls of 8,000 tokens, all let through."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOLLGATE_TENANT", tenant)
    (tmp_path / "state").mkdir()
    asyncio.run(_work(valkey, tenant, tmp_path / "state/ledger.db"))
    return tmp_path


async def _work(valkey: str, tenant: str, ledger: Path) -> None:
    connection = StoreConnection(parse_store_url(valkey))
    await connection.open()
    agent = Agent(RedisStore(connection), tenant)
    agent.effects = effects_of(StopLossPolicy(), Mode.OBSERVE)
    about = CallAbout(model="gpt-5", path="/v1/chat/completions")
    outcome = CallOutcome(decision="allow", source="provider", priced=True)
    for number in range(5):
        agent.at(1_795_000_000_000 + number * 60_000)
        plan, _ = await agent.reserve("VERIFY", about=about)
        await agent.store.settle(settlement(plan, 8_000, 2_000_000_000, outcome=outcome))
    await Desk(tenant, connection, f"sqlite:///{ledger}").written()
    await connection.close()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(backtest, arguments)


def document(*arguments: str) -> dict[str, Any]:
    result = run("--json", *arguments)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_policies_in_use_and_their_mode(folder: Path) -> None:
    """The built-in policy observes; in enforce mode the task's last call is refused."""
    observed = document()
    assert (observed["calls"], observed["tasks"], observed["tasks_refused"]) == (5, 1, 0)
    assert observed["would_refuse"] == {
        "stop-loss": {"calls": 1, "tokens": 8_000, "nano_usd": 2_000_000_000}
    }
    enforced = document("--mode", "enforce")
    assert enforced["decisions"]["refuse"]["calls"] == 1
    assert list(enforced["refused_by"]["code"]) == ["task_budget_exceeded"]
    assert list(enforced["refused_by"]["tier"]) == ["Medium medium"]
    assert (enforced["tasks_refused"], enforced["tasks_refused_percent"]) == (1, 100.0)
    assert (observed["alert"], enforced["alert"]) == (False, True)
    parts = [enforced[f"{decision}_by"]["tier"] for decision in ("allowed", "flagged", "refused")]
    assert sum(one["calls"] for part in parts for one in part.values()) == 5
    assert observed["flagged_by"]["phase"]["VERIFY"]["calls"] >= 1
    assert {"then": "allow", "now": "refuse", "calls": 1} in enforced["then_now"]
    [stop] = enforced["first_refusals"]
    assert (stop["task"], stop["phase"], stop["tokens"]) == ("T", "VERIFY", 32_000)
    assert enforced["from"].startswith("2026-11-18")


def test_a_folder_a_budget_file_and_a_period(folder: Path) -> None:
    """Half of the budgets stop the task after two calls; a later period knows nothing of them."""
    (folder / "half.yaml").write_text(BUDGETS.replace("Medium: 1.0", "Medium: 0.5"))
    week3 = str(REPOSITORY / "policies/rollout/week3")
    assert document("--policies", week3)["decisions"]["refuse"]["calls"] == 1
    half = document("--policies", week3, "--budgets", "half.yaml")
    assert half["decisions"]["refuse"]["calls"] == 3
    since = "2026-11-18T00:00"
    assert document("--since", since, "--until", "2026-11-18T00:01")["calls"] <= 1


def test_GW17_a_tasks_own_limits_hold_under_other_budgets(folder: Path) -> None:
    """A task that was registered with twice the limits has twice what the tried budgets say."""
    overrides = TaskBudgetOverrides(budget_multiplier=Decimal(2))
    limits = task_limits(budgets(), TaskProfile(overrides=overrides))
    with open_engine(f"sqlite:///{folder / 'state/ledger.db'}").connect() as connection:
        connection.execute(update(TASKS).values(snapshot=msgspec.json.encode(limits).decode()))
        connection.commit()
    (folder / "half.yaml").write_text(BUDGETS.replace("Medium: 1.0", "Medium: 0.5"))
    assert document("--mode", "enforce", "--budgets", "half.yaml")["refused_by"]["tier"] == {
        "Medium medium": {"calls": 1, "tokens": 8_000, "nano_usd": 2_000_000_000}
    }


def test_a_table_for_people(folder: Path) -> None:
    text = run("--mode", "enforce").output
    assert "5 calls of 1 tasks" in text
    assert "then allow  now refuse" in text
    assert "warning: these are more than 10 % of the tasks" in text
    assert "1 of 1 tasks are refused something (100.0 %)" in text
    assert "task_budget_exceeded  after 32,000 tokens" in text


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (("--budgets", "none.yaml"), 2, "none.yaml: cannot be read"),
        (("--policies", "none"), 2, "'--policies': Directory 'none' does not exist"),
        (("--policies", "bad"), 2, "bad/a.yaml:1: kind: "),
        (("--since", "yesterday"), 2, "is no ISO 8601 time"),
    ],
)
def test_a_fault_is_told(folder: Path, arguments: tuple[str, ...], code: int, problem: str) -> None:
    (folder / "bad").mkdir()
    (folder / "bad/a.yaml").write_text("kind: nonsense\n")
    result = run(*arguments)
    assert (result.exit_code, problem in result.output) == (code, True), result.output


def test_the_rules_in_use_must_be_good_ones(folder: Path) -> None:
    """Rules in the place of a faulty file would answer another question than the one asked."""
    (folder / "policies").mkdir()
    (folder / "policies/a.yaml").write_text("kind: nonsense\n")
    result = run()
    assert (result.exit_code, "policies/a.yaml:1: kind: " in result.stderr) == (2, True)
    week3 = str(REPOSITORY / "policies/rollout/week3")
    assert document("--policies", week3)["tasks_refused"] == 1


def test_a_folder_without_policies_is_told(folder: Path) -> None:
    """A rollout's parent was named: that the built-in policy answers must not go unseen."""
    (folder / "rollout/week1").mkdir(parents=True)
    result = run("--json", "--policies", "rollout")
    assert json.loads(result.stdout)["tasks_refused"] == 0
    assert "warning: rollout: has no stop_loss, the built-in policy observes." in result.stderr


def test_without_a_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run()
    assert (result.exit_code, "there is no ledger at" in result.output) == (1, True)
