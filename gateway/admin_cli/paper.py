"""What tables and lines for people are printed on."""

import os
import sys

from rich.console import Console

_PIPED_COLUMNS = 10_000


def paper() -> Console:
    """Return standard output, which takes nothing for markup.

    A line is broken where a terminal, or COLUMNS, ends it. What is piped on is searched line by
    line: there a row is one.
    """
    is_ended = sys.stdout.isatty() or "COLUMNS" in os.environ
    width = None if is_ended else _PIPED_COLUMNS
    return Console(highlight=False, markup=False, emoji=False, width=width)
