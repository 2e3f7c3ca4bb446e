"""What a stream tells of its task's budget at its end."""

import pytest

from gateway.core.admission import Balance
from gateway.core.budget import TokenWeights
from gateway.core.budget_comment import BudgetComment
from gateway.core.usage import Usage

BALANCE = Balance(1_000, 200, 1_400, 1_400, 2_000, settled=500, held=100)


@pytest.mark.parametrize(
    ("usage", "used", "remaining", "status"),
    [
        (Usage(input_total=20, output_total=30), 550, 550, "within"),
        (None, 540, 560, "within"),
        (Usage(input_total=800), 1_300, 0, "warning"),
        (Usage(input_total=1_000), 1_500, 0, "exceeded"),
    ],
)
def test_the_call_itself_is_counted_in(
    usage: Usage | None, used: int, remaining: int, status: str
) -> None:
    """As reported, else as held; others' open calls are no part of what remains."""
    comment = BudgetComment("T.1", "PLAN", BALANCE, 40, TokenWeights())
    assert comment.line(usage).decode() == (
        f": tollgate task=T.1 phase=PLAN used={used} limit=1200 remaining={remaining} "
        f"status={status}\n"
    )
