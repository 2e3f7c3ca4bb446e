"""What a worker lets a task use while the store is away: an outage is no blank cheque."""

from collections import OrderedDict

_MOST_TASKS = 10_000


class LocalAllowance:
    """Tokens per task since the store was last heard of; of too many tasks the oldest go."""

    def __init__(self) -> None:
        self._used: OrderedDict[str, int] = OrderedDict()

    def take(self, task: str, tokens: int, limit: int) -> bool:
        """Take `tokens` for a call if the task's allowance has room for them."""
        used = self._used.get(task, 0)
        if used + tokens > limit:
            return False
        self._used[task] = used + tokens
        if len(self._used) > _MOST_TASKS:
            self._used.popitem(last=False)
        return True

    def renew(self, task: str) -> None:
        """Start again at nothing: the store answered for this task."""
        self._used.pop(task, None)
