"""`tollgate backtest`. Exit codes: 0 played, 1 impossible, 2 a file of rules has a fault."""

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection

from gateway.admin_cli.paper import paper
from gateway.core.budget import TaskLimits, TaskProfile, task_limits
from gateway.core.configuration import DataPlane, Rules
from gateway.core.errors import InvalidConfigError, LedgerError
from gateway.core.keys import GatewayKey
from gateway.core.policy import Mode
from gateway.findings import raise_errors
from gateway.ledger.database import ledger_errors, open_ledger
from gateway.ledger.past import History
from gateway.ledger_cli import MomentType
from gateway.ports import TaskFacts
from gateway.rehearsal.backtest import Backtest, Group, Replay, Sources, Sum
from gateway.rehearsal.past_task import TaskThen
from gateway.rule_files import load_phase_budget_config, load_rules
from gateway.settings import Settings, data_plane, ledger_url, load_settings
from gateway.store.keys import facts_from_text

_EXIT_IMPOSSIBLE = 1
_EXIT_FAULT = 2
_MOST_STOPS = 20
_ALERT_PERCENT = 10  # of tasks (PM1)
_read_limits = msgspec.json.Decoder(TaskLimits).decode
_read_key = msgspec.json.Decoder(GatewayKey).decode
_UNKNOWN = TaskFacts(TaskProfile().complexity, TaskProfile().importance)
_DIRECTORY = click.Path(path_type=Path, file_okay=False, exists=True)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_file",
    type=_FILE,
    help="The gateway's configuration [default: config/gateway.yaml, if it exists].",
)
@click.option("--policies", type=_DIRECTORY, help="A policy folder [default: the one in use].")
@click.option("--mode", type=click.Choice([mode.value for mode in Mode]), help="For all of them.")
@click.option("--budgets", type=_FILE, help="A budget file [default: what each task began with].")
@click.option("--since", type=MomentType(), help="Calls that began from this time on.")
@click.option("--until", type=MomentType(), help="And before this time.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
def backtest(
    config_file: Path | None,
    policies: Path | None,
    mode: str | None,
    budgets: Path | None,
    since: int | None,
    until: int | None,
    *,
    as_json: bool,
) -> None:
    """Play the ledger's calls under other policies or budgets; nothing is changed."""
    settings = load_settings(config_file, {})
    try:
        rules = _rules(settings, policies, Mode(mode) if mode else None, budgets)
        with ledger_errors(), open_ledger(ledger_url(settings)) as connection:
            history = History(connection, settings.tenant)
            sources = _sources(connection, history, rules, own_limits=budgets is None)
            plane = data_plane(settings, "unix:///nowhere")
            idle_ms = settings.tasks.phase_idle_close_ms
            replay = Replay(_without_switch(plane), rules, sources, idle_ms)
            result = asyncio.run(replay.play(history.events(since, until)))
    except InvalidConfigError as error:
        for fault in error.faults:
            click.echo(f"error: {fault}", err=True)
        sys.exit(_EXIT_FAULT)
    except LedgerError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(_EXIT_IMPOSSIBLE)
    document = _document(result)
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        _show(paper(), document)


def _rules(
    settings: Settings, folder: Path | None, mode: Mode | None, budgets: Path | None
) -> Rules:
    """Return the rules to be tried; doubts about their files go to stderr.

    Raises InvalidConfigError for a file with a fault: other rules in its place would answer
    another question.
    """
    named = {"dir": folder or settings.policies.dir, "mode": mode or settings.policies.mode}
    policies = settings.policies.model_copy(update=named)
    rules, findings = load_rules(settings.model_copy(update={"policies": policies}))
    raise_errors(findings)
    for doubt in findings:
        click.echo(f"warning: {doubt}", err=True)
    if budgets is not None:
        rules = replace(rules, budgets=load_phase_budget_config(budgets))
    return rules


def _without_switch(plane: DataPlane) -> DataPlane:
    """Return the plane as it enforces: what would be refused is the question."""
    return replace(plane, enforcement_disabled=False)


def _sources(
    connection: Connection, history: History, rules: Rules, *, own_limits: bool
) -> Sources:
    """Return where tasks and keys come from; limits are their own, or those of the rules."""

    def task_of(name: str) -> TaskThen:
        known = history.task(name)
        facts = facts_from_text(known.facts) if known is not None else _UNKNOWN
        if name.startswith("-"):
            return TaskThen(name, facts, None)
        profile = TaskProfile(facts.complexity, facts.importance)
        if known is not None and known.snapshot:
            limits = _read_limits(known.snapshot)
            if own_limits:
                return TaskThen(name, facts, limits)
            profile = limits.profile  # with the limits that are the task's own
        return TaskThen(name, facts, task_limits(rules.budgets, profile))

    def key_of(key_id: str) -> GatewayKey:
        document = history.key(key_id)
        return _read_key(document) if document else GatewayKey(key_id, "", key_id)

    return Sources(task_of, key_of, history.inherited)


# Output -------------------------------------------------------------------------------------------


def _document(result: Backtest) -> dict[str, Any]:
    """Return the result in the form of `--json` (docs/backtest.md)."""
    stops = sorted(result.stops.values(), key=lambda stop: stop.at_ms)
    tasks = len(result.tasks)
    percent = round(100 * len(stops) / tasks, 1) if tasks else 0.0
    return {
        "calls": sum(one.calls for one in result.groups.values()),
        "from": _moment(result.first_ms),
        "to": _moment(result.last_ms),
        "left_out": result.left_out,
        "decisions": _by(result.groups, lambda group: group.decision),
        "would_refuse": _by(
            result.groups, lambda group: group.policy if group.would_refuse else ""
        ),
        "refused_by": {
            name: _by(result.groups, _among("refuse", part)) for name, part in _PARTS.items()
        },
        "flagged_by": {
            name: _by(result.groups, _among("flag", part)) for name, part in _PARTS.items()
        },
        "allowed_by": {
            name: _by(result.groups, _among("allow", part)) for name, part in _PARTS.items()
        },
        "then_now": [
            {"then": then, "now": now, "calls": calls}
            for (then, now), calls in sorted(result.then_now.items())
        ],
        "tasks": tasks,
        "tasks_refused": len(stops),
        "tasks_refused_percent": percent,
        "alert": percent > _ALERT_PERCENT,
        "first_refusals": [
            asdict(stop) | {"at": _moment(stop.at_ms)} for stop in stops[:_MOST_STOPS]
        ],
    }


_PARTS: Mapping[str, Callable[[Group], str]] = {
    "code": lambda group: group.code,
    "policy": lambda group: group.policy,
    "tier": lambda group: f"{group.complexity} {group.importance}",
    "phase": lambda group: group.phase,
}


def _among(decision: str, part: Callable[[Group], str]) -> Callable[[Group], str]:
    return lambda group: part(group) if group.decision == decision else ""


def _by(
    groups: Mapping[Group, Sum], name_of: Callable[[Group], str]
) -> dict[str, dict[str, int | str]]:
    """Return sums by a name, the largest first; groups without one are left out."""
    sums: dict[str, Sum] = defaultdict(Sum)
    for group, one in groups.items():
        if name := name_of(group):
            found = sums[name]
            found.calls += one.calls
            found.tokens += one.tokens
            found.nano_usd += one.nano_usd
    ordered = sorted(sums.items(), key=lambda item: (-item[1].calls, item[0]))
    return {
        name: {"calls": one.calls, "tokens": one.tokens, "nano_usd": one.nano_usd}
        for name, one in ordered
    }


def _moment(at_ms: int | None) -> str | None:
    return None if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()


def _show(console: Console, document: Mapping[str, Any]) -> None:
    console.print(
        f"{document['calls']:,} calls of {document['tasks']:,} tasks, "
        f"{document['from'] or '-'} to {document['to'] or '-'}"
    )
    for kind in document["left_out"]:
        console.print(f"left out: {kind}, which the ledger knows too little for")
    _table(console, "decision", document["decisions"])
    _table(console, "would be refused in enforce mode, by policy", document["would_refuse"])
    for name, sums in document["refused_by"].items():
        _table(console, f"refused, by {name}", sums)
    for name, sums in document["flagged_by"].items():
        _table(console, f"flagged, by {name}", sums)
    for row in document["then_now"]:
        console.print(f"then {row['then']:<7}now {row['now']:<7}{row['calls']:>10,} calls")
    console.print(
        f"{document['tasks_refused']:,} of {document['tasks']:,} tasks are refused something "
        f"({document['tasks_refused_percent']} %)"
    )
    if document["alert"]:
        console.print(f"warning: these are more than {_ALERT_PERCENT} % of the tasks")
    for stop in document["first_refusals"]:
        console.print(
            f"{stop['at']}  {stop['task']}  {stop['phase']}  {stop['code']}  "
            f"after {stop['tokens']:,} tokens",
            soft_wrap=True,
        )


def _table(console: Console, title: str, sums: Mapping[str, Mapping[str, Any]]) -> None:
    if not sums:
        return
    table = Table(title, "calls", "tokens", "USD", box=None, pad_edge=False)
    for name, one in sums.items():
        usd = one["nano_usd"] / 1_000_000_000
        table.add_row(name, f"{one['calls']:,}", f"{one['tokens']:,}", f"{usd:,.6f}")
    console.print(table)
