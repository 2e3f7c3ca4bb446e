"""Compare every chat model's price with litellm's own arithmetic; a script, for litellm is heavy.

Prints JSON: the models that differ, by the rule that explains it, or under `unexplained`.
"""

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # before the import, or it asks a server

import litellm
from litellm.litellm_core_utils.llm_cost_calc.utils import generic_cost_per_token
from litellm.types.utils import PromptTokensDetailsWrapper
from litellm.types.utils import Usage as TheirUsage

from gateway.core.usage import Usage
from gateway.rule_files.price_list import read_price_list

SHAPES = ((1_000, 0, 0), (11_000, 8_000, 0), (11_000, 8_000, 1_000), (600_000, 0, 0))
OUTPUT = 500


def theirs(model: str, provider: str, tokens: int, read: int, write: int) -> float:
    """Return litellm's cost in nano-dollars."""
    usage = TheirUsage(
        prompt_tokens=tokens,
        completion_tokens=OUTPUT,
        total_tokens=tokens + OUTPUT,
        prompt_tokens_details=PromptTokensDetailsWrapper(
            cached_tokens=read, cache_creation_tokens=write
        ),
        cache_creation_input_tokens=write,
        cache_read_input_tokens=read,
    )
    return sum(generic_cost_per_token(model, usage, provider)) * 1e9


def rule_of(model: str, entry: Mapping[str, Any], read: int, write: int) -> str:
    """Return the name of the rule by which a difference is meant."""
    if read and not entry.get("cache_read_input_token_cost"):
        return "no cache rate"
    if write and not entry.get("cache_creation_input_token_cost"):
        return "no cache rate"
    return "zero there" if model == "gemini-exp-1206" else "unexplained"


def main() -> None:
    """Compare, and print what differs."""
    found: dict[str, set[str]] = defaultdict(set)
    compared = 0
    for model, price in read_price_list()[0].items():
        entry = litellm.model_cost.get(model, {})
        if entry.get("mode") not in ("chat", "responses"):
            continue
        if "off_peak_pricing" in entry:  # what litellm says hangs on the time of day
            found["off-peak"].add(model)
            continue
        for tokens, read, write in SHAPES:
            compared += 1
            ours = price.cost_nano_usd(Usage(tokens, read, write, OUTPUT))
            cost = theirs(model, entry["litellm_provider"], tokens, read, write)
            if abs(cost - ours) > 1 + cost * 1e-9:  # theirs is a float; ours is rounded up
                found[rule_of(model, entry, read, write)].add(model)
    print(json.dumps({"compared": compared, **{rule: sorted(m) for rule, m in found.items()}}))


main()
