"""`tollgate calibrate`: bases from a real ledger, as a file that a gateway can use."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import insert

from gateway.cli import tollgate
from gateway.core.budget import TaskProfile, task_limits
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.ledger.database import migrate, open_engine
from gateway.ledger.schema import CALLS, TASKS
from gateway.rule_files.budgets import DEFAULT_PHASE_BUDGETS, load_phase_budget_config

_TIERS = (Complexity.LARGE, ImportanceTier.HIGH)
_FACTOR = 3.375  # Large 1.5 x high 1.5 x THINK 1.5


@pytest.fixture(autouse=True)
def _ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Four executions of THINK of Large/high tasks, which need bases of 1,000 ... 4,000."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOLLGATE_STATE_DIR", str(tmp_path / "state"))
    snapshot = msgspec.json.encode(task_limits(DEFAULT_PHASE_BUDGETS, TaskProfile(*_TIERS)))
    with open_engine(f"sqlite:///{tmp_path / 'state' / 'ledger.db'}").connect() as connection:
        migrate(connection)
        for place in range(1, 5):
            whose = {"tenant": "default", "task": f"T{place}"}
            task = {"created_ms": 1, "facts": "", "snapshot": snapshot.decode()}
            connection.execute(insert(TASKS), [whose | task])
            used = int(place * 1_000 * _FACTOR)
            call = {"call_id": f"c{place}", "state": "settled", "number": place, "phase": "THINK",
                    "execution": 1, "started_ms": 1, "at_ms": place, "tokens": used,
                    "task_latency_ms": 0, "phase_latency_ms": 2 * used}  # fmt: skip
            connection.execute(insert(CALLS), [whose | call])
        connection.commit()
    yield


def run(*arguments: str) -> Result:
    return CliRunner().invoke(tollgate, ["calibrate", *arguments])


def test_PM1_a_base_is_the_p75_of_what_was_needed() -> None:
    """Divided by the task's factors; phases without enough executions keep theirs."""
    result = run("--least", "4", "--out", "proposed.yaml")
    assert result.exit_code == 0, result.output
    config = load_phase_budget_config(Path("proposed.yaml"))
    bases = config.base_budgets
    assert (bases[WorkPhase.THINK].tokens, bases[WorkPhase.THINK].latency_ms) == (3_000, 6_000)
    assert bases[WorkPhase.PLAN] == DEFAULT_PHASE_BUDGETS.base_budgets[WorkPhase.PLAN]
    assert config.stop_loss == DEFAULT_PHASE_BUDGETS.stop_loss
    assert config.phase_weights == DEFAULT_PHASE_BUDGETS.phase_weights
    assert config.token_weights == DEFAULT_PHASE_BUDGETS.token_weights


def test_PM1_another_percentile_and_period_to_the_terminal() -> None:
    result = run("--least", "2", "--percentile", "99", "--until", "1970-01-01T00:00:00.003")
    assert "THINK: {tokens: 2000, latency_ms: 4000}" in result.stdout
    assert "# 2 executions, tokens/ms: p50 1000/2000" in result.stdout
    assert "# 0 executions are too few: unchanged" in result.stdout


def test_PM1_too_few_executions_are_told() -> None:
    result = run()
    assert result.exit_code == 3
    assert "no phase has 20, the most is 4" in result.output
    assert "Remedy" in result.output


def test_PM1_nothing_is_overwritten() -> None:
    Path("phase_budgets.yaml").write_text("mine")
    result = run("--least", "1", "--out", "phase_budgets.yaml")
    assert result.exit_code == 1
    assert Path("phase_budgets.yaml").read_text() == "mine"


def test_a_folder_that_is_not_there() -> None:
    result = run("--least", "1", "--out", "nowhere/measured.yaml")
    assert result.exit_code == 1
    assert "nowhere/measured.yaml cannot be written (No such file or directory). Remedy" in (
        result.output
    )


def test_PM1_no_ledger_no_proposal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_STATE_DIR", "nowhere")
    result = run()
    assert result.exit_code == 1
    assert "there is no ledger" in result.output
