"""The command line: `tollgate serve`, `check`, `explain`, `calibrate`, `backtest` and others.

Commands over the admin API are made of a table, in `admin_cli`.
Modules are imported inside the commands, so that `tollgate --help` answers at once.
"""

import sys
from decimal import Decimal, InvalidOperation
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway import __version__
from gateway.core.errors import InvalidConfigError
from gateway.core.phases import (
    Complexity,
    ImportanceTier,
    Term,
    WorkPhase,
    allowed_terms,
    parse_term,
)

if TYPE_CHECKING:
    from gateway.core.budget import PhaseBudgetConfig, TaskLimits

_EXIT_INVALID = 1
_EXIT_STRICT = 2

_CONFIG = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The gateway's configuration [default: config/gateway.yaml, if it exists].",
)


def main() -> None:
    """Run the command line; a wrong configuration is told finding by finding, exit code 1."""
    try:
        tollgate()
    except InvalidConfigError as error:
        for fault in error.faults:
            click.echo(f"error: {fault}", err=True)
        sys.exit(_EXIT_INVALID)


class _LaterImported(click.Group):
    """A group of commands, imported when one of them is asked for: that takes a while."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return self._imported().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self._imported().get_command(ctx, cmd_name)

    def _imported(self) -> click.Group:
        raise NotImplementedError


class _LedgerCommands(_LaterImported):
    def _imported(self) -> click.Group:
        from gateway.ledger_cli import ledger

        return ledger


class _KeyCommands(_LaterImported):
    def _imported(self) -> click.Group:
        from gateway.keys_cli import keys

        return keys


class _AdminCommands(_LaterImported):
    """Commands over the admin API of a running gateway."""

    def _imported(self) -> click.Group:
        from gateway.admin_cli.commands import group_of

        return group_of(self.name or "", self.help or "")


_ADMIN_GROUPS = {
    "tasks": "See, free or stop tasks of a running gateway.",
    "calls": "Mend what a call was charged.",
    "sessions": "Say which task a client's session works for.",
    "policies": "See, reload or try the policies of a running gateway.",
    "enforcement": "Switch all enforcement off or on.",
    "prices": "See what a model costs.",
    "breaches": "See lines that were crossed; judge blocks.",
    "remediation": "See tasks that are to mend breaches.",
    "deliveries": "See notices for webhooks.",
    "audit": "See who changed what, and why.",
    "events": "Watch what happens.",
    "statistics": "See how a period has gone.",
    "health": "See whether a gateway can serve calls.",
}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tollgate")
def tollgate() -> None:
    """Meter every model call of an agent's task, and stop the task at its budget."""


tollgate.add_command(_LedgerCommands("ledger", help="Verify, rebuild or export the ledger."))
tollgate.add_command(_KeyCommands("keys", help="Make, list, rotate or revoke gateway keys."))
for _name, _told in _ADMIN_GROUPS.items():
    tollgate.add_command(_AdminCommands(_name, help=_told))


@tollgate.command()
@_CONFIG
@click.option("--host", help="Address of the data plane.")
@click.option("--port", type=int, help="Port of the data plane.")
@click.option("--admin-port", type=int, help="Port of the admin plane.")
@click.option("--workers", type=int, help="Number of worker processes.")
@click.option("--log-format", type=click.Choice(["json", "text"]), help="How to log.")
@click.option("--strict", is_flag=True, help="Do not start on the defaults for an invalid file.")
def serve(
    config_file: Path | None,
    admin_port: int | None,
    log_format: str | None,
    strict: bool,
    **server: Any,
) -> None:
    """Run the gateway until it is told to stop.

    The options are over the environment, which is over the configuration file.
    """
    from gateway.settings import load_settings

    overrides = {
        "server": _given(server),
        "admin": _given({"port": admin_port}),
        "log": _given({"format": log_format}),
    }
    settings = load_settings(config_file, _given(overrides))
    if strict:
        from gateway.findings import errors_among
        from gateway.rule_files import load_rules

        _, findings = load_rules(settings)
        for finding in errors_among(findings):
            click.echo(f"error: {finding}", err=True)
        if errors_among(findings):
            sys.exit(_EXIT_STRICT)
    from gateway.supervisor import serve as run

    sys.exit(run(settings, strict=strict))


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value not in (None, {})}


@tollgate.command()
@_CONFIG
def check(config_file: Path | None) -> None:
    """Validate the configuration, presets, policies and prices, and run the policies' cases.

    Prints every fault with file, line, key and remedy. Exits with 1 if there is any.
    """
    from gateway.policy_cases.check import check_all_cases
    from gateway.rule_files.check import check_all

    failed = False
    for checked in chain(check_all(config_file), check_all_cases(config_file)):
        for fault in checked.faults:
            click.echo(f"error: {fault}")
        for doubt in checked.doubts:
            click.echo(f"warning: {doubt}")
        if not checked.faults and not checked.doubts:
            click.echo(f"ok: {checked.file}" + (f" ({checked.detail})" if checked.detail else ""))
        failed = failed or bool(checked.faults)
    if failed:
        sys.exit(_EXIT_INVALID)


@tollgate.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def calibrate(arguments: tuple[str, ...]) -> None:
    """Propose base budgets from what phases have used."""
    from gateway.calibrate_cli import calibrate as run

    run.main(list(arguments), prog_name="tollgate calibrate")


@tollgate.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def backtest(arguments: tuple[str, ...]) -> None:
    """Play the ledger's calls under other policies or budgets."""
    from gateway.backtest_cli import backtest as run

    run.main(list(arguments), prog_name="tollgate backtest")


class _TermType(click.ParamType[Any]):
    """A word of a closed vocabulary, in any letter case."""

    def __init__(self, vocabulary: type[Term]) -> None:
        self.name = vocabulary.__name__
        self._vocabulary: type[Any] = vocabulary

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return f"[{'|'.join(str(member.value) for member in self._vocabulary)}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        term = value if isinstance(value, self._vocabulary) else parse_term(self._vocabulary, value)
        if term is None:
            self.fail(f"{value!r} is none of: {allowed_terms(self._vocabulary)}", param, ctx)
        return term


class _FactorType(click.ParamType[Decimal]):
    """A factor, above 0 and at most 10, taken as it is written."""

    name = "factor"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Decimal:
        try:
            factor = Decimal(value)
        except InvalidOperation:
            self.fail(f"{value!r} is not a number", param, ctx)
        if not (factor.is_finite() and 0 < factor <= _MOST_FACTOR):
            self.fail(f"{value} is not above 0 and at most {_MOST_FACTOR}", param, ctx)
        return factor


_MOST_FACTOR = 10


@tollgate.command()
@click.option("--phase", type=_TermType(WorkPhase), required=True, help="The work phase.")
@click.option("--complexity", type=_TermType(Complexity), default=Complexity.MEDIUM)
@click.option("--importance", type=_TermType(ImportanceTier), default=ImportanceTier.MEDIUM)
@click.option("--multiplier", type=_FactorType(), default="1", help="The task's own factor.")
@_CONFIG
def explain(
    phase: WorkPhase,
    complexity: Complexity,
    importance: ImportanceTier,
    multiplier: Decimal,
    config_file: Path | None,
) -> None:
    """Show how a phase's limit comes about, where its lines are, and the task's totals.

    What a call would be told, and why: `tollgate policies dry-run`.
    """
    from gateway.core.budget import TaskBudgetOverrides, TaskProfile, task_limits
    from gateway.rule_files import budgets_or_defaults
    from gateway.settings import load_settings

    file = load_settings(config_file, {}).budgets.file
    config, source, findings = budgets_or_defaults(file, lambda *_, **__: None)
    for finding in findings:
        click.echo(f"{finding.severity.value}: {finding}", err=True)
    overrides = TaskBudgetOverrides(budget_multiplier=multiplier)
    limits = task_limits(config, TaskProfile(complexity, importance, overrides))
    name = str(file) if source == "file" else "built-in defaults"
    click.echo(f"budgets      {name}, hash {config.config_hash}\n")
    click.echo("\n".join(_explained(config, limits, phase)))


def _explained(config: "PhaseBudgetConfig", limits: "TaskLimits", phase: WorkPhase) -> list[str]:
    from gateway.core.budget import Dimension, ceil_product, format_budget_breakdown, multiply

    profile, budget, stop = limits.profile, limits.budgets[phase], limits.stop_loss
    base, factors = config.base_budgets[phase], budget.multipliers
    lines = limits.phase_lines[phase]
    task_tokens, task_ms = (
        limits.task_lines[dimension] for dimension in (Dimension.TOKENS, Dimension.LATENCY_MS)
    )
    flagged = lines[Dimension.TOKENS].cumulative, lines[Dimension.LATENCY_MS].cumulative
    steps = (
        ("complexity", factors.complexity, f"{profile.complexity.value}"),
        ("importance", factors.importance, f"{profile.importance.value}"),
        ("weight", factors.phase_weight, f"of {phase.value}"),
        ("multiplier", factors.budget_multiplier, "of the task"),
    )
    products, so_far = [], Decimal(1)
    for name, factor, reason in steps:
        so_far = multiply(so_far, factor)
        amounts = _amounts(ceil_product(base.tokens, so_far), ceil_product(base.latency_ms, so_far))
        products.append(f"{name:<12} {amounts}   x {factor} {reason}")
    return [
        f"base         {_amounts(base.tokens, base.latency_ms)}   {phase.value}",
        *products,
        f"limit        {_amounts(budget.token_limit, budget.latency_limit_ms)}",
        f"phase line   {_amounts(*flagged)}   x {stop.per_phase_threshold}",
        "",
        f"the whole task, {profile.complexity.value}/{profile.importance.value}",
        format_budget_breakdown(limits),
        f"cumulative line   {_amounts(task_tokens.cumulative, task_ms.cumulative)}"
        f"   x {stop.cumulative_token_threshold}, x {stop.cumulative_latency_threshold}",
        f"runaway line      {_amounts(task_tokens.runaway, task_ms.runaway)}"
        f"   x {stop.runaway_threshold}",
    ]


def _amounts(tokens: int, latency_ms: int) -> str:
    return f"{tokens:,} tokens / {latency_ms:,} ms"
