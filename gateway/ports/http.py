"""HTTP as the data path sees it: requests, clients, upstreams, and answers of our own."""

from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct

from gateway.core.errors import UpstreamError
from gateway.core.headers import Headers
from gateway.core.identity import ErrorShape


class Request(Struct, frozen=True):
    """A whole request as it came: the target undecoded, headers in order, the body's bytes."""

    method: bytes
    target: bytes
    headers: Headers
    body: bytes
    received_at: float


class Downstream(Protocol):
    """One call's way back to its client. Methods never block and never raise."""

    @property
    def is_open(self) -> bool:
        """Return whether the client is still there."""

    def start(self, status: int, headers: Headers, budget_lines: str, length: int | None) -> None:
        """Send the status line and headers; `length` None means that the end is not known yet."""

    def write(self, data: bytes) -> None:
        """Send body bytes."""

    def finish(self) -> None:
        """End the answer; the connection may serve the next call."""

    def send(self, answer: "Answer", budget_lines: str) -> None:
        """Send a whole answer of the gateway's own."""

    def abort(self) -> None:
        """Cut the connection: the client must see that the answer is not whole."""

    def attach(self, flow: "Flow") -> None:
        """Tell `flow` from now on when the client reads too slowly, catches up or goes away."""


class Flow(Protocol):
    """Who wants to know how the client is doing."""

    def client_is_slow(self) -> None:
        """Take note that the client's buffers are full: stop reading from the provider."""

    def client_caught_up(self) -> None:
        """Go on reading from the provider."""

    def client_left(self) -> None:
        """Take note that the client has closed the connection."""


class ResponseSink(Protocol):
    """Who receives a provider's answer. Called from the connection's `data_received`."""

    def on_head(self, status: int, headers: Headers, length: int | None) -> None:
        """Take the status and headers; `length` is the body's size in bytes if it is stated."""

    def on_body(self, data: bytes) -> None:
        """Take body bytes, transfer coding already taken off."""

    def on_end(self) -> None:
        """Take note that the answer is complete."""

    def on_broken(self, error: UpstreamError) -> None:
        """Take note that the answer will never be complete."""


class Exchange(Protocol):
    """One request on one upstream connection."""

    def send(self, method: bytes, target: bytes, headers: Headers, body: bytes) -> None:
        """Write the request. `Host` and framing headers are made here; what is sent cannot fail."""

    def pause(self) -> None:
        """Stop reading the answer."""

    def resume(self) -> None:
        """Go on reading the answer."""

    def cancel(self) -> None:
        """Close the connection without waiting for the answer's end; the sink hears no more."""


class Upstreams(Protocol):
    """The providers, by name."""

    def has(self, name: str) -> bool:
        """Return whether `name` is configured."""

    async def connect(self, name: str, sink: ResponseSink) -> Exchange:
        """Return an exchange on an idle or new connection.

        Raises UpstreamError (`upstream_unreachable`, `upstream_busy`) with `sent` False.
        """


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the gateway's own, worded."""

    status: int
    headers: Headers
    body: bytes


class Wording(Protocol):
    """Who words our own answers."""

    def answer(
        self,
        code: str,
        message: str,
        shape: ErrorShape,
        call_id: str,
        refusal_status: int | None = None,
        task: str = "",
    ) -> Answer:
        """Return the answer for a code of the outward contract, in the caller's error shape.

        `refusal_status` replaces the gateway's own for refusals; those for a budget say where the
        report of `task` is.
        """
