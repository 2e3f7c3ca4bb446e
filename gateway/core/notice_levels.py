"""When a total is near to its limit: the levels at which people are told (SL-13)."""

NOTICE_LEVELS_PERCENT = (50, 80, 90, 100)


def crossed_levels(before: int, after: int, limit: int) -> tuple[int, ...]:
    """Return the notice levels that a settlement from `before` to `after` crossed.

    A settlement is atomic and totals only grow by settlements, so over all gateways each level is
    returned once (SL-13).
    """
    return tuple(
        level for level in NOTICE_LEVELS_PERCENT if before * 100 < level * limit <= after * 100
    )


def levels_of_lower_limit(used: int, before: int | None, limit: int) -> tuple[int, ...]:
    """Return the notice levels that a total is at since its limit is lower than `before`.

    `before` None: there was no limit. No charge crosses these levels any more.
    """
    return tuple(
        level
        for level in NOTICE_LEVELS_PERCENT
        if level * limit <= used * 100 and (before is None or used * 100 < level * before)
    )
