"""Tasks for people: a line each, or one with its phases and overrides."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from gateway.admin_cli.terminal_text import one_line

_COLOURS = {"within": "green", "warning": "yellow", "exceeded": "red"}
_STOPS = ("tripped", "killed", "blocked")
_MS = 1_000
Body = Mapping[str, Any]


def tasks_table(found: Iterable[Body]) -> Table:
    """Return a line for each summary of a task."""
    table = _table("task", "tiers", "state", "phase", "tokens", "latency", "cost", "status")
    for task in found:
        totals = task["totals"]
        table.add_row(
            _plain(task["id"]),
            _tiers(task),
            _plain(task["state"]),
            _plain(task["current_phase"] or "-"),
            _of(totals["tokens"], _count),
            _of(totals["latency_ms"], _seconds),
            _dollars(totals["cost_usd"]["used"]),
            _standing(task),
        )
    return table


def print_task(console: Console, task: Body) -> None:
    """Print what is known of a task."""
    head = Text(one_line(task["id"]), style="bold")
    console.print(Text.assemble(head, "  ", _tiers(task), f"  {one_line(task['state'])}"))
    console.print(Text.assemble("status ", _standing(task), f", {task['open_calls']} calls open"))
    stop = task["stop_loss"]
    if stop["state"] in _STOPS:
        mends = stop["remediation"] or "-"
        console.print(one_line(f"stopped since {stop['since']}: {stop['code']} ({mends})"))
    whole = {"phase": "all", **task["totals"], "status": task["status"]}
    console.print(phases_table((*task["phases"], whole)))
    for line in overrides_of(task["overrides"]):
        console.print(line)


def phases_table(phases: Iterable[Body]) -> Table:
    """Return a line for each phase."""
    table = _table("phase", "tokens", "latency", "cost", "calls", "executions", "status")
    for phase in phases:
        not_started = phase.get("not_started")
        table.add_row(
            _plain(phase["phase"]),
            _of(phase["tokens"], _count),
            _of(phase["latency_ms"], _seconds),
            _dollars(phase["cost_usd"]["used"]),
            _plain(_count(phase["calls"]["used"])),
            _plain(str(len(phase["executions"])) if "executions" in phase else ""),
            _plain("not started") if not_started else _coloured(phase["status"]),
        )
    return table


def overrides_of(overrides: Iterable[Body]) -> Iterator[str]:
    """Yield a line for each override."""
    for override in overrides:
        state = "in force" if override["in_force"] else "over"
        yield one_line(
            f"{override['created']}  {override['kind']} by {override['approver']} ({state}): "
            f"{override['reason']}"
        )


def _tiers(task: Body) -> Text:
    return _plain(f"{task['complexity']}/{task['importance']}")


def _standing(task: Body) -> Text:
    stop = task["stop_loss"]["state"]
    return Text(one_line(stop), style="red") if stop in _STOPS else _coloured(task["status"])


def _coloured(status: str | None) -> Text:
    return Text(one_line(status or "-"), style=_COLOURS.get(status or "", ""))


def _of(total: Body, shown: Callable[[int], str]) -> Text:
    """Return used / limit and the share."""
    used, limit, percent = total["used"], total["limit"], total["percent"]
    if limit is None:
        return _plain(shown(used))
    share = "-" if percent is None else percent
    return _plain(f"{shown(used)} / {shown(limit)} ({share}%)")


def _count(amount: int) -> str:
    return f"{amount:,}"


def _seconds(amount_ms: int) -> str:
    return f"{amount_ms // _MS:,}s"


def _dollars(amount: Any) -> Text:
    return _plain(f"${amount}")


def _plain(text: str) -> Text:
    return Text(one_line(text))


def _table(*columns: str) -> Table:
    """Return a table that is folded where it is too wide: nothing is left out."""
    return Table(*(Column(column, overflow="fold") for column in columns))
