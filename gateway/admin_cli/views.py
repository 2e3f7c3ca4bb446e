"""Answers for people. Nothing from an answer is taken for markup or reaches the terminal raw."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.admin_cli.operation import Rows
from gateway.admin_cli.paper import paper
from gateway.admin_cli.task_views import (
    overrides_of,
    phases_table,
    print_task,
    tasks_table,
)
from gateway.admin_cli.terminal_text import one_line

_MOMENT_MS = 1_000_000_000_000  # above it, a number of milliseconds is a moment
_SAID_BY_OTHERS = ("task", "warnings", "override")
Body = Mapping[str, Any]


def show(view: Rows | str, body: Any, said: Body) -> None:
    """Print an answer; `said` are the command's values."""
    console = paper()
    if isinstance(view, Rows):
        console.print(_table(body[view.member], view.columns))
    else:
        _VIEWS[view](console, body, said)


# What fits every answer ---------------------------------------------------------------------------


def _record(console: Console, body: Body, _: Body) -> None:
    """Print names and values; lists of objects are tables behind them."""
    grid, tables = Table.grid(padding=(0, 2)), []
    for name, value in _flat(body):
        if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            tables.append((name, value))
        else:
            grid.add_row(one_line(name), Text(_cell(name, value)))
    if grid.row_count:
        console.print(grid)
    for name, rows in tables:
        flat = [dict(_flat(row)) for row in rows]
        columns = tuple(dict.fromkeys(column for row in flat for column in row))
        console.print(Text(f"\n{one_line(name)}"))
        console.print(_table(flat, columns))


def _table(rows: Sequence[Body], columns: Sequence[str]) -> Table | Text:
    if not rows:
        return Text("none")
    table = Table()
    for column in columns:
        table.add_column(Text(one_line(column)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(column, row.get(column))) for column in columns))
    return table


def _flat(body: Body, before: str = "") -> Iterable[tuple[str, Any]]:
    """Yield names and values; of an object's members, `object.member`."""
    for name, value in body.items():
        if isinstance(value, dict) and value and name not in ("settings", "details", "document"):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _cell(name: str, value: Any) -> str:
    if value is None or value in ([], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return _moment(value) if name.endswith("_ms") and value > _MOMENT_MS else f"{value:,}"
    if isinstance(value, list) and not any(isinstance(each, (dict, list)) for each in value):
        return ", ".join(_cell("", each) for each in value)
    return one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _moment(at_ms: int) -> str:
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{at_ms:,}"


# What has a view of its own -----------------------------------------------------------------------


def _tasks(console: Console, body: Body, _: Body) -> None:
    console.print(tasks_table(body["tasks"]) if body["tasks"] else "none")


def _task(console: Console, body: Body, _: Body) -> None:
    print_task(console, body)


def _phases(console: Console, body: Body, _: Body) -> None:
    console.print(phases_table(body["phases"]))


def _overrides(console: Console, body: Body, _: Body) -> None:
    console.print("\n".join(overrides_of(body["overrides"])) or "none")


def _changed(console: Console, body: Body, said: Body) -> None:
    """Print what may not be as intended, what was done, and the task as it is now."""
    for warning in body.get("warnings", ()):
        console.print(f"warning: {one_line(warning)}")
    done = [
        f"{one_line(name)} {_cell(name, value)}"
        for name, value in _flat({k: v for k, v in body.items() if k not in _SAID_BY_OTHERS})
    ]
    if done:
        console.print(", ".join(done))
    if body["task"] is not None:
        print_task(console, body["task"])
    elif "call" not in body:
        console.print(f"{one_line(said['id'])}: done; the store does not answer to show it")


def _gate(console: Console, body: Body, _: Body) -> None:
    console.print(f"{one_line(body['task'])}: {one_line(body['decision'])}")
    if body["would_refuse"]:
        console.print(f"policy {one_line(body['policy'])} only observes: it would refuse")
    _lines_crossed(console, body["breaches"])


def _lines_crossed(console: Console, breaches: Sequence[Body]) -> None:
    for breach in breaches:
        whose = one_line(f"{breach['scope']} {breach['name']}: {breach['dimension']}")
        console.print(
            f"{whose}: {breach['used']:,} is above {breach['line']:,} "
            f"({breach['allowed']:,} are allowed)"
        )


def _dry_run(console: Console, body: Body, _: Body) -> None:
    """Tell the decision step by step."""
    known = "is known" if body["task_exists"] else "is new: it is judged by its tiers"
    would = "; in mode enforce it would be refused" if body["would_refuse"] else ""
    clamp = body["clamp"]
    console.print(f"1 task      {one_line(body['task'])} {known}")
    console.print(f"2 phase     {one_line(body['phase'] or '-')}")
    console.print(
        f"3 policy    {one_line(body['policy'])}, mode {one_line(body['mode'])} "
        f"(hash {one_line(body['policy_hash'])})"
    )
    console.print(f"4 lines     {len(body['breaches']) or 'none'} would be crossed")
    _lines_crossed(console, body["breaches"])
    console.print(
        "5 output    "
        + ("is not lowered" if clamp is None else f"its budget pays for {clamp:,} tokens")
    )
    console.print(f"6 model     {one_line(body['model'] or '-')}")
    if body["grace"]:
        console.print(f"  grace: {one_line(body['grace'])}")
    console.print(f"7 decision  {one_line(body['decision'])}{would}")
    if body["code"]:
        again = "may be repeated later" if body["retryable"] else "is not to be repeated"
        console.print(f"  {one_line(body['code'])}: the call {again}")
    if body["message"]:
        console.print(f"  {one_line(body['message'])}")


def _key_made(console: Console, body: Body, _: Body) -> None:
    console.print(one_line(body["key"]), soft_wrap=True)
    console.print("Keep it now: only its digest is stored. Send it as the API key.")


def _event(console: Console, body: Body, _: Body) -> None:
    named = {"event", "level"}
    fields = [f"{one_line(k)}={_cell(k, v)}" for k, v in body.items() if k not in named]
    head = f"{one_line(str(body.get('level', '')))} {one_line(str(body.get('event', '')))}"
    console.print(" ".join((head, *fields)), soft_wrap=True)


_VIEWS: Mapping[str, Callable[[Console, Any, Body], None]] = {
    "record": _record,
    "tasks": _tasks,
    "task": _task,
    "phases": _phases,
    "overrides": _overrides,
    "changed": _changed,
    "gate": _gate,
    "dry_run": _dry_run,
    "key_made": _key_made,
    "event": _event,
}
