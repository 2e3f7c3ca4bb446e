"""The Lua scripts as loaded: phase order from the enum, then shared functions, then the script."""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from gateway.core.phases import WorkPhase

NAMES = (
    *("reserve", "settle", "release", "expire", "heartbeat", "override"),
    *("register", "steer", "phase", "audit", "restore", "remember", "correct"),
    *("replace_key", "claim_task", "begin", "note", "record", "bind", "restore_window", "switch"),
)

_PARTS = {
    "limits": ("reserve", "settle", "release", "expire", "heartbeat", "correct"),
    "loop": ("reserve", "settle", "release", "override"),
    "grace": ("reserve", "release"),
}


@dataclass(frozen=True, slots=True)
class Script:
    """One script: its whole source, and the SHA-1 that EVALSHA names it by."""

    name: str
    source: bytes
    sha: str


@cache
def load_script(name: str) -> Script:
    """Return the script `lua/<name>.lua`, ready to load."""
    folder = files("gateway.store") / "lua"
    order = ", ".join(f"{phase.value}={phase.order}" for phase in WorkPhase)
    source = "\n".join(
        (
            f"local ORDER = {{{order}}}",
            (folder / "shared.lua").read_text("utf-8"),
            *(
                (folder / f"{part}.lua").read_text("utf-8")
                for part, scripts in _PARTS.items()
                if name in scripts
            ),
            (folder / f"{name}.lua").read_text("utf-8"),
        )
    ).encode()
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest())
