"""API keys that the gateway holds: from a setting, or from a file. No message repeats one."""

import re
from pathlib import Path

from gateway.findings import rule

_KEY = re.compile(r"[!-~]{1,8192}")


def checked_key(value: str) -> str:
    """Return a key that may stand in a header; empty for none."""
    if value and not _KEY.fullmatch(value):
        raise rule(
            "holds a space, a line break or a character beyond ASCII",
            "give the key alone, without Bearer in front",
        )
    return value


def read_key_file(name: str) -> str:
    """Return the key in a file, white space around it left out."""
    try:
        text = Path(name).read_text(encoding="ascii").strip()
    except OSError as error:
        problem = f"{name} cannot be read: {error.strerror}"
        raise rule(problem, "name a file that holds nothing but the key") from None
    except ValueError:
        text = ""
    if not _KEY.fullmatch(text):
        raise rule(f"{name} does not hold a key", "write nothing but the key into it")
    return text
