"""All prices: the litellm package's list with `config/prices.yaml` over it."""

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.core.prices import ModelPrice, PriceTable, rate_from_usd_per_token
from gateway.findings import Finding, Findings, as_error
from gateway.rule_files.fields import Field, Range, read_decimal, read_integer, sections
from gateway.rule_files.price_list import read_price_list
from gateway.yaml_source import MappingNode, is_missing, read_mapping

_TOKENS_PER_MILLION = 1_000_000

_USD_PER_MILLION = Range(0, 1_000_000, least_too=True)
_CEILING = Range(0, 10**9)
_RATES: Mapping[str, str] = {
    "input_usd_per_million": "input",
    "output_usd_per_million": "output",
    "cached_read_usd_per_million": "cached_read",
    "cache_write_usd_per_million": "cache_write",
    "cache_write_1h_usd_per_million": "cache_write_1h",
    "reasoning_usd_per_million": "reasoning",
}
_CEILINGS = ("max_output_tokens", "max_input_tokens")


def load_prices(path: Path) -> PriceTable:
    """Return all prices: the list with the file's overrides. Raises InvalidConfigError."""
    table, findings = read_prices(path)
    if table is None:
        raise as_error(findings)
    return table


def read_prices(path: Path) -> tuple[PriceTable | None, list[Finding]]:
    """Return all prices, None if the overrides have a fault, and all findings."""
    listed, findings = read_price_list()
    if is_missing(path):
        return PriceTable(listed), findings
    in_file = Findings(str(path))
    root = read_mapping(path, in_file)
    overrides = _overrides(root, listed, in_file) if root else {}
    findings = [*findings, *in_file.items]
    if in_file.has_errors:
        return None, findings
    return PriceTable(listed.under(overrides), overrides), findings


def _overrides(
    root: MappingNode, listed: Mapping[str, ModelPrice], findings: Findings
) -> dict[str, ModelPrice]:
    top = sections(Field("", root, root.line), (), ("models",), findings)
    if "models" not in top:
        return {}
    node = top["models"].node
    if not isinstance(node, MappingNode):
        findings.error(
            "models", top["models"].line, "must be a mapping of model names", "write models: {}"
        )
        return {}
    overrides = {}
    for entry in node.entries:
        field = Field(f"models.{entry.key}", entry.value, entry.line)
        price = _override(field, entry.key, listed, findings)
        if price is not None:
            overrides[entry.key] = price
    return overrides


def _override(
    field: Field, model: str, listed: Mapping[str, ModelPrice], findings: Findings
) -> ModelPrice | None:
    """Return a model's price: what the file states over what the list says.

    A price of 0 is the operator's statement, unlike one that is missing.
    """
    keys = sections(field, (), (*_RATES, *_CEILINGS), findings)
    stated: dict[str, Any] = {}
    for key, name in _RATES.items():
        usd = read_decimal(keys[key], _USD_PER_MILLION, findings) if key in keys else None
        if usd is not None:
            stated[name] = rate_from_usd_per_token(usd / _TOKENS_PER_MILLION)
    for key in _CEILINGS:
        tokens = read_integer(keys[key], _CEILING, findings) if key in keys else None
        if tokens is not None:
            stated[key] = tokens
    if model in listed:
        return replace(listed[model], **{**_following_input(listed[model], stated), **stated})
    missing = [key for key in list(_RATES)[:2] if key not in keys]
    if missing:
        near = difflib.get_close_matches(model, listed)
        findings.error(
            field.key,
            field.line,
            f"is not in the price list and lacks {' and '.join(missing)}",
            f"state both, or use a listed name ({', '.join(near) or 'none is near'})",
        )
    if "input" not in stated or "output" not in stated:
        return None
    return ModelPrice(**{"cached_read": stated["input"], "cache_write": stated["input"], **stated})


def _following_input(listed: ModelPrice, stated: Mapping[str, int]) -> dict[str, Any]:
    """Return what follows the stated rates: cache rates without a value of their own, and others.

    A stated rate holds for calls of every length and service tier: the list's tiers go.
    """
    following: dict[str, Any] = (
        {"tiers": (), "services": ()} if stated.keys() & set(_RATES.values()) else {}
    )
    if "input" in stated:
        following |= {
            name: stated["input"]
            for name in ("cached_read", "cache_write")
            if getattr(listed, name) == listed.input
        }
    if stated.keys() & {"input", "cache_write"}:
        following["cache_write_1h"] = None
    if "output" in stated:
        following["reasoning"] = None
    return following
