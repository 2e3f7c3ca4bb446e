"""The end of a listening socket, so that a client is either served or refused, never reset.

A connection is complete before anybody accepts it. One that waits in the queue when the last
process closes the listener would be reset, with its request on the way.
"""

import ctypes
import socket
import struct
from contextlib import suppress

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_LOAD_BYTE, _JUMP_IF_SET, _RETURN = 0x30, 0x45, 0x06  # linux/filter.h
_TCP_FLAGS, _SYN, _ALL = 13, 0x02, 0xFFFF_FFFF
_DROP_SYN = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (_LOAD_BYTE, 0, 0, _TCP_FLAGS),
        (_JUMP_IF_SET, 0, 1, _SYN),
        (_RETURN, 0, 0, 0),
        (_RETURN, 0, 0, _ALL),
    )
)
_INSTRUCTION_BYTES = 8


def take_queued(listener: socket.socket) -> list[socket.socket]:
    """Return the connections that nobody has accepted yet; `listener` must not block."""
    queued = []
    with suppress(OSError):  # BlockingIOError: there are no more
        while True:
            client, _ = listener.accept()
            client.setblocking(False)
            queued.append(client)
    return queued


def begin_no_more(listener: socket.socket) -> None:
    """Let nobody begin to connect, in all processes that have the listener; it stays open.

    The kernel drops what would begin a connection; the client's own repeats it a second later and
    is refused then, if the listener is closed by that time. Connections that were begun go on.
    Raises OSError where the kernel does not do that.
    """
    program = ctypes.create_string_buffer(_DROP_SYN, len(_DROP_SYN))
    count = len(_DROP_SYN) // _INSTRUCTION_BYTES
    listener.setsockopt(
        socket.SOL_SOCKET,
        _SO_ATTACH_FILTER,
        struct.pack("HP", count, ctypes.addressof(program)),
    )
