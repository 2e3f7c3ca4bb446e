"""All rules at once: what the gateway loads at start, and again on every reload."""

from gateway.core.configuration import Rules
from gateway.core.prices import PriceTable
from gateway.findings import Finding
from gateway.rule_files.budgets import Report, budgets_or_defaults
from gateway.rule_files.policies import default_policies, read_policies
from gateway.rule_files.prices import read_price_list, read_prices
from gateway.settings import Settings


def _unheard(name: str, level: str = "info", **fields: object) -> None:
    """Take an event that nobody listens to."""


def load_rules(settings: Settings, report: Report = _unheard) -> tuple[Rules, list[Finding]]:
    """Return rules that can be run on, and everything that was found on the way.

    A file with an error is replaced by the built-in default of its kind: budgets (CFG-6), the
    observing policy, the price list without overrides. A reload whose findings hold an error
    should keep the rules it has instead.
    """
    budgets, source, findings = budgets_or_defaults(settings.budgets.file, report)
    mode = settings.policies.mode
    policies, policy_findings = read_policies(settings.policies.dir, mode)
    prices, price_findings = read_prices(settings.prices.file)
    rules = Rules(
        budgets=budgets,
        policies=policies if policies is not None else default_policies(mode),
        prices=prices if prices is not None else PriceTable(read_price_list()[0]),
        budgets_source=source,
    )
    return rules, [*findings, *policy_findings, *price_findings]
