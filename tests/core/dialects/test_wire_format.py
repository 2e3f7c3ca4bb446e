"""What all dialects share."""

import pytest

from gateway.core.dialects.wire_format import has_no_usage, never_usage_only, unless_it_falls
from gateway.core.usage import Usage

FIVE, NINE, NONSENSE = Usage(5), Usage(9), Usage(-1)


@pytest.mark.parametrize(
    ("usage", "earlier", "believed"),
    [
        (None, NINE, None),
        (FIVE, None, FIVE),
        (NINE, FIVE, NINE),
        (FIVE, FIVE, FIVE),
        (FIVE, NINE, None),
        (FIVE, NONSENSE, FIVE),
        (NONSENSE, NINE, NONSENSE),
    ],
)
def test_cumulative_usage_does_not_fall(
    usage: Usage | None, earlier: Usage | None, believed: Usage | None
) -> None:
    """Nonsense is passed on, so that it is seen as such."""
    assert unless_it_falls(usage, earlier) == believed


@pytest.mark.parametrize(
    ("data", "alone"),
    [
        (b'{"delta":"a"}', True),
        (b'{"usage":1}', False),
        (b'{"error":1}', False),
        (b'{"\\u0075sage":1}', False),
    ],
)
def test_events_without_usage(data: bytes, alone: bool) -> None:
    """False where it is not sure."""
    assert has_no_usage(data) is alone
    assert not never_usage_only(data)
