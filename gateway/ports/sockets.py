"""WebSockets as the data path sees them."""

from dataclasses import dataclass
from typing import Protocol

from gateway.core.headers import Headers
from gateway.ports.http import Answer


class SocketSink(Protocol):
    """Who receives what comes over one end of a WebSocket. Called from `data_received`."""

    def on_message(self, message: str | bytes) -> None:
        """Take a whole message, text or binary."""

    def on_close(self, code: int, reason: str) -> None:
        """Take note that nothing more comes: the end closed, with its code, or was lost (1006)."""

    def on_slow(self) -> None:
        """Take note that what is sent there is not read."""

    def on_caught_up(self) -> None:
        """Take note that it is read again."""

    def on_leaving(self) -> None:
        """Take note that the gateway shuts down: close when what is open has ended."""


class Socket(Protocol):
    """One end of a WebSocket. Methods never block and never raise."""

    @property
    def is_open(self) -> bool:
        """Return whether messages can still be sent."""

    def attach(self, sink: SocketSink) -> None:
        """Give what comes to `sink` from now on; at once, if the end is gone already."""

    def send(self, message: str | bytes) -> None:
        """Send a message."""

    def close(self, code: int, reason: str) -> None:
        """Close behind what was sent; the sink hears no more."""

    def pause(self) -> None:
        """Stop reading."""

    def resume(self) -> None:
        """Go on reading."""


class ClientEnd(Socket, Protocol):
    """The client's end: before it is accepted, its handshake can be answered with HTTP."""

    def accept(self, headers: Headers, lines: str) -> None:
        """Accept the handshake with the provider's headers and `lines` of ours."""

    def refuse(self, answer: Answer, lines: str) -> None:
        """Answer the handshake with HTTP, and close."""


@dataclass(frozen=True, slots=True)
class OpenedSocket:
    """A provider's end and the headers of its handshake, the subprotocol among them."""

    socket: Socket
    headers: Headers


class SocketUpstreams(Protocol):
    """The providers, as far as they are spoken to over WebSockets."""

    async def open_socket(
        self, name: str, target: bytes, headers: Headers
    ) -> OpenedSocket | Answer:
        """Return a provider's open end, or the HTTP answer with which it refused the handshake.

        Nothing is read from it until it is attached. Raises UpstreamError with `sent` False.
        """
