"""One notice to one webhook: signed, posted, and no further than to where the policy says."""

import asyncio
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gateway.core.errors import TollgateError
from gateway.core.webhook import WebhookPolicy, signature
from gateway.upstream.addresses import BlockedAddressError, Resolve, allowed, resolver

if TYPE_CHECKING:
    from aiohttp import ClientSession
    from aiohttp.abc import AbstractResolver, ResolveResult

_SUCCESS = range(200, 300)
_REDIRECTS = range(300, 400)


class DeliveryError(TollgateError):
    """A notice that was not taken; the message says why, without the URL."""


class WebhookSender:
    """Posts notices. It belongs to the event loop that it is first used in; `close` it there."""

    def __init__(self, resolve: Resolve | None = None) -> None:
        self._resolve = resolve
        self._sessions: dict[bool, ClientSession] = {}

    async def send(
        self, webhook: WebhookPolicy, notice_id: str, kind: str, body: bytes, now_s: int
    ) -> None:
        """Post one notice; return when the receiver has taken it. Raises DeliveryError."""
        secret = await asyncio.to_thread(read_secret, webhook)
        headers = {
            "content-type": "application/json",
            "user-agent": "tollgate",
            "x-tollgate-event-id": notice_id,
            "x-tollgate-event": kind,
            "x-tollgate-timestamp": str(now_s),
            "x-tollgate-signature": f"sha256={signature(secret, now_s, body)}",
        }
        try:
            async with asyncio.timeout(webhook.timeout_ms / 1000):
                status = await self._post(webhook, headers, body)
        except TimeoutError:
            raise DeliveryError(f"no answer within {webhook.timeout_ms} ms") from None
        if status in _REDIRECTS:
            raise DeliveryError(f"answered {status}: redirects are not followed")
        if status not in _SUCCESS:
            raise DeliveryError(f"answered {status}")

    async def _post(self, webhook: WebhookPolicy, headers: dict[str, str], body: bytes) -> int:
        from aiohttp import ClientError  # 12 MB that a writer without webhooks does not need

        try:
            if not webhook.allow_link_local:
                host = urlsplit(webhook.url).hostname or ""
                allowed(host, [(socket.AF_UNSPEC, (host,))])  # an address is not resolved any more
            session = self._session(any_address=webhook.allow_link_local)
            async with session.post(
                webhook.url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                return answer.status
        except BlockedAddressError as error:
            raise DeliveryError(str(error)) from None
        except (ClientError, OSError, UnicodeError, ValueError) as error:
            raise DeliveryError(type(error).__name__ + _cause(error)) from None

    def _session(self, *, any_address: bool) -> "ClientSession":
        from aiohttp import ClientSession, TCPConnector

        if any_address not in self._sessions:
            checked = _checked_resolver(self._resolve, any_address=any_address)
            # Each connection is opened anew: notices are rare, and names move.
            connector = TCPConnector(resolver=checked, use_dns_cache=False, force_close=True)
            self._sessions[any_address] = ClientSession(connector=connector, trust_env=False)
        return self._sessions[any_address]

    async def close(self) -> None:
        """Close what is open."""
        for session in self._sessions.values():
            await session.close()


def _cause(error: Exception) -> str:
    """Return what went wrong with a connection, without what it was opened for."""
    number = getattr(error, "errno", None)
    return f" ({os.strerror(number)})" if isinstance(number, int) and number > 0 else ""


def _checked_resolver(resolve: Resolve | None, *, any_address: bool) -> "AbstractResolver":
    """Return a resolution that gives no address which is blocked (as for upstreams)."""
    from aiohttp.abc import AbstractResolver

    class Checked(AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> "list[ResolveResult]":
            find = resolve or resolver(asyncio.get_running_loop())
            found = await find(host, port)
            passed = found if any_address else allowed(host, found)
            return _results(host, port, passed)

        async def close(self) -> None:
            """Nothing is open."""

    return Checked()


def _results(
    host: str, port: int, found: Sequence[tuple[socket.AddressFamily, tuple[object, ...]]]
) -> "list[ResolveResult]":
    return [
        {
            "hostname": host,
            "host": str(address[0]),
            "port": port,
            "family": family,
            "proto": 0,
            "flags": socket.AI_NUMERICHOST,
        }
        for family, address in found
    ]


def read_secret(webhook: WebhookPolicy) -> bytes:
    """Return what a webhook's notices are signed with, read anew each time. Raises DeliveryError.

    Nothing is ever sent unsigned.
    """
    if webhook.secret_env:
        secret = os.environ.get(webhook.secret_env, "").strip().encode()
        source = f"the variable {webhook.secret_env}"
    else:
        source = webhook.secret_file
        try:
            secret = Path(webhook.secret_file).read_bytes().strip()
        except OSError as error:
            raise DeliveryError(f"{source} cannot be read: {error.strerror}") from None
    if not secret:
        raise DeliveryError(f"{source} holds no secret")
    return secret
