"""Closed sets of words: the base of every enum whose members stand in keys, headers and files."""

from enum import StrEnum


class Vocabulary(StrEnum):
    """A closed set of words. A member is its own text, so it needs no unwrapping where text goes.

    It is hashed and compared as text: an enum's own `__hash__` and `value` are Python functions,
    and the data path looks members up some fifty times a call.
    """

    __hash__ = str.__hash__
