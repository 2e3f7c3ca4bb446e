"""Opens connections to one provider: resolve, check, connect, through a proxy if there is one."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from gateway.core.configuration import UpstreamSettings
from gateway.upstream.addresses import Found, Resolve, SocketAddress, allowed, resolver
from gateway.upstream.http1 import UpstreamConnection
from gateway.upstream.origin import Origin, parse_origin, translator_origin
from gateway.upstream.proxy import Proxy, connect_answer, connect_request, parse_proxy
from gateway.upstream.websocket import ProviderSocket

_READ_BYTES = 4_096

Dialled = UpstreamConnection | ProviderSocket

_T = TypeVar("_T")
_Attempt = Callable[[socket.AddressFamily, SocketAddress], Awaitable[_T]]


class Dialler:
    """The way to the upstream `name`. `origin` is what its requests are made for.

    Raises InvalidConfigError if the base URL or the proxy's URL is of no use.
    """

    def __init__(
        self,
        name: str,
        settings: UpstreamSettings,
        loop: asyncio.AbstractEventLoop,
        resolve: Resolve | None = None,
    ) -> None:
        origin = parse_origin(name, settings.base_url)
        self._socket_path = settings.translator_socket
        if self._socket_path:
            origin = translator_origin(name)
        self._loop = loop
        self._resolve = resolve or resolver(loop)
        self._any_address = settings.allow_link_local
        self._host, self._port = origin.host, origin.port
        self._proxy: Proxy | None = None
        if settings.proxy_url and not self._socket_path:
            self._proxy = parse_proxy(f"upstreams.{name}.proxy", settings.proxy_url)
            if not origin.tls:
                origin = _in_absolute_form(origin, self._proxy)
        self.origin = origin

    async def connect(
        self, connection: Dialled, tls: ssl.SSLContext | None, timeout_s: float
    ) -> None:
        """Open `connection`.

        Raises OSError, UnicodeError or BlockedAddressError if that fails; TimeoutError after
        `timeout_s`, which all addresses share.
        """
        async with asyncio.timeout(timeout_s):
            if self._socket_path:
                await self._loop.create_unix_connection(lambda: connection, self._socket_path)
                return
            if tls is None:
                await self._first_of_all(partial(self._plain, connection), timeout_s)
                return
            sock = await self._first_of_all(self._socket, timeout_s)
            try:
                if self._proxy is not None:
                    await self._tunnel(sock, self._proxy)
            except BaseException:
                sock.close()
                raise
            await self._loop.create_connection(
                lambda: connection,
                sock=sock,
                ssl=tls,
                server_hostname=self._host,
                ssl_handshake_timeout=timeout_s,
            )

    async def _first_of_all(self, attempt: _Attempt[_T], timeout_s: float) -> _T:
        """Try each address until one answers."""
        deadline = self._loop.time() + timeout_s
        found = await self._addresses()
        failures: list[tuple[str, OSError]] = []
        for number, (family, address) in enumerate(found):
            # An address that does not answer must leave time for those behind it.
            share_s = (deadline - self._loop.time()) / (len(found) - number)
            try:
                async with asyncio.timeout(share_s):
                    return await attempt(family, address)
            except OSError as error:
                failures.append((address[0], error))
        if len(failures) == 1:
            raise failures[0][1]
        tried = [f"{address}: {str(error) or 'no answer'}" for address, error in failures]
        raise OSError("; ".join(tried) or "its name has no address")

    async def _plain(
        self,
        connection: Dialled,
        family: socket.AddressFamily,
        address: SocketAddress,
    ) -> None:
        if connection.was_opened:  # in the moment in which its time was up
            raise TimeoutError
        # Not through a socket of ours: what comes at once would be read before we are back.
        await self._loop.create_connection(lambda: connection, *address[:2], family=family)

    async def _addresses(self) -> list[Found]:
        """Return where to connect. Through a proxy the name is the proxy's to resolve."""
        host, port = self._host, self._port
        if self._proxy is not None:
            if not self._any_address:
                allowed(host, [(socket.AF_UNSPEC, (host,))])  # an address is checked all the same
            host, port = self._proxy.host, self._proxy.port
        found = list(await self._resolve(host, port))
        return found if self._any_address else list(allowed(host, found))

    async def _socket(self, family: socket.AddressFamily, address: SocketAddress) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        return sock

    async def _tunnel(self, sock: socket.socket, proxy: Proxy) -> None:
        """Ask the proxy for a way to the provider."""
        request = connect_request(self._host, self._port, proxy.authorization)
        await self._loop.sock_sendall(sock, request)
        answer = b""
        while (problem := connect_answer(answer)) is None:
            data = await self._loop.sock_recv(sock, _READ_BYTES)
            if not data:
                problem = "it closed the connection"
                break
            answer += data
        if problem:
            raise ConnectionError(f"no way through the proxy {proxy}: {problem}")


def _in_absolute_form(origin: Origin, proxy: Proxy) -> Origin:
    return replace(
        origin,
        prefix=b"http://" + origin.host_header + origin.prefix,
        proxy_authorization=proxy.authorization,
    )
