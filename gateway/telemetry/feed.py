"""Events for those who watch: each has a queue of its own, and a slow one loses the oldest."""

import asyncio
from asyncio import Queue
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

FeedEvent = Mapping[str, object]
_MOST_WAITING = 256

# What the ledger has as well, as a crossed line or in the audit: watchers are told from there, of
# all gateways alike, and so only once.
IN_LEDGER = frozenset(
    {
        *("breach_judged", "call_corrected", "override_applied", "report_read"),
        *("enforcement_switched_off", "enforcement_switched_on", "overhead_breaker_tripped"),
        *("key_create", "key_revoke", "key_rotate", "session_bound", "session_unbound"),
        *("stop_loss_tripped", "task_blocked", "task_registered"),
        *("task_completed", "task_killed", "task_reopened", "task_resumed"),
    }
)


def missed(events: int | None) -> FeedEvent:
    """Return the event that tells a watcher how many others it did not get, None if unknown."""
    return {"event": "events_missed", "level": "warning", "missed": events}


class Watcher:
    """One who watches. What is dropped because it is slow is counted, and told."""

    def __init__(self) -> None:
        self._queue: Queue[FeedEvent | None] = Queue(_MOST_WAITING)
        self._missed = 0

    async def take(self, wait_s: float) -> list[FeedEvent | None]:
        """Return the events that wait, else the first that comes within `wait_s`; none if none.

        None among them is the feed's end. If some were dropped, the first says how many.
        """
        taken: list[FeedEvent | None] = []
        if self._queue.empty() and wait_s > 0:
            try:
                async with asyncio.timeout(wait_s):
                    taken.append(await self._queue.get())
            except TimeoutError:
                return taken
        if self._missed:
            taken.insert(0, missed(self._missed))
            self._missed = 0
        while not self._queue.empty():
            taken.append(self._queue.get_nowait())
        return taken

    def put(self, event: FeedEvent | None) -> None:
        """Take an event, in the place of the oldest if there is no room."""
        if self._queue.full():
            self._queue.get_nowait()
            self._missed += 1
        self._queue.put_nowait(event)


class EventFeed:
    """All who watch the events of a process."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()

    def __len__(self) -> int:
        """Return how many watch."""
        return len(self._watchers)

    def publish(self, name: str, level: str, fields: FeedEvent) -> None:
        """Give everybody an event, unless they have it from the ledger."""
        if name in IN_LEDGER:
            return
        for watcher in self._watchers:
            watcher.put({"event": name, "level": level, **fields})

    def close(self) -> None:
        """Tell everybody that nothing more comes."""
        for watcher in self._watchers:
            watcher.put(None)

    @contextmanager
    def watched(self) -> Iterator[Watcher]:
        """Watch for as long as this goes on."""
        watcher = Watcher()
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
