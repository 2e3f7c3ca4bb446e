"""Events for those who watch: each has a queue of its own, and a slow one loses the oldest."""

from asyncio import Queue
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

FeedEvent = Mapping[str, object]
_MOST_WAITING = 256


class Watcher:
    """One who watches. `lost` events were dropped because it was slow."""

    def __init__(self) -> None:
        self._queue: Queue[FeedEvent | None] = Queue(_MOST_WAITING)
        self.lost = 0

    async def next(self) -> FeedEvent | None:
        """Return the next event, None at the end of the feed."""
        return await self._queue.get()

    def put(self, event: FeedEvent | None) -> None:
        """Take an event, in the place of the oldest if there is no room."""
        if self._queue.full():
            self._queue.get_nowait()
            self.lost += 1
        self._queue.put_nowait(event)


class EventFeed:
    """All who watch the events of a process."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()

    def __len__(self) -> int:
        """Return how many watch."""
        return len(self._watchers)

    def publish(self, name: str, level: str, fields: FeedEvent) -> None:
        """Give everybody an event."""
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
