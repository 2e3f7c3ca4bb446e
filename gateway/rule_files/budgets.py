"""`phase_budgets.yaml` to a `PhaseBudgetConfig`, strictly; and the built-in defaults.

One list of phases holds, that of `core.phases`: a file that lacks one, or names another, is
refused whole. Numbers are read as decimals from their text, so 1.2 is exactly 1.2.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from gateway.core.budget import (
    BaseBudget,
    PhaseBudgetConfig,
    StopLoss,
    TaskProfile,
    TokenWeights,
    task_limits,
)
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.findings import Finding, Findings, as_error
from gateway.rule_files.fields import (
    Field,
    Range,
    by_term,
    read_decimal,
    read_integer,
    read_switch,
    read_word,
    sections,
)
from gateway.yaml_source import is_missing, read_mapping

_BASE_UNITS = Range(0, 10**12)
_BASE_COST_USD = Range(0, 1_000_000)
_FACTOR = Range(0, 10)  # CFG-5: 0 < multiplier <= 10
_CUMULATIVE = Range(1, 100)  # 100 catches a percentage, `120` for 1.2
_THRESHOLD = Range(0, 100)
_WEIGHT_PER_MILLE = Range(0, 10_000, least_too=True)
_EXACT_IN_STORE = 2**53  # the store's scripts count in doubles

_REQUIRED_THRESHOLDS: Mapping[str, Range] = {
    "cumulative_token_threshold": _CUMULATIVE,
    "cumulative_latency_threshold": _CUMULATIVE,
    "per_phase_threshold": _THRESHOLD,
    "allow_completion_threshold": _THRESHOLD,
}
_LATENCY_BASES = ("active", "wall")
_TOKEN_KINDS = ("input", "cached_read", "cache_write", "output")

BudgetsSource = Literal["file", "defaults"]
Tier = TypeVar("Tier", WorkPhase, Complexity, ImportanceTier)


class Report(Protocol):
    """Where events go; `Recorder.event` is one."""

    def __call__(self, name: str, level: str = "info", **fields: object) -> None:
        """Report something noteworthy."""


def load_phase_budget_config(path: Path) -> PhaseBudgetConfig:
    """Return the file's budgets. Raises InvalidConfigError with every fault."""
    config, findings = read_phase_budgets(path)
    if config is None:
        raise as_error(findings)
    return config


def budgets_or_defaults(
    path: Path, report: Report
) -> tuple[PhaseBudgetConfig, BudgetsSource, list[Finding]]:
    """Return the file's budgets, or the defaults if it is missing or invalid (CFG-6).

    For the start only: a reload that fails keeps the last good budgets.
    """
    if is_missing(path):
        findings = Findings(str(path))
        findings.warning("", None, "does not exist, the built-in defaults hold", "create it")
        report("budgets_file_missing", "warning", file=str(path), config_source="defaults")
        return DEFAULT_PHASE_BUDGETS, "defaults", findings.items
    config, faults = read_phase_budgets(path)
    if config is None:
        report(
            "budgets_file_invalid",
            "error",
            file=str(path),
            config_source="defaults",
            faults=[str(fault) for fault in faults],
        )
        return DEFAULT_PHASE_BUDGETS, "defaults", faults
    return config, "file", faults


def read_phase_budgets(path: Path) -> tuple[PhaseBudgetConfig | None, list[Finding]]:
    """Return the file's budgets, None if it has any fault, and all findings."""
    findings = Findings(str(path))
    node = read_mapping(path, findings)
    if node is None:
        return None, findings.items
    root = sections(
        Field("", node, node.line),
        ("base_budgets", *_MULTIPLIERS, "stop_loss"),
        ("token_weights",),
        findings,
    )
    config = _config(root, findings)
    if config is not None:
        _check_size(config, findings)
    return (None if findings.has_errors else config), findings.items


_MULTIPLIERS = ("complexity_multipliers", "importance_multipliers", "phase_weights")


def _config(root: Mapping[str, Field], findings: Findings) -> PhaseBudgetConfig | None:
    """Return the budgets; incomplete ones never leave this file, the findings say so."""

    def factors(key: str, vocabulary: type[Tier], noun: str) -> dict[Tier, Decimal]:
        if key not in root:
            return {}
        return by_term(
            root[key], vocabulary, noun, lambda f: read_decimal(f, _FACTOR, findings), findings
        )

    base = {}
    if "base_budgets" in root:
        base = by_term(
            root["base_budgets"],
            WorkPhase,
            "base budget for phase",
            lambda field: _base_budget(field, findings),
            findings,
        )
    complexity = factors("complexity_multipliers", Complexity, "complexity multiplier for tier")
    importance = factors("importance_multipliers", ImportanceTier, "importance multiplier for tier")
    weights = factors("phase_weights", WorkPhase, "phase weight for phase")
    stop_loss = _stop_loss(root["stop_loss"], findings) if "stop_loss" in root else StopLoss()
    tokens = TokenWeights()
    if "token_weights" in root:
        tokens = _token_weights(root["token_weights"], findings)
    if findings.has_errors:
        return None
    return hashed(PhaseBudgetConfig(base, complexity, importance, weights, stop_loss, tokens))


def _base_budget(field: Field, findings: Findings) -> BaseBudget | None:
    keys = sections(field, ("tokens", "latency_ms"), ("cost_usd",), findings)
    numbers = {
        key: read_integer(keys[key], _BASE_UNITS, findings)
        for key in ("tokens", "latency_ms")
        if key in keys
    }
    cost_usd = None
    if "cost_usd" in keys:
        cost_usd = read_decimal(keys["cost_usd"], _BASE_COST_USD, findings)
    tokens, latency_ms = numbers.get("tokens"), numbers.get("latency_ms")
    if tokens is None or latency_ms is None:
        return None
    return BaseBudget(tokens, latency_ms, cost_usd)


def _stop_loss(field: Field, findings: Findings) -> StopLoss:
    keys = sections(
        field,
        ("enabled", *_REQUIRED_THRESHOLDS),
        ("runaway_threshold", "latency_basis"),
        findings,
    )
    values: dict[str, Any] = {}
    for key, limits in {**_REQUIRED_THRESHOLDS, "runaway_threshold": _CUMULATIVE}.items():
        if key in keys:
            values[key] = read_decimal(keys[key], limits, findings)
    if "enabled" in keys:
        values["enabled"] = read_switch(keys["enabled"], findings)
    if "latency_basis" in keys:
        values["latency_basis"] = read_word(keys["latency_basis"], _LATENCY_BASES, findings)
    if None in values.values():
        return StopLoss()
    stop_loss = replace(StopLoss(), **values)
    _check_runaway(stop_loss, keys.get("runaway_threshold", field), findings)
    return stop_loss


def _check_runaway(stop_loss: StopLoss, field: Field, findings: Findings) -> None:
    """Require runaway to be the outer line: it refuses where the other does not yet."""
    for key in ("cumulative_token_threshold", "cumulative_latency_threshold"):
        cumulative = getattr(stop_loss, key)
        if stop_loss.runaway_threshold < cumulative:
            findings.error(
                "stop_loss.runaway_threshold",
                field.line,
                f"{stop_loss.runaway_threshold} is below {key} ({cumulative})",
                f"choose {cumulative} or more",
            )


def _token_weights(field: Field, findings: Findings) -> TokenWeights:
    keys = sections(field, (), _TOKEN_KINDS, findings)
    values = {key: read_integer(value, _WEIGHT_PER_MILLE, findings) for key, value in keys.items()}
    weights = TokenWeights(**{key: value for key, value in values.items() if value is not None})
    if not any(asdict(weights).values()):
        findings.error(field.key, field.line, "all are 0: nothing would count", "raise one")
    return weights


def _check_size(config: PhaseBudgetConfig, findings: Findings) -> None:
    """Refuse limits that the store could not count exactly."""
    largest = TaskProfile(
        max(Complexity, key=lambda tier: config.complexity_multipliers[tier]),
        max(ImportanceTier, key=lambda tier: config.importance_multipliers[tier]),
    )
    for dimension, lines in task_limits(config, largest).task_lines.items():
        if lines.runaway > _EXACT_IN_STORE:
            findings.error(
                "base_budgets",
                None,
                f"the largest task's {dimension.value} line is {lines.runaway:,}, more than the"
                f" store counts exactly ({_EXACT_IN_STORE:,})",
                "lower the bases, multipliers or runaway_threshold",
            )


def hashed(config: PhaseBudgetConfig) -> PhaseBudgetConfig:
    """Return `config` with its hash: the first 16 hex digits over its canonical content (CFG-8).

    Canonical: every value in force, defaults included, decimals without trailing zeros.
    """
    content = asdict(replace(config, config_hash=""))
    text = json.dumps(_canonical(content), sort_keys=True, separators=(",", ":"))
    return replace(config, config_hash=hashlib.sha256(text.encode()).hexdigest()[:16])


def _canonical(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(_canonical(key)): _canonical(inner) for key, inner in value.items()}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Decimal):
        return format(value.normalize(), "f")
    return value


def _by_phase(rows: Iterable[tuple[str, int, int, str]]) -> PhaseBudgetConfig:
    base, weights = {}, {}
    for name, tokens, latency_ms, weight in rows:
        base[WorkPhase(name)] = BaseBudget(tokens, latency_ms)
        weights[WorkPhase(name)] = Decimal(weight)
    complexity = ("0.5", "0.8", "1.0", "1.5")
    importance = ("0.7", "1.0", "1.5", "2.0")
    return PhaseBudgetConfig(
        base_budgets=base,
        complexity_multipliers=dict(zip(Complexity, map(Decimal, complexity), strict=True)),
        importance_multipliers=dict(zip(ImportanceTier, map(Decimal, importance), strict=True)),
        phase_weights=weights,
    )


DEFAULT_PHASE_BUDGETS = hashed(
    _by_phase(
        (
            ("STRATEGIZE", 3000, 60_000, "1.5"),
            ("SPEC", 1500, 40_000, "1.0"),
            ("PLAN", 2000, 50_000, "1.2"),
            ("THINK", 4000, 90_000, "1.5"),
            ("IMPLEMENT", 3500, 120_000, "1.0"),
            ("VERIFY", 2500, 60_000, "0.8"),
            ("REVIEW", 2000, 50_000, "1.0"),
            ("PR", 1500, 30_000, "0.6"),
            ("MONITOR", 1000, 20_000, "0.6"),
        )
    )
)
"""What `config/phase_budgets.yaml` says as shipped (CFG-2..4), for when there is no usable file."""
