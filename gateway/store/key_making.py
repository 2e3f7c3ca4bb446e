"""New ids and secrets of gateway keys."""

import secrets
import string

from gateway.core.keys import GatewayKey

_ID_LETTERS = string.ascii_lowercase + string.digits
_SECRET_LETTERS = string.ascii_letters + string.digits
_ID_LENGTH, _SECRET_LENGTH = 8, 43  # 43 of 62 letters are 256 bits


def new_id() -> str:
    """Return the public id of a new key."""
    return _random(_ID_LETTERS, _ID_LENGTH)


def new_secret() -> str:
    """Return a secret that nobody can guess."""
    return _random(_SECRET_LETTERS, _SECRET_LENGTH)


def key_text(key: GatewayKey, secret: str) -> str:
    """Return what a client sends: shown once, never kept."""
    return f"tg-{key.id}-{secret}"


def _random(letters: str, length: int) -> str:
    return "".join(secrets.choice(letters) for _ in range(length))
