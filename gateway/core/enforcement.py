"""The switch of enforcement: thrown while the gateways run, for a whole tenant, at once.

Off, every policy only observes (RBK-2): what it would refuse is flagged and counted. The switch
stands in the store; each process has a copy, which the reserve compares, so that it holds for the
very next call on every gateway.
"""

import msgspec


class SwitchedOff(msgspec.Struct, frozen=True):
    """Who switched enforcement off, why, when, and until when; times are store milliseconds."""

    approver: str
    reason: str
    since_ms: int
    until_ms: int | None = None
    token: str | None = None


class Switch:
    """A process's copy of the switch: the text that the store has, '' while enforcement is on."""

    __slots__ = ("text",)

    def __init__(self, text: str = "") -> None:
        self.text = text

    @property
    def is_off(self) -> bool:
        """Return whether policies only observe."""
        return bool(self.text)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(SwitchedOff).decode


def switch_text(off: SwitchedOff) -> str:
    """Return what the store keeps while enforcement is off."""
    return _encode(off).decode()


def switched_off(text: str) -> SwitchedOff | None:
    """Return what the store's text says; None if enforcement is on."""
    return _decode(text) if text else None
