"""The configuration reference is true: every key is in it, every example in it validates."""

import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from gateway.core.budget import Dimension, TaskProfile, task_limits
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.policy import Mode
from gateway.rule_files import (
    DEFAULT_PHASE_BUDGETS,
    load_phase_budget_config,
    load_policies,
    load_prices,
)
from gateway.rule_files.policy_kinds import POLICY_KINDS, MatchDocument, PolicyDocument
from gateway.settings import Settings, load_settings

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "docs/autopilot/budgets"
TEXT = (FOLDER / "CONFIG_REFERENCE.md").read_text()
BLOCKS = [
    (match[1], match[0].removeprefix("```yaml\n").removesuffix("```"))
    for match in re.finditer(r"```yaml\n# (\S+)\n.*?```", TEXT, re.DOTALL)
]


def rows(text: str = TEXT) -> dict[str, list[str]]:
    """Return the cells of every table row that starts with a key."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| `"):
            found[cells[0].removeprefix("| ").strip("` ")] = cells
    return found


def leaves(model: BaseModel, path: str = "") -> Iterator[tuple[str, Any]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, f"{path}{name}.")
        elif name == "upstreams":
            yield from leaves(value["openai"], "upstreams.<name>.")
        elif name != "enforcement_disabled":
            yield f"{path}{name}", value


def written(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "[]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f'"{value}"' if value == "" else str(value)


@pytest.mark.parametrize(("key", "default"), list(leaves(Settings())))
def test_every_setting_is_described_with_its_default_and_variable(key: str, default: Any) -> None:
    cells = rows()[key]
    variable = "TOLLGATE_" + key.replace("<name>", "openai").replace(".", "__").upper()
    assert cells[3] == f"`{variable}`"
    assert cells[4].rstrip(" |").endswith(".")
    if key in ("upstreams.<name>.base_url", "upstreams.<name>.provider"):
        return
    assert cells[2] == f"`{written(default)}`"


def test_no_setting_is_described_that_does_not_exist() -> None:
    section = TEXT[TEXT.index("## The gateway") : TEXT.index("## Budgets")]
    described = {key for key in rows() if f"| `{key}` |" in section}
    assert described == {key for key, _ in leaves(Settings())}


def test_every_key_of_the_budgets_is_described() -> None:
    config = DEFAULT_PHASE_BUDGETS
    keys = [
        *(f"base_budgets.<PHASE>.{name}" for name in ("tokens", "latency_ms", "cost_usd")),
        *("complexity_multipliers.<Tier>", "importance_multipliers.<tier>"),
        "phase_weights.<PHASE>",
        *(f"token_weights.{name}" for name in config.token_weights.__slots__),
    ]
    assert [key for key in keys if key not in rows()] == []
    for name in config.stop_loss.__slots__:
        value = getattr(config.stop_loss, name)
        shown = str(value) if isinstance(value, Decimal) else written(value)
        assert rows()[f"stop_loss.{name}"][2] == f"`{shown}`"


def test_every_kind_and_key_of_a_policy_is_described() -> None:
    section = TEXT[TEXT.index("## Policies") : TEXT.index("## Prices")]
    common, *kinds = re.split(r"\n(?=`\w+`, )", section)
    of_kind = {text.split("`")[1]: rows(text) for text in kinds}
    assert list(of_kind) == list(POLICY_KINDS)
    for kind, document in POLICY_KINDS.items():
        assert kind in rows(common)["kind"][1]
        for name, field in document.model_fields.items():
            if name in PolicyDocument.model_fields:
                keys = [f"match.{key}" for key in MatchDocument.model_fields]
                described = [
                    key for key in (keys if name == "match" else [name]) if f"`{key}`" in common
                ]
                assert described == (keys if name == "match" else [name])
            else:
                default = getattr(field.default, "value", field.default)
                shown = {None: "none", (): "`[]`", frozenset(): "`[]`"}.get(default, f"`{default}`")
                if field.is_required():
                    shown = "required"
                if default == "" or isinstance(default, bool):
                    shown = f"`{written(default)}`"
                assert of_kind[kind][name][2] == shown
    for mode in Mode:
        assert mode.value in rows()["mode"][1]


def test_every_key_of_the_prices_is_described() -> None:
    for line in (REPOSITORY / "config/prices.yaml").read_text().splitlines():
        if key := re.match(r"#    (\w+):", line):
            assert f"models.<model>.{key[1]}" in rows()


def test_every_yaml_block_says_which_file_it_is() -> None:
    assert len(BLOCKS) == TEXT.count("```yaml")
    assert {name for name, _ in BLOCKS} == {
        "config/gateway.yaml",
        "config/phase_budgets.yaml",
        "policies/stop-loss.yaml",
        "policies/unpriced-model.yaml",
        "policies/unmetered-route.yaml",
        "policies/webhook.yaml",
        "policies/untagged-calls.yaml",
        "policies/loop.yaml",
        "policies/grace-call.yaml",
        "policies/output-clamp.yaml",
        "policies/override-bounds.yaml",
        "policies/model-downgrade.yaml",
        "policies/mid-stream-stop.yaml",
        "policies/spend-limit.yaml",
        "policies/rate.yaml",
        "config/prices.yaml",
    }


@pytest.mark.parametrize(("name", "text"), BLOCKS)
def test_every_yaml_block_validates(name: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / Path(name).name
    file.write_text(text)
    if name == "config/gateway.yaml":
        assert load_settings(file, {}) != Settings()
    elif name == "config/phase_budgets.yaml":
        assert load_phase_budget_config(file) == DEFAULT_PHASE_BUDGETS
    elif name == "config/prices.yaml":
        assert load_prices(file).overrides
    else:
        assert load_policies(tmp_path).stop_loss


def test_the_worked_example_is_what_the_gateway_computes() -> None:
    """CAL-3, CAL-4."""
    limits = task_limits(
        DEFAULT_PHASE_BUDGETS, TaskProfile(Complexity.LARGE, ImportanceTier.CRITICAL)
    )
    phase = limits.phase_lines[WorkPhase.THINK]
    tokens, latency = phase[Dimension.TOKENS], phase[Dimension.LATENCY_MS]
    assert f"**limit** | **{tokens.limit:,}** | **{latency.limit:,} ms** |" in TEXT
    assert f"line | {tokens.cumulative:,} | {latency.cumulative:,} ms |" in TEXT
    task = limits.task_lines[Dimension.TOKENS]
    flat = " ".join(TEXT.split())
    assert f"{task.limit:,} tokens and {limits.task_lines[Dimension.LATENCY_MS].limit:,} ms" in flat
    assert f"line is at {task.cumulative:,} tokens, its runaway line at {task.runaway:,}." in flat


@pytest.mark.parametrize("complexity", list(Complexity))
def test_the_table_of_totals_is_what_the_gateway_computes(complexity: Complexity) -> None:
    """CAL-4."""
    totals = [
        task_limits(DEFAULT_PHASE_BUDGETS, TaskProfile(complexity, importance))
        .task_lines[Dimension.TOKENS]
        .limit
        for importance in ImportanceTier
    ]
    row = " | ".join(f"{total:,}" for total in totals)
    assert f"| {complexity.value} | {row} |" in TEXT


def test_links_resolve() -> None:
    """DOC-1."""
    headings = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        if target.startswith("#"):
            assert target[1:] in headings
        else:
            assert (FOLDER / target).exists(), target
