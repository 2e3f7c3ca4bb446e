"""Where a host name leads: resolved anew for each connection, checked before one is opened.

A name that somebody else controls must not lead to the machine's own credentials: what is checked
is the address that is connected to, whatever the name said before.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from gateway.core.errors import TollgateError

SocketAddress = tuple[Any, ...]
Found = tuple[socket.AddressFamily, SocketAddress]
Resolve = Callable[[str, int], Awaitable[Sequence[Found]]]

_IP = ipaddress.IPv4Address | ipaddress.IPv6Address

# Link-local ones, AWS and Google over IPv6, Alibaba. 169.254.169.254 is nearly everybody else's,
# metadata.google.internal included.
_BLOCKED = tuple(
    ipaddress.ip_network(text)
    for text in (
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::254/128",
        "fd20:ce::254/128",
        "100.100.100.200/32",
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class BlockedAddressError(TollgateError):
    """A host has no address but such as nothing is sent to."""


def literal(host: str) -> _IP | None:
    """Return the address that `host` is, or None if it is a name."""
    try:
        return _plain(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        return None


def _plain(address: _IP) -> _IP:
    """Return the IPv4 address that an IPv6 one stands for, or else the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address


def is_blocked(host: str) -> bool:
    """Return whether the address `host` is link-local or a cloud's metadata service."""
    address = literal(host)
    return address is not None and any(address in network for network in _BLOCKED)


def allowed(host: str, found: Sequence[Found]) -> Sequence[Found]:
    """Return those addresses of `host` that may be connected to. Raises BlockedAddressError."""
    passed = [each for each in found if not is_blocked(each[1][0])]
    if found and not passed:
        raise BlockedAddressError(
            f"{host} leads to {found[0][1][0]}, link-local or a metadata service, which is "
            "blocked. Remedy: allow_link_local: true, if this provider really is there."
        )
    return passed


def resolver(loop: asyncio.AbstractEventLoop) -> Resolve:
    """Return the system's resolution; an address is taken as it is."""

    async def resolve(host: str, port: int) -> Sequence[Found]:
        if "%" not in host:
            try:
                version = ipaddress.ip_address(host).version
            except ValueError:
                pass
            else:
                if version == 4:  # noqa: PLR2004
                    return [(socket.AF_INET, (host, port))]
                return [(socket.AF_INET6, (host, port, 0, 0))]
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [(socket.AddressFamily(family), address) for family, _, _, _, address in found]

    return resolve
