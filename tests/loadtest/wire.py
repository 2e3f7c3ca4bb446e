"""A client that sees every byte, for the tests of the fake provider."""

import asyncio
import contextlib
import json
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

CHAT = "/v1/chat/completions"
HELLO = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}


def request(
    method: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> bytes:
    """The bytes of a request."""
    lines = [f"{method} {target} HTTP/1.1", "host: provider.test"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def chat(headers: dict[str, str] | None = None, **fields: Any) -> bytes:
    """The bytes of a chat request: `HELLO` with these fields over it."""
    return request("POST", CHAT, json.dumps(HELLO | fields).encode(), headers)


@dataclass
class Reply:
    """A parsed answer; `complete` is false if the connection closed before its framing ended."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool = True

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[str]:
        return [event.removeprefix("data: ") for event in self.body.decode().split("\n\n")[:-1]]

    @property
    def chunks(self) -> list[Any]:
        return [json.loads(event) for event in self.events if event != "[DONE]"]


class Wire:
    """One connection. Use as an async context manager."""

    def __init__(self, base_url: str, tls: ssl.SSLContext | None = None) -> None:
        self._url = urlsplit(base_url)
        self._tls = tls

    async def __aenter__(self) -> "Wire":
        self.reader, self.writer = await asyncio.open_connection(
            self._url.hostname, self._url.port, ssl=self._tls
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def ask(self, data: bytes) -> Reply:
        self.writer.write(data)
        return await self.reply(bodiless=data.startswith(b"HEAD"))

    async def head(self) -> Reply:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:-2])
        return Reply(int(lines[0].split()[1]), headers, b"")

    async def reply(self, bodiless: bool = False) -> Reply:
        reply = await self.head()
        if bodiless or reply.status in (100, 204):
            return reply
        try:
            if reply.headers.get("transfer-encoding") == "chunked":
                while chunk := await self.chunk():
                    reply.body += chunk
            elif "content-length" in reply.headers:
                reply.body = await self.reader.readexactly(int(reply.headers["content-length"]))
            else:
                reply.body = await self.reader.read()
        except asyncio.IncompleteReadError as error:
            reply.complete = False
            reply.body = reply.body or error.partial
        return reply

    async def chunk(self) -> bytes:
        """The next chunk of a chunked body, empty for the last."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def is_closed(self) -> bool:
        """Wait for the provider to close; false if it says something instead."""
        return await self.reader.read(1) == b""
