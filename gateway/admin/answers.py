"""Answers of the admin plane: JSON, and one shape for every error, whoever found it.

{"error": {"code": ..., "message": ..., "field": ...}}
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel

from gateway.admin.parts import PARTS, STORE_WAIT_S
from gateway.core.errors import StoreError, TollgateError
from gateway.store.limits import UnknownTask

_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


class ApiError(TollgateError):
    """A request that ends in an error answer. `details` are further members of the error."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        **details: object,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})
        self.details = details


def json_answer(body: BaseModel, status: int = 200) -> web.Response:
    """Return an answer with a model as its body."""
    return web.Response(
        text=body.model_dump_json(),
        status=status,
        content_type="application/json",
        headers=_HEADERS,
    )


def error_answer(error: ApiError) -> web.Response:
    """Return the answer that tells what went wrong."""
    members = {"code": error.code, "message": error.message, **error.details}
    return web.json_response(
        {"error": members}, status=error.status, headers={**_HEADERS, **error.headers}
    )


@web.middleware
async def shape_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn everything that a handler raises into an error answer of the one shape."""
    try:
        return await handler(request)
    except ApiError as error:
        return error_answer(error)
    except web.HTTPException as error:
        return error_answer(_http_error(request, error))
    except UnknownTask as error:
        message = f"{error}. Remedy: GET /admin/v1/tasks lists those there are."
        return error_answer(ApiError(404, "unknown_task", message, field="id"))
    except StoreError as error:
        return error_answer(_store_unavailable(str(error)))
    except Exception as error:  # the last place where a request's failure can be told
        request.app[PARTS].event(
            "admin_request_failed",
            "error",
            method=request.method,
            path=request.path,
            error=f"{type(error).__name__}: {error}",
        )
        return error_answer(
            ApiError(500, "internal_error", "The request failed; the gateway's log has the cause.")
        )


def _http_error(request: web.Request, error: web.HTTPException) -> ApiError:
    code = _CODES.get(error.status, "bad_request")
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    messages = {
        404: f"There is nothing at {request.path}. See /admin/v1/openapi.json.",
        405: f"{request.method} is not possible here. Allowed: {headers.get('Allow')}.",
    }
    return ApiError(error.status, code, messages.get(error.status, error.reason), headers=headers)


def _store_unavailable(cause: str) -> ApiError:
    return ApiError(
        503,
        "budget_store_unavailable",
        f"The budget store did not do it: {cause}. A change may have been made all the same: look "
        "at the task before you repeat it.",
        headers={"Retry-After": "2"},
    )


@asynccontextmanager
async def store_wait(request: web.Request) -> AsyncIterator[None]:
    """Bound what is asked of the store inside; a store that does not answer is a StoreError."""
    try:
        async with asyncio.timeout(request.app[STORE_WAIT_S]):
            yield
    except TimeoutError:
        raise StoreError("timeout", "the store did not answer in time") from None
