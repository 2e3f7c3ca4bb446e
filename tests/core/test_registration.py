"""CFG-10: complexity by the size of a change."""

import pytest

from gateway.core.phases import Complexity
from gateway.core.registration import scope_class


@pytest.mark.parametrize(
    ("files", "changed_lines", "complexity"),
    [
        (0, 0, "Tiny"),
        (2, 120, "Tiny"),
        (3, 120, "Small"),
        (2, 121, "Small"),
        (6, 360, "Small"),
        (7, 1, "Medium"),
        (1, 361, "Medium"),
        (12, 720, "Medium"),
        (13, 1, "Large"),
        (1, 721, "Large"),
    ],
)
def test_CFG10_scope_class(files: int, changed_lines: int, complexity: str) -> None:
    """Both counts must fit; boundaries are within."""
    assert scope_class(files, changed_lines) is Complexity(complexity)
