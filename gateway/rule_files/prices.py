"""All prices: the litellm package's list with `config/prices.yaml` over it."""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.core.piece_rates import PieceRates
from gateway.core.prices import ModelPrice, PriceTable, rate_from_usd_per_token
from gateway.findings import Finding, Findings, as_error
from gateway.rule_files.fields import Field, Range, read_decimal, read_integer, sections
from gateway.rule_files.price_list import read_price_list
from gateway.yaml_source import MappingNode, is_missing, read_mapping

_TOKENS_PER_MILLION = 1_000_000

_USD_PER_MILLION = Range(0, 1_000_000, least_too=True)
_USD_PER_PIECE = Range(0, 1_000, least_too=True)
_CEILING = Range(0, 10**9)
_RATES: Mapping[str, str] = {
    "input_usd_per_million": "input",
    "output_usd_per_million": "output",
    "cached_read_usd_per_million": "cached_read",
    "cache_write_usd_per_million": "cache_write",
    "cache_write_1h_usd_per_million": "cache_write_1h",
    "reasoning_usd_per_million": "reasoning",
}
_PIECE_RATES: Mapping[str, str] = {
    "audio_input_usd_per_million": "audio_input",
    "audio_cached_read_usd_per_million": "audio_cached",
    "audio_output_usd_per_million": "audio_output",
    "image_input_usd_per_million": "image_input",
    "image_cached_read_usd_per_million": "image_cached",
    "image_output_usd_per_million": "image_output",
    "characters_usd_per_million": "character",
}
_PER_PIECE: Mapping[str, str] = {"usd_per_second": "second", "usd_per_image": "image"}
_SIZES = "usd_per_image_by_size"
_PIECES = (*_PIECE_RATES, *_PER_PIECE, _SIZES)
_SIZE = re.compile(r"[a-z]{1,12}/[1-9]\d{1,4}x[1-9]\d{1,4}")
_NO_TOKENS = dict.fromkeys(("input", "output", "cached_read", "cache_write"), 0)
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
    keys = sections(field, (), (*_RATES, *_PIECES, *_CEILINGS), findings)
    stated: dict[str, Any] = dict(_rates(keys, _RATES, _USD_PER_MILLION, findings))
    for key in _CEILINGS:
        tokens = read_integer(keys[key], _CEILING, findings) if key in keys else None
        if tokens is not None:
            stated[key] = tokens
    pieces = _pieces(keys, findings)
    if model in listed:
        return _over_listed(listed[model], stated, pieces)
    if pieces:
        stated["pieces"] = PieceRates(**pieces)
        if stated["pieces"].has_pieces and not stated.keys() & set(_RATES.values()):
            return ModelPrice(**{**_NO_TOKENS, **stated})
    missing = [key for key in list(_RATES)[:2] if key not in keys]
    if missing:
        near = difflib.get_close_matches(model, listed)
        findings.error(
            field.key,
            field.line,
            f"is not in the price list and lacks {' and '.join(missing)}",
            "state both, or the price of an image, a second or characters, or use a listed name "
            f"({', '.join(near) or 'none is near'})",
        )
    if "input" not in stated or "output" not in stated:
        return None
    return ModelPrice(**{"cached_read": stated["input"], "cache_write": stated["input"], **stated})


def _over_listed(
    listed: ModelPrice, stated: Mapping[str, Any], pieces: Mapping[str, Any]
) -> ModelPrice:
    over: dict[str, Any] = {**stated}
    if pieces:
        over["pieces"] = _over(listed.pieces or PieceRates(), pieces)
    return replace(listed, **{**_following_input(listed, over), **over})


def _rates(
    keys: Mapping[str, Field], names: Mapping[str, str], limits: Range, findings: Findings
) -> Iterator[tuple[str, int]]:
    """Yield the rates that are stated, by the name of their field."""
    per = _TOKENS_PER_MILLION if limits is _USD_PER_MILLION else 1
    for key, name in names.items():
        usd = read_decimal(keys[key], limits, findings) if key in keys else None
        if usd is not None:
            yield name, rate_from_usd_per_token(usd / per)


def _pieces(keys: Mapping[str, Field], findings: Findings) -> dict[str, Any]:
    """Return what is stated of pieces and of tokens that are no text, by `PieceRates`' names."""
    stated: dict[str, Any] = dict(_rates(keys, _PIECE_RATES, _USD_PER_MILLION, findings))
    stated |= _rates(keys, _PER_PIECE, _USD_PER_PIECE, findings)
    if _SIZES in keys:
        sizes = dict(_sizes(keys[_SIZES], findings))
        if sizes:
            stated["sizes"] = tuple(sizes.items())
            stated.setdefault("image", max(sizes.values()))
    return stated


def _sizes(field: Field, findings: Findings) -> Iterator[tuple[str, int]]:
    """Yield the rates of images by quality and size."""
    if not isinstance(field.node, MappingNode):
        findings.error(
            field.key,
            field.line,
            "must be a mapping of quality and size to US dollars",
            "write it like {hd/1024x1792: 0.12}",
        )
        return
    for entry in field.node.entries:
        inner = Field(f"{field.key}.{entry.key}", entry.value, entry.line)
        if not _SIZE.fullmatch(entry.key):
            findings.error(
                inner.key,
                inner.line,
                "is not a quality and a size",
                "write it like standard/1024x1024 or high/1024x1536",
            )
            continue
        usd = read_decimal(inner, _USD_PER_PIECE, findings)
        if usd is not None:
            yield entry.key, rate_from_usd_per_token(usd)


def _over(listed: PieceRates, stated: Mapping[str, Any]) -> PieceRates:
    """Return the list's rates with the stated ones; one of any image holds for all sizes."""
    if "image" in stated:
        listed = replace(listed, sizes=(), pixel=None)
    return replace(listed, **stated)


def _following_input(listed: ModelPrice, stated: Mapping[str, int]) -> dict[str, Any]:
    """Return what follows the stated rates: cache rates without a value of their own, and others.

    A stated rate holds for calls of every length and service tier: the list's tiers go.
    """
    following: dict[str, Any] = (
        {"tiers": (), "services": ()} if stated.keys() & {"pieces", *_RATES.values()} else {}
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
