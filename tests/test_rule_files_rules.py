"""Start and reload: rules that can be run on, whatever the files say."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.core.policy import Mode
from gateway.findings import errors_among
from gateway.rule_files import DEFAULT_PHASE_BUDGETS, default_policies, load_rules
from gateway.settings import Settings

SHIPPED = Path(__file__).parents[1]
BUDGETS = (SHIPPED / "config/phase_budgets.yaml").read_text()
POLICY = "kind: stop_loss\nname: mine\nmode: enforce\n"
PRICES = "models: {mine: {input_usd_per_million: 1, output_usd_per_million: 1}}\n"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "policies").mkdir()
    (tmp_path / "budgets.yaml").write_text(BUDGETS.replace("tokens: 3000", "tokens: 3001"))
    (tmp_path / "policies/mine.yaml").write_text(POLICY)
    (tmp_path / "prices.yaml").write_text(PRICES)
    return Settings(
        budgets={"file": tmp_path / "budgets.yaml"},  # type: ignore[arg-type]
        policies={"dir": tmp_path / "policies"},  # type: ignore[arg-type]
        prices={"file": tmp_path / "prices.yaml"},  # type: ignore[arg-type]
    )


def test_good_files_give_their_rules(settings: Settings) -> None:
    rules, findings = load_rules(settings)
    assert findings == []
    assert rules.budgets_source == "file"
    assert rules.budgets != DEFAULT_PHASE_BUDGETS
    assert [policy.name for policy in rules.policies.stop_loss] == ["mine"]
    assert set(rules.prices.overrides) == {"mine"}


def test_each_bad_file_is_replaced_by_its_default_with_an_error(settings: Settings) -> None:
    """CFG-6, G-10: the gateway can start; the findings say that it should not have to."""
    for file in (settings.budgets.file, settings.policies.dir / "mine.yaml", settings.prices.file):
        file.write_text("wrong: true\n")
    rules, findings = load_rules(settings)
    assert rules.budgets is DEFAULT_PHASE_BUDGETS
    assert rules.budgets_source == "defaults"
    assert rules.policies == default_policies()
    assert rules.prices.overrides == {}
    assert rules.prices.find("gpt-4o", "openai") is not None
    assert {Path(finding.file).name for finding in errors_among(findings)} == {
        "budgets.yaml",
        "mine.yaml",
        "prices.yaml",
    }


def test_missing_files_are_only_warned_of_at_start(tmp_path: Path) -> None:
    nothing = Settings(
        budgets={"file": tmp_path / "b.yaml"},  # type: ignore[arg-type]
        policies={"dir": tmp_path / "p"},  # type: ignore[arg-type]
        prices={"file": tmp_path / "x.yaml"},  # type: ignore[arg-type]
    )
    rules, findings = load_rules(nothing)
    assert rules.budgets is DEFAULT_PHASE_BUDGETS
    assert errors_among(findings) == []
    assert [Path(finding.file).name for finding in findings] == ["b.yaml", "p"]


def test_the_mode_of_the_settings_holds_for_the_built_in_policy_too(settings: Settings) -> None:
    (settings.policies.dir / "mine.yaml").write_text("broken: [")
    enforcing = settings.policies.model_copy(update={"mode": Mode.ENFORCE})
    rules, _ = load_rules(settings.model_copy(update={"policies": enforcing}))
    assert rules.policies.stop_loss[0].mode is Mode.ENFORCE


def test_events_of_the_budgets_file_reach_the_reporter(settings: Settings) -> None:
    settings.budgets.file.write_text("")
    seen = []
    load_rules(settings, lambda name, level="info", **fields: seen.append((name, level)))
    assert seen == [("budgets_file_invalid", "error")]


def test_a_reload_finds_an_error_in_each_file_that_has_gone(settings: Settings) -> None:
    """CFG-6: a file that is just being replaced must not bring the defaults back."""
    running, _ = load_rules(settings)
    assert load_rules(settings, running=running) == (running, [])
    settings.budgets.file.unlink()
    (settings.policies.dir / "mine.yaml").unlink()
    settings.prices.file.unlink()
    _, findings = load_rules(settings, running=running)
    assert [Path(finding.file).name for finding in errors_among(findings)] == [
        "budgets.yaml",
        "policies",
        "prices.yaml",
    ]


def test_a_reload_may_go_on_without_files_that_never_were(tmp_path: Path) -> None:
    nothing = Settings(
        budgets={"file": tmp_path / "b.yaml"},  # type: ignore[arg-type]
        policies={"dir": tmp_path / "p"},  # type: ignore[arg-type]
        prices={"file": tmp_path / "x.yaml"},  # type: ignore[arg-type]
    )
    running, _ = load_rules(nothing)
    assert errors_among(load_rules(nothing, running=running)[1]) == []


def _use_built_in(settings: Settings) -> None:
    (settings.policies.dir / "mine.yaml").write_text(
        "kind: stop_loss\nname: stop-loss\nmode: observe\n"
    )


def _drop_overrides(settings: Settings) -> None:
    settings.prices.file.write_text("models: {}\n")


@pytest.mark.parametrize("change", [_use_built_in, _drop_overrides])
def test_a_reload_may_say_what_the_defaults_say(
    change: Callable[[Settings], None], settings: Settings
) -> None:
    running, _ = load_rules(settings)
    change(settings)
    rules, findings = load_rules(settings, running=running)
    assert findings == []
    assert rules != running
