"""Reading a request's body: one JSON value, exactly as it is written."""

import asyncio
import json
from decimal import Decimal
from typing import NoReturn

from aiohttp import web

from gateway.admin.answers import ApiError

MOST_BODY_BYTES = 64 * 1024
_WAIT_S = 10.0


async def read_json(request: web.Request) -> object:
    """Return the request's JSON value; numbers with a point or exponent come as Decimal.

    Raises ApiError for what is no JSON, for a name that stands twice in an object, and for a body
    that does not come; aiohttp raises for one that is too large.
    """
    body = await _read(request)
    try:
        return json.loads(
            body.decode(),
            parse_float=Decimal,
            parse_constant=_no_constant,
            object_pairs_hook=_unique,
        )
    except (ValueError, ArithmeticError, RecursionError) as error:
        cause = str(error) if isinstance(error, ValueError) else "it cannot be read"
        raise ApiError(
            400, "invalid_json", f"The body is not JSON: {cause}. Remedy: send one JSON object."
        ) from None


async def _read(request: web.Request) -> bytes:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ApiError(415, "unsupported_encoding", "Content-Encoding: send the body unencoded.")
    try:
        async with asyncio.timeout(_WAIT_S):
            return await request.read()
    except TimeoutError:
        raise ApiError(408, "request_timeout", "The request's body did not come in time.") from None
    except (web.RequestPayloadError, ConnectionError):
        raise ApiError(400, "invalid_body", "The request's body did not come whole.") from None


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} stands twice in one object")
        found[name] = value
    return found
