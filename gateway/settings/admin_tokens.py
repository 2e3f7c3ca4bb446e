"""Which admin tokens are too weak to begin with."""

import re

_LEAST_CHARACTERS = 16
_LEAST_DISTINCT = 8
_GUESSED_FIRST = re.compile(
    "password|passwd|passphrase|secret|s3cret|changeme|change|default|example|sample|placeholder|"
    "admin|administrator|root|token|tollgate|gateway|letmein|qwerty|dummy|test|your|here|todo|"
    "0123456789|123456789|12345678|1234|abcdef|xxxx"
)


def weakness(token: str) -> str:
    """Return why a token may be guessed, empty if nothing speaks for it.

    Words that people write in place of a secret count for nothing; what is left of it must look
    random: 16 letters and digits, 8 of them different.
    """
    if len(token) < _LEAST_CHARACTERS:
        return f"is shorter than {_LEAST_CHARACTERS} characters"
    rest = _GUESSED_FIRST.sub("", re.sub("[^a-z0-9]", "", token.lower()))
    if len(rest) < _LEAST_CHARACTERS or len(set(rest)) < _LEAST_DISTINCT:
        return "is easily guessed"
    return ""
