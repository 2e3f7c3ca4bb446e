"""`tollgate tasks`: list, show, grant, limit, multiply, kill, resume, complete, reopen, gate.

Over the admin API of a running gateway, with the settings' address and token. Exit codes: 0 done
(for the gate: it may pass), 1 impossible or refused.
"""

import getpass
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlunsplit

import click
from rich.console import Console
from rich.table import Table

from gateway.admin_client import AdminClient, AdminError
from gateway.core.budget import BreachStatus
from gateway.core.phases import Complexity, ImportanceTier, Term, WorkPhase
from gateway.settings import Settings, load_settings

_EXIT_IMPOSSIBLE = 1
_COLOURS = {"within": "green", "warning": "yellow", "exceeded": "red"}
_STOPS = ("tripped", "killed", "blocked")
_SECONDS = 3_600
_MS = 1_000
_STATUSES = [*(status.value for status in BreachStatus), *_STOPS]
Command = TypeVar("Command", bound=Callable[..., Any])


def _one_of(vocabulary: Iterable[Term]) -> click.Choice[str]:
    return click.Choice([str(term.value) for term in vocabulary], case_sensitive=False)


_PHASE = _one_of(WorkPhase)


class _Desk:
    """The gateway that is asked, and how answers are shown."""

    def __init__(self, settings: Settings, url: str, token: str, *, as_json: bool) -> None:
        admin = settings.admin
        host = f"[{admin.host}]" if ":" in admin.host else admin.host
        self.url = url or urlunsplit(("http", f"{host}:{admin.port}", "", "", ""))
        self.client = AdminClient(self.url, token or admin.token or _token_of(settings))
        self.as_json = as_json
        self.console = Console(highlight=False)

    def show(self, answer: Any, shown: Callable[[Any], None]) -> None:
        """Print an answer, as it is or for people."""
        if self.as_json:
            click.echo(json.dumps(answer, indent=2))
        else:
            shown(answer)


def _token_of(settings: Settings) -> str:
    """Return the token that the gateway made for itself."""
    file = settings.state_dir / "admin-token"
    try:
        return file.read_text().strip()
    except OSError as error:
        raise AdminError(
            f"no admin token: {file} cannot be read ({error.strerror}). Remedy: set "
            "TOLLGATE_ADMIN__TOKEN, or give --token."
        ) from None


@click.group()
def tasks() -> None:
    """Tasks of a running gateway: what they used, what they may, and why they were stopped."""


def _fail(error: AdminError) -> None:
    click.echo(f"error: {error}", err=True)
    sys.exit(_EXIT_IMPOSSIBLE)


def _asking(run: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which gateway it asks, and tell of what that refuses."""

    @click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The gateway's configuration [default: config/gateway.yaml, if it exists].",
    )
    @click.option("--url", default="", help="The admin plane [default: as configured].")
    @click.option("--token", default="", help="The admin token [default: as configured].")
    @click.option("--json", "as_json", is_flag=True, help="Show the API's answer.")
    @wraps(run)
    def asking(config_file: Path | None, url: str, token: str, as_json: bool, **said: Any) -> None:
        settings = load_settings(config_file, {})
        try:
            run(_Desk(settings, url, token, as_json=as_json), **said)
        except AdminError as error:
            _fail(error)

    return asking


# What there is -----------------------------------------------------------------------------------


@tasks.command("list")
@click.option("--status", type=click.Choice(_STATUSES), help="How its budget stands.")
@click.option("--phase", type=_PHASE, help="Its current phase.")
@click.option("--complexity", type=_one_of(Complexity))
@click.option("--importance", type=_one_of(ImportanceTier))
@_asking
def show_list(desk: _Desk, **wanted: Any) -> None:
    """List tasks, newest first."""
    given = {name: value for name, value in wanted.items() if value}
    desk.show(list(desk.client.tasks(given)), lambda found: desk.console.print(_list_table(found)))


@tasks.command()
@click.argument("task")
@_asking
def show(desk: _Desk, task: str) -> None:
    """Show a task: totals, phases, overrides, and its stop."""
    desk.show(desk.client.task(task), lambda found: _show_task(desk.console, found))


def _list_table(found: list[dict[str, Any]]) -> Table:
    table = Table("task", "tiers", "state", "phase", "tokens", "latency", "cost", "status")
    for task in found:
        totals = task["totals"]
        table.add_row(
            task["id"],
            f"{task['complexity']}/{task['importance']}",
            task["state"],
            task["current_phase"] or "-",
            _of(totals["tokens"], _count),
            _of(totals["latency_ms"], _seconds),
            _dollars(totals["cost_usd"]["used"]),
            _standing(task),
        )
    return table


def _show_task(console: Console, task: Mapping[str, Any]) -> None:
    stop = task["stop_loss"]
    console.print(
        f"[bold]{task['id']}[/bold]  {task['complexity']}/{task['importance']}  {task['state']}"
    )
    console.print(f"status {_standing(task)}, {task['open_calls']} calls open")
    if stop["state"] in _STOPS:
        console.print(
            f"stopped since {stop['since']}: {stop['code']} ({stop['remediation'] or '-'})"
        )
    table = Table("phase", "tokens", "latency", "cost", "calls", "status")
    for phase in (*task["phases"], {"phase": "all", **task["totals"], "status": task["status"]}):
        not_started = phase.get("not_started")
        table.add_row(
            phase["phase"],
            _of(phase["tokens"], _count),
            _of(phase["latency_ms"], _seconds),
            _dollars(phase["cost_usd"]["used"]),
            _count(phase["calls"]["used"]),
            "not started" if not_started else _coloured(phase["status"]),
        )
    console.print(table)
    for override in task["overrides"]:
        state = "in force" if override["in_force"] else "over"
        console.print(
            f"{override['created']}  {override['kind']} by {override['approver']} ({state}): "
            f"{override['reason']}",
            markup=False,
        )


def _standing(task: Mapping[str, Any]) -> str:
    stop = task["stop_loss"]["state"]
    return f"[red]{stop}[/red]" if stop in _STOPS else _coloured(task["status"])


def _coloured(status: str) -> str:
    colour = _COLOURS.get(status, "white")
    return f"[{colour}]{status}[/{colour}]"


def _of(total: Mapping[str, Any], shown: Callable[[int], str]) -> str:
    """Return used / limit and the share."""
    used, limit, percent = total["used"], total["limit"], total["percent"]
    if limit is None:
        return shown(used)
    return f"{shown(used)} / {shown(limit)} ({'-' if percent is None else percent}%)"


def _count(amount: int) -> str:
    return f"{amount:,}"


def _seconds(amount_ms: int) -> str:
    return f"{amount_ms // _MS:,}s"


def _dollars(amount: Any) -> str:
    return f"${amount}"


# What can be done --------------------------------------------------------------------------------


def _because(command: Command) -> Command:
    """Give a command who does it and why."""
    command = click.option("--reason", required=True, help="Why; kept in the audit.")(command)
    return click.option(
        "--approver", default=getpass.getuser, show_default="you", help="Who answers for it."
    )(command)


def _expiring(command: Command) -> Command:
    return click.option(
        "--hours",
        type=click.FloatRange(min=0, min_open=True),
        help="For so long [default: for good].",
    )(command)


def _amounts(command: Command) -> Command:
    """Give a command the amounts of an override."""
    for name, kind, told in (
        ("--seconds", click.IntRange(1), "Of latency."),
        ("--usd", click.FloatRange(min=0), "Of cost."),
        ("--tokens", click.IntRange(1), "Of tokens."),
    ):
        command = click.option(name, type=kind, help=told)(command)
    return command


def _override(desk: _Desk, task: str, kind: str, said: dict[str, Any]) -> None:
    hours, seconds = said.pop("hours"), said.pop("seconds", None)
    fields = {
        **{name: value for name, value in said.items() if value is not None and name != "usd"},
        **({"cost_usd": said["usd"]} if said.get("usd") is not None else {}),
        **({"latency_ms": seconds * _MS} if seconds else {}),
        **({"expires_in_s": max(1, round(hours * _SECONDS))} if hours else {}),
    }
    answer = desk.client.override(task, kind=kind, **fields)

    def shown(applied: Mapping[str, Any]) -> None:
        for warning in applied["warnings"]:
            desk.console.print(f"warning: {warning}", markup=False)
        _show_changed(desk, task, applied["task"])

    desk.show(answer, shown)


def _show_changed(desk: _Desk, task: str, view: Mapping[str, Any] | None) -> None:
    if view is None:
        desk.console.print(f"{task}: done; the store does not answer to show it", markup=False)
    else:
        _show_task(desk.console, view)


@tasks.command()
@click.argument("task")
@_amounts
@_expiring
@_because
@_asking
def grant(desk: _Desk, task: str, **said: Any) -> None:
    """Give a task more, beside its limits; a stop that this makes room for ends."""
    _override(desk, task, "grant", said)


@tasks.command()
@click.argument("task")
@click.argument("phase", type=_PHASE)
@_amounts
@_expiring
@_because
@_asking
def limit(desk: _Desk, task: str, phase: str, **said: Any) -> None:
    """Set what a phase of a task may use, whatever was computed for it."""
    _override(desk, task, "phase_limit", {"phase": phase, **said})


@tasks.command()
@click.argument("task")
@click.argument("factor", type=float)
@_expiring
@_because
@_asking
def multiply(desk: _Desk, task: str, **said: Any) -> None:
    """Multiply all of a task's computed limits by a factor, such as 1.5."""
    _override(desk, task, "multiplier", said)


def _act(desk: _Desk, task: str, what: str, said: Mapping[str, Any]) -> None:
    desk.show(
        desk.client.act(task, what, said), lambda answer: _show_changed(desk, task, answer["task"])
    )


@tasks.command()
@click.argument("task")
@_because
@_asking
def kill(desk: _Desk, task: str, **said: Any) -> None:
    """Refuse all further calls of a task."""
    _act(desk, task, "kill", said)


@tasks.command()
@click.argument("task")
@_because
@_asking
def resume(desk: _Desk, task: str, **said: Any) -> None:
    """Let a task that was stopped go on."""
    _act(desk, task, "resume", said)


@tasks.command()
@click.argument("task")
@_because
@_asking
def complete(desk: _Desk, task: str, **said: Any) -> None:
    """Say that a task is done; its phases are closed."""
    _act(desk, task, "complete", said)


@tasks.command()
@click.argument("task")
@_because
@_asking
def reopen(desk: _Desk, task: str, **said: Any) -> None:
    """Begin a completed task anew, with a whole budget."""
    _act(desk, task, "reopen", said)


@tasks.command()
@click.argument("task")
@click.option("--phase", type=_PHASE, help="To leave.")
@_asking
def gate(desk: _Desk, task: str, phase: str | None) -> None:
    """Ask whether a task may leave a phase (VERIFY, if none is named); exit code 1 if not."""
    said = {"phase": phase} if phase else {}
    desk.show(
        desk.client.act(task, "gate", said),
        lambda answer: desk.console.print(f"{task}: {answer['decision']}", markup=False),
    )
