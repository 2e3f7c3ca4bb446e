"""A price list of which an entry is understood when it is first asked for.

Understanding all of some thousand entries would cost each process a third of a second at start and
at every reload.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from gateway.core.price_entry import price_from_entry
from gateway.core.prices import ModelPrice

_OF_SIZE = re.compile(
    r"(?P<provider>[^/]+/)??(?:(?P<quality>low|medium|x?high|max|standard|hd)/)?"
    r"(?P<width>\d{2,5})-x-(?P<height>\d{2,5})/(?P<model>(?!(?:\d+|max)-steps/).+)"
)
_decode_entry = msgspec.json.Decoder().decode


class PriceList(Mapping[str, ModelPrice]):
    """Prices by model name; iterating and counting understand every entry.

    `entries` are the list's, as JSON; `stated` are prices that hold over them.
    """

    def __init__(
        self, entries: Mapping[str, msgspec.Raw], stated: Mapping[str, ModelPrice] | None = None
    ) -> None:
        self.entries = entries
        self._stated = stated or {}
        self._known: dict[str, ModelPrice | None] = {}
        self._sizes = _sizes(entries)

    def under(self, stated: Mapping[str, ModelPrice]) -> "PriceList":
        """Return this list with the stated prices over it."""
        return PriceList(self.entries, stated)

    def __getitem__(self, name: str) -> ModelPrice:
        """Return a model's price. Raises KeyError for one that has none."""
        price = self._stated.get(name) or self._listed(name)
        if price is None:
            raise KeyError(name)
        return price

    def __iter__(self) -> Iterator[str]:
        """Yield the names of all models that have a price."""
        for name in {**self.entries, **self._sizes, **self._stated}:
            if name in self:
                yield name

    def __len__(self) -> int:
        """Return how many models have a price."""
        return sum(1 for _ in self)

    def _listed(self, name: str) -> ModelPrice | None:
        """Return what the list says; remembered, for names that it has."""
        if name in self._known:
            return self._known[name]
        if name not in self.entries and name not in self._sizes:
            return None
        price = self._known[name] = self._understood(name)
        return price

    def _understood(self, name: str) -> ModelPrice | None:
        """Return an entry's price; None for one without, or of a shape that none has."""
        entry: Any = _decode_entry(self.entries.get(name, b"{}"))
        sizes: dict[str, Any] = {
            term: _decode_entry(self.entries[key])
            for term, key in self._sizes.get(name, {}).items()
        }
        try:
            return price_from_entry(entry, sizes) if isinstance(entry, dict) else None
        except (ValueError, TypeError, LookupError, ArithmeticError):
            return None


def _sizes(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the names of a model's entries by quality and size, by the model's own name.

    `azure/hd/1024-x-1792/dall-e-3` is `azure/dall-e-3` asked for `hd/1024x1792`.
    """
    found: dict[str, dict[str, str]] = {}
    for name in names:
        part = _OF_SIZE.fullmatch(name) if "-x-" in name else None
        if part is not None:
            sizes = found.setdefault(f"{part['provider'] or ''}{part['model']}", {})
            size = f"{part['width']}x{part['height']}"
            if part["quality"]:
                sizes[f"{part['quality']}/{size}"] = name
            else:
                sizes.setdefault(f"standard/{size}", name)
    return found
