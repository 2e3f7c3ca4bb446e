"""Upstreams that refuse the wish for usage which we put into streams (`docs/wire.md`).

Not every compatible server takes `stream_options`. One that refuses a request for it has generated
nothing: the request is made once more as the client wrote it, under the same hold.
"""

from collections import OrderedDict
from collections.abc import Callable

from gateway.core.errors import UpstreamError
from gateway.core.headers import Headers
from gateway.ports import ResponseSink
from gateway.relay import Relay

REFUSED = "stream_options"
"""What a relay is passed over for when its upstream refuses the wish."""

_STATUSES = (400, 422)
_NAMED = b"stream_options"
_LONGEST_ERROR_BYTES = 65_536
_REMEMBERED = 1_024  # clients choose the models' names


class UsageWishes:
    """Which upstreams refuse the wish, by model. One a worker, for its life."""

    def __init__(self) -> None:
        self._refused: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._upstreams: set[str] = set()

    def may_ask(self, upstream: str, model: str) -> bool:
        """Return whether a stream may be asked for its usage."""
        return (upstream, model) not in self._refused

    def refused(self, upstream: str, model: str) -> bool:
        """Take note that a request passes only without the wish; True for an upstream's first."""
        self._refused[upstream, model] = None
        if len(self._refused) > _REMEMBERED:
            self._refused.popitem(last=False)
        is_first = upstream not in self._upstreams
        self._upstreams.add(upstream)
        return is_first


class WishGate:
    """A ResponseSink in front of another while a stream carries our wish.

    It holds back an error that may be about the wish until the error's text tells. What it lets
    through costs nothing: its methods are then the other sink's own.
    """

    on_body: Callable[[bytes], None]
    on_end: Callable[[], None]
    on_broken: Callable[[UpstreamError], None]

    def __init__(self, sink: ResponseSink, relay: Relay) -> None:
        self._sink = sink
        self._relay = relay
        self._head: tuple[int, Headers, int | None] = 0, [], None
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._open()

    def on_head(self, status: int, headers: Headers, length: int | None) -> None:
        """Let a head through, or hold it back until its body is there."""
        if status not in _STATUSES or self._relay.client_left_early:
            self._sink.on_head(status, headers, length)
            return
        self._head = status, headers, length
        self.on_body, self.on_end, self.on_broken = self._hold, self._judge, self._break

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > _LONGEST_ERROR_BYTES:
            self._let_through()

    def _judge(self) -> None:
        if _NAMED in b"".join(self._held) and not self._relay.client_left_early:
            self._relay.pass_over(REFUSED)
        else:
            self._let_through()
            self.on_end()

    def _break(self, error: UpstreamError) -> None:
        self._let_through()
        self.on_broken(error)

    def _let_through(self) -> None:
        self._open()
        self._sink.on_head(*self._head)
        for data in self._held:
            self._sink.on_body(data)

    def _open(self) -> None:
        sink = self._sink
        self.on_body, self.on_end, self.on_broken = sink.on_body, sink.on_end, sink.on_broken
