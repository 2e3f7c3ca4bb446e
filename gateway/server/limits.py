"""What clients may cost: the limits of one connection, and what all connections share.

Nothing here has a timer: integers are counted as bytes pass, and `data_server` sweeps once a
second. All counts are a worker's own.
"""

import asyncio
import fcntl
import sys
import termios
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from gateway.core.configuration import DataPlane

_MOST_TURNED_AWAY = 256
_LEAST_READ = 65_536  # what a chunked body whose length nobody knows is taken to want next


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one connection, in bytes and seconds."""

    head_bytes: int
    headers: int
    body_bytes: int
    header_s: float
    idle_s: float
    body_grace_s: float
    body_bytes_per_s: int
    write_stall_s: float
    connections: int
    connections_per_address: int
    socket_ping_s: float
    socket_idle_s: float
    socket_origins: tuple[str, ...]

    @classmethod
    def of(cls, plane: DataPlane) -> "Limits":
        """Return the limits that are configured."""
        return cls(
            head_bytes=plane.max_head_bytes,
            headers=plane.max_headers,
            body_bytes=plane.max_body_bytes,
            header_s=plane.header_timeout_ms / 1000,
            idle_s=plane.idle_timeout_ms / 1000,
            body_grace_s=plane.body_grace_ms / 1000,
            body_bytes_per_s=plane.min_body_bytes_per_s,
            write_stall_s=plane.write_stall_ms / 1000,
            connections=plane.max_connections,
            connections_per_address=plane.max_connections_per_address,
            socket_ping_s=plane.socket_ping_ms / 1000,
            socket_idle_s=plane.socket_idle_ms / 1000,
            socket_origins=plane.websocket_origins,
        )


class BodyReader(Protocol):
    """Whose body waits for room."""

    @property
    def body_left(self) -> int:
        """Return how many bytes of the body are still to come, 0 if that is not known."""

    def go_on(self) -> None:
        """Read on."""


class BodyRoom:
    """The room for request bodies, from their first byte until their call is answered.

    Who finds it full waits, and goes on in the order of coming. Should all room be held by bodies
    that are not whole yet, so that no call could end and make room, one of them goes on regardless.
    """

    def __init__(self, most: int, overshoot: int) -> None:
        self._most = most
        self._overshoot = overshoot
        self._carried = 0
        self._waiting: deque[BodyReader] = deque()
        self._exempt: BodyReader | None = None
        self.used = 0

    @property
    def is_full(self) -> bool:
        """Return whether bodies have to wait."""
        return self.used >= self._most

    @property
    def is_overrun(self) -> bool:
        """Return whether bodies can no longer wait: first packets alone filled the room again."""
        return self.used >= self._most + self._overshoot

    def exempts(self, reader: BodyReader) -> bool:
        """Return whether `reader` is the one that goes on regardless."""
        return reader is self._exempt

    def wait(self, reader: BodyReader) -> None:
        """Let `reader`, which has stopped reading, wait; it is told to go on, maybe at once."""
        self._waiting.append(reader)
        self._wake()

    def complete(self, reader: BodyReader, size: int) -> None:
        """Take note that a body is whole and its call begins."""
        self._carried += size
        if reader is self._exempt:
            self._exempt = None

    def give_back(self, incomplete: int, carried: int) -> None:
        """Free the room of bodies that are dropped or whose calls are answered."""
        self.used -= incomplete + carried
        self._carried -= carried
        self._wake()

    def forget(self, reader: BodyReader) -> None:
        """Take note that `reader` reads no more of its body."""
        if reader is self._exempt:
            self._exempt = None
        if reader in self._waiting:
            self._waiting.remove(reader)
        self._wake()

    def _wake(self) -> None:
        free = self._most - self.used
        while self._waiting and (free > 0 or self._is_stuck()):
            reader = self._waiting.popleft()
            if free <= 0:
                self._exempt = reader
            free -= reader.body_left or _LEAST_READ
            reader.go_on()

    def _is_stuck(self) -> bool:
        return self.is_full and not self._carried and self._exempt is None


class Guest(Protocol):
    """A connection, as those see it that look after all of them."""

    def check_deadlines(self, now: float) -> None:
        """End what takes too long."""

    def end_with_next_answer(self) -> bool:
        """Make the next answer that begins the last one; return whether the client is idle."""

    def close(self) -> None:
        """Close after what is written has gone out."""

    def abort(self) -> None:
        """Close at once."""


class Shared:
    """What the connections of one listener share: their number, the room, the load.

    Those that are turned away are counted apart: they stay a moment, to read why.
    """

    def __init__(self, plane: DataPlane) -> None:
        self.limits = Limits.of(plane)
        self.needs_key = plane.keys_required
        self.room = BodyRoom(plane.max_bytes_in_flight, plane.max_body_bytes)
        self.guests: set[Guest] = set()
        self.none_left = asyncio.Event()
        self.none_left.set()
        self.is_overloaded = False
        self.connections_refused = 0
        self.connections_cut = 0
        self._per_address: dict[str, int] = {}
        self._counted = 0

    def admit(self, guest: Guest, address: str) -> str:
        """Take in a connection and count it; return why it is not counted, empty if it is."""
        self.guests.add(guest)
        self.none_left.clear()
        if self._counted >= self.limits.connections:
            problem = "The gateway has as many connections as it may have."
        elif address and self._per_address.get(address, 0) >= self.limits.connections_per_address:
            problem = "There are too many connections from this address."
        else:
            self._per_address[address] = self._per_address.get(address, 0) + 1
            self._counted += 1
            return ""
        self.connections_refused += 1
        return problem

    @property
    def has_room_to_explain(self) -> bool:
        """Return whether one that is turned away may stay to read why."""
        return len(self.guests) - self._counted <= _MOST_TURNED_AWAY

    def leave(self, guest: Guest, address: str | None) -> None:
        """Let a connection go; one that was not counted has no address."""
        self.guests.discard(guest)
        if address is not None:
            self._counted -= 1
            self._per_address[address] -= 1
            if not self._per_address[address]:
                del self._per_address[address]
        if not self.guests:
            self.none_left.set()


class BodyCount:
    """What came of one body: whether it comes fast enough, and is data for the most part."""

    __slots__ = ("_limits", "_marked", "_since", "_wire", "_without_data")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.begin(0)

    def begin(self, now: float) -> None:
        """Begin to count, at the body's beginning or when it is read again."""
        self._since = now
        self._wire = self._marked = self._without_data = 0

    def add(self, wire: int, data: int, data_in_all: int) -> bool:
        """Count bytes as they came; return whether chunk sizes, extensions, trailers stay small."""
        self._wire += wire
        self._without_data = 0 if data else self._without_data + wire
        most = self._limits.head_bytes
        framing_allowed = most + data_in_all + 8 * min(data_in_all, most)
        return self._without_data <= most and self._wire - data_in_all <= framing_allowed

    def is_slow(self, now: float) -> bool:
        """Return whether too little came since the last look that was a grace period ago."""
        lasts = now - self._since
        if lasts <= self._limits.body_grace_s:
            return False
        came, self._since, self._marked = self._wire - self._marked, now, self._wire
        return came < lasts * self._limits.body_bytes_per_s


class Stall:
    """Whether a client has read nothing for too long of what waits for it."""

    __slots__ = ("_most_s", "_since", "_unsent")

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._unsent = 0
        self._since = 0.0

    def lasts(self, transport: asyncio.Transport, now: float) -> bool:
        """Look once more; return whether it has lasted too long."""
        if not transport.get_write_buffer_size():
            self._unsent = 0
            return False
        unsent = _unsent_bytes(transport)
        if unsent != self._unsent:
            self._unsent, self._since = unsent, now
        return now - self._since > self._most_s


def _unsent_bytes(transport: asyncio.Transport) -> int:
    """Return what waits for the client, in the transport and in the kernel where that tells.

    The kernel takes some MB before the transport hears of a slow client's reading again.
    """
    queued = b""
    with suppress(OSError):
        sock = transport.get_extra_info("socket")
        queued = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    return transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)
