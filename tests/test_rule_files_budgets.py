"""`phase_budgets.yaml`: read exactly, refused whole, defaults loudly."""

import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gateway.core.budget import BaseBudget, StopLoss, TokenWeights
from gateway.core.errors import InvalidConfigError
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.rule_files import (
    DEFAULT_PHASE_BUDGETS,
    budgets_or_defaults,
    load_phase_budget_config,
    read_phase_budgets,
)

REPOSITORY = Path(__file__).parents[1]
SHIPPED = REPOSITORY / "config/phase_budgets.yaml"
PRESET = REPOSITORY / "config/presets/coding_agent.yaml"
Edit = Callable[..., Path]


@pytest.fixture
def edited(tmp_path: Path) -> Edit:
    """Return a function that writes the shipped file with texts replaced, each found once."""

    def edit(*replacements: tuple[str, str]) -> Path:
        text = SHIPPED.read_text()
        for old, new in replacements:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        file = tmp_path / "phase_budgets.yaml"
        file.write_text(text)
        return file

    return edit


def faults(file: Path) -> list[str]:
    with pytest.raises(InvalidConfigError) as raised:
        load_phase_budget_config(file)
    return [fault.replace(str(file), "FILE") for fault in raised.value.faults]


# the shipped file and the defaults


def test_the_shipped_file_is_the_built_in_defaults_with_the_same_hash() -> None:
    """CFG-6, CFG-8."""
    assert load_phase_budget_config(SHIPPED) == DEFAULT_PHASE_BUDGETS
    assert re.fullmatch(r"[0-9a-f]{16}", DEFAULT_PHASE_BUDGETS.config_hash)


def test_the_defaults_are_those_of_the_plan() -> None:
    """CFG-2, CFG-3, CFG-4."""
    base = DEFAULT_PHASE_BUDGETS.base_budgets
    assert {phase.value: (b.tokens, b.latency_ms) for phase, b in base.items()} == {
        "STRATEGIZE": (3000, 60000),
        "SPEC": (1500, 40000),
        "PLAN": (2000, 50000),
        "THINK": (4000, 90000),
        "IMPLEMENT": (3500, 120000),
        "VERIFY": (2500, 60000),
        "REVIEW": (2000, 50000),
        "PR": (1500, 30000),
        "MONITOR": (1000, 20000),
    }
    assert [str(DEFAULT_PHASE_BUDGETS.complexity_multipliers[tier]) for tier in Complexity] == [
        "0.5",
        "0.8",
        "1.0",
        "1.5",
    ]
    assert [str(DEFAULT_PHASE_BUDGETS.importance_multipliers[t]) for t in ImportanceTier] == [
        "0.7",
        "1.0",
        "1.5",
        "2.0",
    ]
    assert [str(DEFAULT_PHASE_BUDGETS.phase_weights[phase]) for phase in WorkPhase] == (
        ["1.5", "1.0", "1.2", "1.5", "1.0", "0.8", "1.0", "0.6", "0.6"]
    )
    assert DEFAULT_PHASE_BUDGETS.stop_loss == StopLoss(
        enabled=True,
        cumulative_token_threshold=Decimal("1.2"),
        cumulative_latency_threshold=Decimal("1.2"),
        per_phase_threshold=Decimal("1.5"),
        allow_completion_threshold=Decimal("1.1"),
        runaway_threshold=Decimal("2.0"),
        latency_basis="active",
    )
    assert DEFAULT_PHASE_BUDGETS.token_weights == TokenWeights(1000, 1000, 1000, 1000)


def test_the_preset_for_coding_agents_gives_what_its_comment_says() -> None:
    """G-19."""
    config = load_phase_budget_config(PRESET)
    text = PRESET.read_text()
    weighted = {
        phase: int(config.base_budgets[phase].tokens * config.phase_weights[phase])
        for phase in WorkPhase
    }
    for phase, tokens in weighted.items():
        calls, said, seconds = re.findall(rf"{phase.value} +(\d+) +([\d,]+) +([\d,]+) s", text)[0]
        latency = config.base_budgets[phase].latency_ms * config.phase_weights[phase]
        assert int(said.replace(",", "")) == tokens == int(calls) * 15_000
        assert int(seconds.replace(",", "")) * 1000 == latency == int(calls) * 30_000
    total = sum(weighted.values())
    assert f"{total:,}" == "1,665,000"
    assert f"{total}" in text.replace(",", "")
    assert "582,750" in text and total * Decimal("0.35") == 582_750
    assert "4,995,000" in text and total * 3 == 4_995_000
    assert config.stop_loss == DEFAULT_PHASE_BUDGETS.stop_loss


# reading


def test_numbers_are_exactly_what_is_written(edited: Edit) -> None:
    config = load_phase_budget_config(
        edited(("Small: 0.8", "Small: 0.83333333333333333333"), ("Tiny: 0.5", "Tiny: 5e-1"))
    )
    assert config.complexity_multipliers[Complexity.SMALL] == Decimal("0.83333333333333333333")
    assert config.complexity_multipliers[Complexity.TINY] == Decimal("0.5")


def test_names_are_understood_in_any_letter_case(edited: Edit) -> None:
    """Section 3 item 7."""
    file = edited(
        ("  Tiny: 0.5", "  tINY: 0.5"),
        ("  critical: 2.0", "  CRITICAL: 2.0"),
        ("  SPEC: {tokens", "  spec: {tokens"),
        ("latency_basis: active", "latency_basis: Active"),
    )
    assert load_phase_budget_config(file) == DEFAULT_PHASE_BUDGETS


def test_optional_keys_may_be_left_out(edited: Edit) -> None:
    text = SHIPPED.read_text()
    file = edited()
    file.write_text(
        re.sub(
            r"  (runaway_threshold|latency_basis):.*\n", "", text[: text.index("# What a token")]
        )
    )
    assert load_phase_budget_config(file) == DEFAULT_PHASE_BUDGETS


def test_a_cost_and_weights_may_be_given(edited: Edit) -> None:
    config = load_phase_budget_config(
        edited(
            (
                "SPEC: {tokens: 1500, latency_ms: 40000}",
                "SPEC: {tokens: 1500, latency_ms: 40000, cost_usd: 0.10}",
            ),
            ("cached_read: 1000", "cached_read: 0"),
        )
    )
    assert config.base_budgets[WorkPhase.SPEC] == BaseBudget(1500, 40000, Decimal("0.10"))
    assert config.token_weights == TokenWeights(1000, 0, 1000, 1000)


@pytest.mark.parametrize(("word", "value"), [("false", False), ("off", False), ("yes", True)])
def test_the_switch_takes_the_words_of_yaml_1_1(word: str, value: bool, edited: Edit) -> None:
    config = load_phase_budget_config(edited(("enabled: true ", f"enabled: {word} ")))
    assert config.stop_loss.enabled is value


# the hash


def test_the_hash_is_over_the_content_not_the_text(edited: Edit) -> None:
    """CFG-8: comments, order and trailing zeros do not change it."""
    file = edited(
        ("Large: 1.5", "Large: 1.500"),
        ("Medium: 1.0", "Medium: 1"),
        ("# How large the work is. Above 0, at most 10.", "# changed"),
        ("  low: 0.7\n  medium: 1.0", "  medium: 1.0\n  low: 0.7"),
    )
    assert load_phase_budget_config(file).config_hash == DEFAULT_PHASE_BUDGETS.config_hash


@pytest.mark.parametrize(
    "change",
    [
        ("tokens: 3000", "tokens: 3001"),
        ("latency_ms: 120000", "latency_ms: 120001"),
        ("Tiny: 0.5", "Tiny: 0.51"),
        ("critical: 2.0", "critical: 2.1"),
        ("per_phase_threshold: 1.5 ", "per_phase_threshold: 1.6 "),
        ("runaway_threshold: 2.0 ", "runaway_threshold: 2.5 "),
        ("latency_basis: active ", "latency_basis: wall "),
        ("enabled: true ", "enabled: false "),
        ("  output: 1000", "  output: 999"),
    ],
)
def test_any_value_that_changes_changes_the_hash(change: tuple[str, str], edited: Edit) -> None:
    assert load_phase_budget_config(edited(change)).config_hash != DEFAULT_PHASE_BUDGETS.config_hash


# refusing: CFG-5, section 3 items 6-8


def test_EC2_a_missing_phase_is_named(edited: Edit) -> None:
    """CFG-5, EC2, in the words of the plan."""
    [fault] = faults(edited(("  MONITOR: {tokens: 1000, latency_ms: 20000}\n", "")))
    assert fault.startswith("FILE:16: base_budgets: Missing base budget for phase: MONITOR. ")
    assert "every phase is needed: STRATEGIZE, SPEC, PLAN" in fault


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("  Tiny: 0.5\n", "Missing complexity multiplier for tier: Tiny"),
        ("  critical: 2.0\n", "Missing importance multiplier for tier: critical"),
        ("  SPEC: 1.0\n", "Missing phase weight for phase: SPEC"),
    ],
)
def test_a_missing_multiplier_is_named(line: str, message: str, edited: Edit) -> None:
    [fault] = faults(edited((line, "")))
    assert message in fault


@pytest.mark.parametrize(
    "key",
    [
        "base_budgets",
        "complexity_multipliers",
        "importance_multipliers",
        "phase_weights",
        "stop_loss",
    ],
)
def test_every_section_is_required(key: str, edited: Edit) -> None:
    found = faults(edited((f"\n{key}:", f"\nx_{key}:")))
    assert any(f"Missing required key: {key}" in fault for fault in found)
    assert any(
        f"x_{key}: unknown key" in fault and f"did you mean {key!r}" in fault for fault in found
    )


@pytest.mark.parametrize(
    "key",
    [
        "enabled",
        "cumulative_token_threshold",
        "cumulative_latency_threshold",
        "per_phase_threshold",
        "allow_completion_threshold",
    ],
)
def test_every_threshold_of_the_plan_is_required(key: str, edited: Edit) -> None:
    """CFG-4, CFG-5."""
    [fault] = faults(edited((f"\n  {key}:", "\n  #")))
    assert f"stop_loss: Missing required key: {key}" in fault


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("  Tiny: 0.5", "  Huge: 0.5\n  Tiny: 0.5"), "complexity_multipliers.Huge: unknown tier"),
        (("  PR: {tokens", "  DEPLOY: {}\n  PR: {tokens"), "base_budgets.DEPLOY: unknown phase"),
        (("  Tiny: 0.5", "  Tiny: 0.5\n  TINY: 0.6"), "TINY: is given twice, first in line 29"),
        (("  Tiny: 0.5", "  Tiny: 0.5\n  Tiny: 0.6"), "Tiny: is given twice, first in line 29"),
        (("{tokens: 3000,", "{tokens: 3000, token: 1,"), "STRATEGIZE.token: unknown key"),
        (("{tokens: 3000,", "{"), "base_budgets.STRATEGIZE: Missing required key: tokens"),
        (("  enabled: true ", "  enabled: true\n  enable: true "), "stop_loss.enable: unknown key"),
        (("  output: 1000", "  outputs: 1000"), "token_weights.outputs: unknown key"),
        (("  SPEC: 1.0\n", "  SPEC: [1.0]\n"), "phase_weights.SPEC: must be a number, not a list"),
        (("{tokens: 3000, latency_ms: 60000}", "3000"), "must be a mapping of keys, not a whole"),
        (("STRATEGIZE: {tokens: 3000, latency_ms: 60000}", "STRATEGIZE:"), "not nothing"),
        (
            ("  input: 1000", "  input: 10001"),
            "token_weights.input: must be at least 0 and at most",
        ),
        (("  input: 1000", "  input: -1"), "token_weights.input: must be at least 0 and at most"),
        (("latency_basis: active", "latency_basis: cpu"), "must be one of active, wall, not text"),
        (("latency_basis: active", "latency_basis: [wall]"), "must be one of active, wall, not a"),
    ],
)
def test_what_is_not_known_or_given_twice_is_refused(
    change: tuple[str, str], message: str, edited: Edit
) -> None:
    [fault] = faults(edited(change))
    assert message in fault


@pytest.mark.parametrize(
    "value",
    ["0", "-1", "1.0", "1e3", "true", "'3000'", "five thousand", "null", "[1]", ".inf", "10" * 20],
)
@pytest.mark.parametrize("key", ["tokens: 3000", "latency_ms: 120000"])
def test_a_base_is_a_whole_number_above_0(key: str, value: str, edited: Edit) -> None:
    """CFG-5, section 3 item 8: no booleans, texts or fractions."""
    [fault] = faults(edited((key, f"{key.partition(':')[0]}: {value}")))
    assert "base_budgets." in fault


@pytest.mark.parametrize(
    "value",
    ["0", "0.0", "-0.5", "10.1", ".nan", ".inf", "-.inf", "true", "'1.2'", "x", "null", "[1]"],
)
@pytest.mark.parametrize("key", ["Tiny: 0.5", "critical: 2.0", "VERIFY: 0.8"])
def test_EC1_EC3_a_multiplier_is_above_0_and_at_most_10(key: str, value: str, edited: Edit) -> None:
    """CFG-5, EC1, EC3."""
    [fault] = faults(edited((key, f"{key.partition(':')[0]}: {value}")))
    assert f".{key.partition(':')[0]}: must be" in fault


@pytest.mark.parametrize("value", ["10", "10.0", "0.01", "1e1"])
def test_the_bounds_of_a_multiplier_are_inclusive_above(value: str, edited: Edit) -> None:
    config = load_phase_budget_config(edited(("Tiny: 0.5", f"Tiny: {value}")))
    assert config.complexity_multipliers[Complexity.TINY] == Decimal(value)


def test_a_multiplier_with_too_many_digits_is_refused(edited: Edit) -> None:
    for value in ("1.000000000000000000001", "1e-30"):
        [fault] = faults(edited(("Tiny: 0.5", f"Tiny: {value}")))
        assert "has more than 20 digits" in fault


@pytest.mark.parametrize(
    "value", ["1", "1.0", "0.9", "0", "-1", "120", ".nan", "true", "'1.2'", "null"]
)
@pytest.mark.parametrize(
    "key", ["cumulative_token_threshold: 1.2", "cumulative_latency_threshold: 1.2"]
)
def test_a_cumulative_threshold_is_above_1(key: str, value: str, edited: Edit) -> None:
    """CFG-5; 120 is a percentage and not a multiple."""
    name = key.partition(":")[0]
    [fault] = faults(edited((f"{key} ", f"{name}: {value} ")))
    assert f"stop_loss.{name}: must be" in fault


@pytest.mark.parametrize("value", ["0", "-1", ".inf", "150", "yes", "'1.5'", "null", "{}"])
@pytest.mark.parametrize("key", ["per_phase_threshold: 1.5", "allow_completion_threshold: 1.1"])
def test_all_thresholds_are_validated(key: str, value: str, edited: Edit) -> None:
    name = key.partition(":")[0]
    [fault] = faults(edited((f"{key} ", f"{name}: {value} ")))
    assert f"stop_loss.{name}: must be" in fault


@pytest.mark.parametrize("value", ["1", "'true'", "'no'", "enabled", "null", "[]"])
def test_enabled_is_a_boolean(value: str, edited: Edit) -> None:
    [fault] = faults(edited(("enabled: true ", f"enabled: {value} ")))
    assert "stop_loss.enabled: must be true or false" in fault


def test_runaway_is_the_outer_line(edited: Edit) -> None:
    """Equal is allowed; below either cumulative threshold is not."""
    equal = edited(("runaway_threshold: 2.0", "runaway_threshold: 1.2"))
    assert load_phase_budget_config(equal).stop_loss.runaway_threshold == Decimal("1.2")
    found = faults(edited(("runaway_threshold: 2.0", "runaway_threshold: 1.1")))
    assert len(found) == 2
    assert "1.1 is below cumulative_token_threshold (1.2)" in found[1] + found[0]
    [fault] = faults(
        edited(("cumulative_latency_threshold: 1.2 ", "cumulative_latency_threshold: 2.5 "))
    )
    assert "2.0 is below cumulative_latency_threshold (2.5)" in fault


def test_weights_that_count_nothing_are_refused(edited: Edit) -> None:
    zero = [
        (f"  {key}: 1000", f"  {key}: 0")
        for key in ("input", "cached_read", "cache_write", "output")
    ]
    [fault] = faults(edited(*zero))
    assert "nothing would count" in fault


def test_limits_that_the_store_could_not_count_are_refused(edited: Edit) -> None:
    [fault] = faults(edited(("{tokens: 3000,", "{tokens: 1000000000000000,")))
    assert "must be above 0 and at most 1,000,000,000,000" in fault
    [fault] = faults(
        edited(
            ("{tokens: 3000,", "{tokens: 1000000000000,"),
            ("runaway_threshold: 2.0", "runaway_threshold: 100"),
            ("critical: 2.0", "critical: 10"),
            ("Large: 1.5", "Large: 10"),
        )
    )
    assert "the largest task's tokens line is 15,000,0" in fault


def test_every_fault_is_reported_at_once(edited: Edit) -> None:
    found = faults(
        edited(
            ("Tiny: 0.5", "Tiny: 11"),
            ("tokens: 3000", "tokens: true"),
            ("per_phase_threshold: 1.5 ", "per_phase_threshold: 0 "),
            ("  PR: 0.6\n", ""),
        )
    )
    assert [fault.split(": ")[1] for fault in found] == [
        "base_budgets.STRATEGIZE.tokens",
        "complexity_multipliers.Tiny",
        "phase_weights",
        "stop_loss.per_phase_threshold",
    ]


@pytest.mark.parametrize("text", ["", "[]", "base_budgets: [", "base_budgets: text\n"])
def test_a_file_of_another_shape_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "b.yaml"
    file.write_text(text)
    assert faults(file)
    config, found = read_phase_budgets(file)
    assert config is None
    assert found


# CFG-6: falling back


class _Events:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.fields: dict[str, Any] = {}

    def __call__(self, name: str, level: str = "info", **fields: object) -> None:
        self.seen.append((name, level))
        self.fields.update(fields)


def test_a_good_file_is_used(edited: Edit) -> None:
    events = _Events()
    config, source, found = budgets_or_defaults(edited(("tokens: 3000", "tokens: 3001")), events)
    assert config.base_budgets[WorkPhase.STRATEGIZE].tokens == 3001
    assert (source, found, events.seen) == ("file", [], [])


def test_a_missing_file_gives_the_defaults_with_a_warning(tmp_path: Path) -> None:
    """CFG-6."""
    events = _Events()
    config, source, [finding] = budgets_or_defaults(tmp_path / "none.yaml", events)
    assert config is DEFAULT_PHASE_BUDGETS
    assert source == "defaults"
    assert finding.severity.value == "warning"
    assert events.seen == [("budgets_file_missing", "warning")]
    assert events.fields["config_source"] == "defaults"


def test_EC1_an_invalid_file_gives_the_defaults_with_an_error_event(edited: Edit) -> None:
    """CFG-6, G-11, section 3 item 6: never unnoticed."""
    events = _Events()
    config, source, found = budgets_or_defaults(edited(("Tiny: 0.5", "Tiny: 0")), events)
    assert config is DEFAULT_PHASE_BUDGETS
    assert source == "defaults"
    assert [finding.severity.value for finding in found] == ["error"]
    assert events.seen == [("budgets_file_invalid", "error")]
    assert events.fields["faults"] == [str(finding) for finding in found]
