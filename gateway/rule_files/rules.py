"""All rules at once: what the gateway loads at start, and again on every reload."""

from collections.abc import Iterator

from gateway.core.configuration import Rules
from gateway.core.prices import PriceTable
from gateway.findings import Finding, Severity
from gateway.rule_files.budgets import Report, budgets_or_defaults
from gateway.rule_files.policies import default_policies, read_policies
from gateway.rule_files.price_list import read_price_list
from gateway.rule_files.prices import read_prices
from gateway.rule_files.roadmap import read_roadmap
from gateway.settings import Settings
from gateway.yaml_source import is_missing


def _unheard(name: str, level: str = "info", **fields: object) -> None:
    """Take an event that nobody listens to."""


def load_rules(
    settings: Settings, report: Report = _unheard, running: Rules | None = None
) -> tuple[Rules, list[Finding]]:
    """Return rules that can be run on, and everything that was found on the way.

    A file with an error is replaced by the built-in default of its kind: budgets (CFG-6), the
    observing policy, the price list without overrides, no roadmap. A reload names the rules that
    are `running`, and keeps them if a finding is an error: a file that has gone is one then, for a
    file in the middle of being replaced must not bring the defaults back.
    """
    budgets, source, findings = budgets_or_defaults(settings.budgets.file, report)
    mode = settings.policies.mode
    policies, policy_findings = read_policies(settings.policies.dir, mode)
    prices, price_findings = read_prices(settings.prices.file)
    roadmap, roadmap_findings = read_roadmap(settings.tasks.roadmap_path)
    rules = Rules(
        budgets=budgets,
        policies=policies if policies is not None else default_policies(mode),
        prices=prices if prices is not None else PriceTable(read_price_list()[0]),
        budgets_source=source,
        roadmap=roadmap or {},
    )
    found = [*findings, *policy_findings, *price_findings, *roadmap_findings]
    if running is not None:
        found += _gone(settings, running)
    return rules, found


def _gone(settings: Settings, running: Rules) -> Iterator[Finding]:
    """Yield an error for each source of the running rules that is not there any more."""
    budgets, policies, prices = settings.budgets.file, settings.policies.dir, settings.prices.file
    gone = {
        budgets: running.budgets_source == "file" and is_missing(budgets),
        policies: running.policies != default_policies(settings.policies.mode)
        and not any(policies.glob("*.yaml")),
        prices: bool(running.prices.overrides) and is_missing(prices),
    }
    roadmap = settings.tasks.roadmap_path
    if roadmap is not None:
        gone[roadmap] = bool(running.roadmap) and is_missing(roadmap)
    for place, is_gone in gone.items():
        if is_gone:
            yield Finding(
                Severity.ERROR, str(place), "", None, "has gone", "put it back, or restart"
            )
