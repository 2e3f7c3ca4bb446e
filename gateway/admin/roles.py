"""Who may do what on the admin plane: tokens with names and roles, of which digests are kept."""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.core.vocabulary import Vocabulary

MAIN_TOKEN = "admin"  # the name of the token of admin.token, which may do everything  # noqa: S105


class Role(Vocabulary):
    """What a token is good for: to look; to act on tasks too; everything."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def may(self, least: "Role") -> bool:
        """Return whether this role is enough where `least` is needed."""
        return _ORDER.index(self) >= _ORDER.index(least)


_ORDER = (Role.VIEWER, Role.OPERATOR, Role.ADMIN)


@dataclass(frozen=True, slots=True)
class AdminAccess:
    """A token, by the SHA-256 of its text in hexadecimal: who has it is `name`."""

    name: str
    role: Role
    sha256: str = field(repr=False)


def token_digest(token: bytes) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(token).hexdigest()


def main_access(token: str) -> AdminAccess:
    """Return the access that the one token of `admin.token` gives."""
    return AdminAccess(MAIN_TOKEN, Role.ADMIN, token_digest(token.encode()))


def find_access(accesses: Iterable[AdminAccess], token: bytes) -> AdminAccess | None:
    """Return whose token this is, None for nobody's; as quick, whichever it is."""
    digest, found = token_digest(token), None
    for access in accesses:
        if hmac.compare_digest(digest, access.sha256):
            found = access
    return found
