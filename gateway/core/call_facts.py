"""What a worker tells the ledger of a call, as it travels: through the journal and the stream.

Both are written as JSON arrays, so fields are only ever appended, each with a default: a shorter
entry is one of an older gateway.
"""

from collections.abc import Mapping

from msgspec import Struct

from gateway.core.usage import NO_USAGE, Usage

MOST_TEXT = 256  # of what clients choose: a model's name, a path


class CallAbout(Struct, frozen=True, array_like=True):
    """What is known before the call is decided. `tags` are those that it named, by kind.

    `complexity` and `importance` are the tiers that it is held to: those of the task's snapshot.
    `config_hash` is of the budgets in force; the task's own is part of its snapshot.
    """

    model: str = ""
    upstream: str = ""
    dialect: str = ""
    method: str = ""
    path: str = ""
    stream: bool = False
    complexity: str = ""
    importance: str = ""
    tags: Mapping[str, str] = {}
    key: str = ""
    policy: str = ""
    mode: str = ""
    policy_hash: str = ""
    config_hash: str = ""


class Standing(Struct, frozen=True, array_like=True, gc=False):
    """S, H and C of one balance as the decision saw it; no line is None."""

    spent: int = 0
    held: int = 0
    line: int | None = None


class CrossedLine(Struct, frozen=True, array_like=True, gc=False):
    """A breach as values; `scope` is task, parent or phase."""

    scope: str
    name: str
    dimension: str
    used: int
    allowed: int
    line: int


class CallOutcome(Struct, frozen=True, array_like=True):
    """What became of a call that was let through. Times in milliseconds.

    `priced` tells whether the model's price was known. The standings are those of the task in
    tokens, latency and money, and of the phase in tokens; None where nothing was asked.
    """

    decision: str = ""
    code: str = ""
    status: int = 0
    would_refuse: bool = False
    usage: Usage = NO_USAGE
    source: str = ""
    priced: bool = False
    model_served: str = ""
    latency_ms: int = 0
    first_byte_ms: int | None = None
    client_left: bool = False
    breaches: tuple[CrossedLine, ...] = ()
    task_tokens: Standing | None = None
    task_latency: Standing | None = None
    task_cost: Standing | None = None
    phase_tokens: Standing | None = None


NO_ABOUT = CallAbout()
NO_OUTCOME = CallOutcome()
