"""The reloadable side of the configuration: budgets, policies and prices, from files to values.

Each `read_*` returns what it read together with everything it found; each `load_*` raises
InvalidConfigError instead. `load_rules` is what start and reload call.
"""

from gateway.rule_files.budgets import (
    DEFAULT_PHASE_BUDGETS,
    budgets_or_defaults,
    load_phase_budget_config,
    read_phase_budgets,
)
from gateway.rule_files.policies import default_policies, load_policies, read_policies
from gateway.rule_files.prices import load_prices, read_prices
from gateway.rule_files.rules import load_rules

__all__ = [
    "DEFAULT_PHASE_BUDGETS",
    "budgets_or_defaults",
    "default_policies",
    "load_phase_budget_config",
    "load_policies",
    "load_prices",
    "load_rules",
    "read_phase_budgets",
    "read_policies",
    "read_prices",
]
