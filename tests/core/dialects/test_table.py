"""The table of dialects."""

from gateway.core.dialects.table import WIRE_FORMATS
from gateway.core.identity import Dialect
from gateway.core.socket_events import SOCKET_FORMATS


def test_every_dialect_but_the_unmetered_has_a_wire_format() -> None:
    """A route that is told apart is read, over HTTP or over a WebSocket."""
    assert set(Dialect) - set(WIRE_FORMATS) - set(SOCKET_FORMATS) == {Dialect.UNMETERED}
