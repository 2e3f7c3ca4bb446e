"""Where a call goes next when its upstream fails before the client has a byte (`docs/routing.md`).

Each attempt is a call of its own to the store: its hold is given back when it is passed over.
"""

import asyncio

from msgspec import Struct, structs

from gateway.call import Call
from gateway.core.errors import UpstreamError
from gateway.core.headers import Headers
from gateway.core.routing import CONNECT, Routing, passes_over
from gateway.relay import Relay

_REST_BYTES = 65_536
_REST_S = 5.0


class Attempt(Struct, frozen=True):
    """A call at one upstream; `fallback_on` says what turns it to the next, empty at the last."""

    call: Call
    fallback_on: tuple[str, ...] = ()

    @property
    def follows_no_connection(self) -> bool:
        """Return whether the next upstream is tried when this one cannot be connected to."""
        return CONNECT in self.fallback_on

    def of(self, call: Call) -> "Attempt":
        """Return the attempt at the call as it was reserved: maybe with another model."""
        return self if call is self.call else structs.replace(self, call=call)


def attempts(call: Call, routing: Routing) -> tuple[Attempt, ...]:
    """Return the call as it goes to its upstream, then to each that stands in.

    Upstreams that the call's gateway key does not allow are left out. Call ids end in `.2`, `.3`
    and so on from the second on.
    """
    names = routing.fallbacks(call.route)
    if call.key is not None:
        names = tuple(name for name in names if call.key.allows_upstream(name))
    if not names:
        return (Attempt(call),)
    turned = [
        structs.replace(
            call, call_id=f"{call.call_id}.{number}", route=routing.turned(call.route, name)
        )
        for number, name in enumerate(names, 2)
    ]
    fallback_on = routing.fallback_on(call.route)
    return (
        *(Attempt(each, fallback_on) for each in (call, *turned[:-1])),
        Attempt(turned[-1]),
    )


class Gate:
    """A ResponseSink in front of a relay while there is an upstream left to try.

    It stops an answer that is to be passed over, and lets any other through. A provider's
    connection is kept if the rest of such an answer is short.
    """

    def __init__(self, relay: Relay, fallback_on: tuple[str, ...]) -> None:
        self._relay = relay
        self._fallback_on = fallback_on
        self._is_shut = False
        self._rest_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def on_head(self, status: int, headers: Headers, length: int | None) -> None:
        """Let a head through, or pass the answer over for its status."""
        if not passes_over(status, self._fallback_on) or self._relay.client_left_early:
            self._relay.on_head(status, headers, length)
            return
        self._is_shut = True
        self._relay.pass_over(str(status))
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_REST_S, self._relay.cancel_rest)

    def on_body(self, data: bytes) -> None:
        """Let bytes through, or drop a few."""
        if not self._is_shut:
            self._relay.on_body(data)
            return
        self._rest_bytes += len(data)
        if self._rest_bytes > _REST_BYTES:
            self._forget_rest()
            self._relay.cancel_rest()

    def on_end(self) -> None:
        """End the answer."""
        if self._is_shut:
            self._forget_rest()
        else:
            self._relay.on_end()

    def on_broken(self, error: UpstreamError) -> None:
        """Pass over what was never sent; whatever else broke is the client's to know."""
        if self._is_shut:
            self._forget_rest()
        elif error.sent or CONNECT not in self._fallback_on:
            self._relay.on_broken(error)
        else:
            self._is_shut = True
            self._relay.pass_over(error.code)

    def _forget_rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
