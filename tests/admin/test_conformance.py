"""The API does as its description says, whatever it is asked: no 5xx, no undocumented answer.

For every operation, requests are made of the description: mostly such as it allows, some with a
value that it does not. Each answer has a status, a media type and a body that the description has.
"""

import json
from typing import Any
from urllib.parse import quote, urlencode

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.admin.api import ALL_ENDPOINTS
from gateway.admin.endpoint import Endpoint
from gateway.admin.examples import REQUEST_EXAMPLES
from gateway.core.statistics import Statistics
from tests.admin.from_schema import ANYTHING, DOCUMENT, values
from tests.admin.plane import Plane, StartPlane
from tests.admin.test_api import path_of
from tests.core.test_statistics import figures_of
from tests.store.agent import Agent

_SEGMENT = st.text(min_size=1, max_size=20).filter(lambda text: text.strip(".") and "/" not in text)
_ROW = {"number": 5, "at_ms": 1_793_611_800_000}
_LINE = {**_ROW, "task": "T", "scope": "task", "name": "T", "dimension": "tokens", "effect": "trip",
         "code": "runaway_task", "used": 9, "allowed": 5, "line": 7, "episode": 1, "phase": None,
         "call_id": "c-1"}  # fmt: skip
_ENTRY = {**_ROW, "actor": "ada", "action": "task.kill", "subject": "T", "reason": "",
          "details": "{}"}  # fmt: skip
ANSWERED_AT_ONCE = [one for one in ALL_ENDPOINTS if one.media_type != "text/event-stream"]


def read_page(table: str, *_: object) -> list[dict[str, Any]]:
    return [_LINE if table == "breaches" else _ENTRY]


def read_statistics(_: str, since_ms: int, until_ms: int, __: bool) -> Statistics:
    return figures_of(since_ms, until_ms)


def read_outbox(*_: object) -> list[dict[str, Any]]:
    return []


@st.composite
def requests(draw: st.DrawFn, endpoint: Endpoint) -> tuple[str, bytes | None]:
    """A path with its query, and a body if the operation takes one."""
    operation = DOCUMENT["paths"][endpoint.path][endpoint.method.lower()]
    path, query = endpoint.path, {}
    for parameter in operation["parameters"]:
        name, allowed = parameter["name"], values(parameter["schema"])
        if parameter["in"] == "path":
            known = {"id": st.just("T"), "phase": st.just("PLAN")}.get(name, allowed)
            text = draw(known | allowed | _SEGMENT)
            path = path.replace(f"{{{name}}}", quote(str(text), safe=""))
        elif parameter.get("required") or draw(st.booleans()):
            query[name] = str(draw(allowed | st.text(max_size=10)))
    body = None
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        body = json.dumps(draw(values(schema) | values(schema) | ANYTHING)).encode()
    return f"{path}?{urlencode(query, errors='replace')}" if query else path, body


async def conforms(admin: Plane, endpoint: Endpoint, path: str, body: bytes | None) -> int:
    """Ask, and hold the answer to the description; return its status."""
    operation = DOCUMENT["paths"][endpoint.path][endpoint.method.lower()]
    answer = await admin.ask(endpoint.method, path, data=body)
    asked = f"{endpoint.method} {path} {body!r}: {answer.status} {answer.text}"
    assert answer.status < 500, asked
    assert str(answer.status) in operation["responses"], asked
    told = operation["responses"][str(answer.status)]["content"]
    media_type = answer.headers["Content-Type"].partition(";")[0]
    assert media_type in told, asked
    content = told[media_type]
    if media_type == "application/json":
        schema = {**content["schema"], "components": DOCUMENT["components"]}
        jsonschema.validate(answer.json, schema, jsonschema.Draft202012Validator)
        if answer.status >= 400:
            codes = endpoint.errors[answer.status]
            assert answer.error["code"] in codes, asked
    return answer.status


@pytest.mark.parametrize("endpoint", ANSWERED_AT_ONCE, ids=lambda endpoint: endpoint.name)
async def test_every_answer_is_a_documented_one(
    plane: StartPlane, agent: Agent, endpoint: Endpoint
) -> None:
    await agent.call("PLAN", 10)
    admin = await plane(
        read_page=read_page,
        read_outbox=read_outbox,
        read_charge=lambda *_: None,
        read_statistics=read_statistics,
    )
    made: list[tuple[str, bytes | None]] = []

    @settings(
        max_examples=5,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(requests(endpoint))
    def draw(request: tuple[str, bytes | None]) -> None:
        made.append(request)

    draw()
    if endpoint.takes is not None:
        for example in REQUEST_EXAMPLES[endpoint.takes].values():
            told = json.dumps(example["value"]).encode()
            status = await conforms(admin, endpoint, path_of(endpoint), told)
            assert status not in (400, 422), "the description's own example is understood"
    for path, body in made:
        await conforms(admin, endpoint, path, body)
