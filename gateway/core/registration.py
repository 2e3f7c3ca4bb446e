"""What is derived when a task is registered before its first call."""

from gateway.core.phases import Complexity

MOST_ANCESTORS = 4

# CFG-10: the largest change, in files and in changed lines, that is still of that size.
_SCOPES = (
    (Complexity.TINY, 2, 120),
    (Complexity.SMALL, 6, 360),
    (Complexity.MEDIUM, 12, 720),
)


def scope_class(files: int, changed_lines: int) -> Complexity:
    """Return the complexity of a change by its size: the smallest that both counts fit in."""
    for complexity, most_files, most_lines in _SCOPES:
        if files <= most_files and changed_lines <= most_lines:
            return complexity
    return Complexity.LARGE
