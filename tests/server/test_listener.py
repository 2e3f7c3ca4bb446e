"""A listener's end: who is connected is served, who is not is refused."""

import socket
from collections.abc import Iterator

import pytest

from gateway.server.listener import begin_no_more, take_queued


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        opened.setblocking(False)
        yield opened


def connect(listener: socket.socket, timeout_s: float) -> socket.socket:
    return socket.create_connection(listener.getsockname(), timeout_s)


def test_all_that_wait_are_taken(listener: socket.socket) -> None:
    """In order, and able to talk; then there are none."""
    clients = [connect(listener, 30) for _ in range(5)]
    taken = take_queued(listener)
    assert [each.getpeername() for each in taken] == [each.getsockname() for each in clients]
    for each in (*taken, *clients):
        each.close()
    assert take_queued(listener) == []
    listener.close()
    assert take_queued(listener) == []


def test_nobody_begins_any_more(listener: socket.socket) -> None:
    """Who was connected before still is; who comes is left waiting, and refused at the close."""
    early = connect(listener, 30)
    begin_no_more(listener)
    with pytest.raises(TimeoutError):
        connect(listener, 0.2)
    (taken,) = take_queued(listener)
    early.sendall(b"hello")
    taken.settimeout(30)
    assert taken.recv(5) == b"hello"
    taken.sendall(b"yes")
    assert early.recv(3) == b"yes"
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(early.getpeername(), 30)
    early.close()
    taken.close()
