"""What the demo tells: lines and tables, in colour on a terminal only."""

import os
import sys
import textwrap
from collections.abc import Mapping
from typing import Any, TextIO

_COLOURS = {"allow": "32", "flag": "33", "refuse": "31;1", "title": "1", "dim": "2"}
_WIDTH = 96


class Narrator:
    """Writes to a stream. Amounts of the gateway's headers come as they are, as texts."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out
        self._coloured = out.isatty() and "NO_COLOR" not in os.environ

    def say(self, text: str = "") -> None:
        """Tell something, a line for each of its lines."""
        print(text, file=self._out, flush=True)

    def title(self, text: str) -> None:
        """Begin a part of the story."""
        self.say()
        self.say(self._in("title", text))

    def quote(self, label: str, text: str) -> None:
        """Show a value with its name; a long one goes on below itself."""
        first, *rest = textwrap.wrap(text, _WIDTH - 14) or [""]
        self.say(f"  {label:<11} {first}")
        for line in rest:
            self.say(f"  {'':<11} {line}")

    # Calls...

    def call_head(self) -> None:
        """Head the list of calls."""
        head = f"  {'phase':<11}{'the agent ...':<34}{'tokens':>12}  {'decision':<9}"
        self.say(self._in("dim", f"{head}{'used / limit, before':>24}"))

    def call(self, phase: str, doing: str, tokens: str, headers: Mapping[str, str]) -> None:
        """Tell of one call what the gateway's headers say."""
        outcome = headers.get("x-tollgate-decision", "?")
        used = _thousands(headers.get("x-budget-task-tokens-used", "?"))
        limit = _thousands(headers.get("x-budget-task-tokens-limit", "?"))
        percent = headers.get("x-budget-pressure", "?")
        decision = self._in(outcome, f"{outcome:<9}")
        balance = f"{used:>10} / {limit:<7}{percent:>4}%"
        self.say(f"  {phase:<11}{doing:<34}{tokens:>12}  {decision}{balance}")

    # The task...

    def task(self, task: Mapping[str, Any]) -> None:
        """Show a task as the admin API tells of it."""
        head = f"  {'':<11}{'tokens':>8}{'limit':>9}{'used':>6}{'calls':>7}{'latency':>11}  status"
        self.say(self._in("dim", head))
        for phase in task["phases"]:
            if not phase["not_started"]:
                self.say(self._row(phase["phase"], phase, phase["status"]))
        stop = task["stop_loss"]
        state = task["status"] + ("" if stop["state"] == "ok" else f", {stop['state']}")
        self.say(self._row("task", task["totals"], state))

    def _row(self, name: str, totals: Mapping[str, Any], status: str) -> str:
        tokens = totals["tokens"]
        # What was granted counts with the limit, as in the headers.
        limit = tokens["limit"] + tokens["granted"]
        numbers = f"{tokens['used']:>8,}{limit:>9,}{tokens['percent']:>5}%"
        colour = {"within": "allow", "warning": "flag"}.get(status, "refuse")
        return (
            f"  {name:<11}{numbers}{totals['calls']['used']:>7}"
            f"{totals['latency_ms']['used']:>8,} ms  {self._in(colour, status)}"
        )

    def _in(self, colour: str, text: str) -> str:
        code = _COLOURS.get(colour)
        return f"\x1b[{code}m{text}\x1b[0m" if self._coloured and code else text


def _thousands(text: str) -> str:
    return f"{int(text):,}" if text.isdigit() else text
