"""The API's description: whole, sound, and true to what is served."""

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from gateway.admin import (
    bodies,
    dry_run,
    health,
    history,
    keys,
    policies,
    prices,
    reports,
    sessions,
    statistics,
    verdicts,
)
from gateway.admin.api import ALL_ENDPOINTS, build_admin
from gateway.admin.endpoint import Endpoint
from gateway.admin.examples import ERROR_EXAMPLES, OVERRIDE_EXAMPLES, body_example
from gateway.admin.openapi import document
from gateway.admin.override_requests import parse_override
from gateway.admin.roles import Role
from tests.admin.plane import StartPlane, parts_without_store

DOCUMENT = document(ALL_ENDPOINTS, "1.2.3")
OPERATIONS = [
    (endpoint, DOCUMENT["paths"][endpoint.path][endpoint.method.lower()])
    for endpoint in ALL_ENDPOINTS
]
each_operation = pytest.mark.parametrize(
    ("endpoint", "operation"), OPERATIONS, ids=[endpoint.name for endpoint, _ in OPERATIONS]
)


async def test_it_is_served_without_a_token(plane: StartPlane) -> None:
    answer = await (await plane()).get("/admin/v1/openapi.json", token=None)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.json == json.loads(json.dumps(document(ALL_ENDPOINTS, "9.8.7")))
    assert answer.json["openapi"] == "3.1.0"
    assert answer.json["info"]["version"] == "9.8.7"


async def test_it_has_every_route_and_no_other() -> None:
    """As the router knows them."""
    served = {
        (route.method, route.resource.canonical)
        for route in build_admin(parts_without_store("x")).router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    described = {
        (method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods
    }
    assert described == served
    assert served == {
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
        ("GET", "/admin/v1/tasks"),
        ("POST", "/admin/v1/tasks"),
        ("GET", "/admin/v1/tasks/{id}"),
        ("POST", "/admin/v1/tasks/{id}/overrides"),
        ("POST", "/admin/v1/tasks/{id}/kill"),
        ("POST", "/admin/v1/tasks/{id}/resume"),
        ("POST", "/admin/v1/tasks/{id}/complete"),
        ("POST", "/admin/v1/tasks/{id}/reopen"),
        ("POST", "/admin/v1/tasks/{id}/gate"),
        ("POST", "/admin/v1/tasks/{id}/phases/{phase}/start"),
        ("POST", "/admin/v1/tasks/{id}/phases/{phase}/end"),
        ("POST", "/admin/v1/calls/{call}/correct"),
        ("GET", "/admin/v1/sessions"),
        ("PUT", "/admin/v1/sessions/{session}"),
        ("GET", "/admin/v1/sessions/{session}"),
        ("DELETE", "/admin/v1/sessions/{session}"),
        ("GET", "/admin/v1/remediation"),
        ("GET", "/admin/v1/deliveries"),
        ("GET", "/admin/v1/tasks/{id}/phases"),
        ("GET", "/admin/v1/tasks/{id}/overrides"),
        ("GET", "/admin/v1/breaches"),
        ("GET", "/admin/v1/statistics"),
        ("POST", "/admin/v1/breaches/{call}/false-positive"),
        ("GET", "/admin/v1/tasks/{id}/report"),
        ("GET", "/admin/v1/audit"),
        ("GET", "/admin/v1/events"),
        ("GET", "/admin/v1/enforcement"),
        ("POST", "/admin/v1/enforcement"),
        ("GET", "/admin/v1/policies"),
        ("POST", "/admin/v1/policies/reload"),
        ("POST", "/admin/v1/policies/dry-run"),
        ("GET", "/admin/v1/prices"),
        ("GET", "/admin/v1/keys"),
        ("POST", "/admin/v1/keys"),
        ("GET", "/admin/v1/keys/{key}"),
        ("POST", "/admin/v1/keys/{key}/rotate"),
        ("POST", "/admin/v1/keys/{key}/revoke"),
        ("GET", "/admin/v1/openapi.json"),
    }


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from ([node["$ref"]] if isinstance(node.get("$ref"), str) else [])
        for inner in node.values():
            yield from references(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from references(inner)


def test_every_reference_resolves_and_every_schema_is_used() -> None:
    schemas = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert set(references(DOCUMENT)) == schemas


def test_names_of_operations_are_unique() -> None:
    names = [operation["operationId"] for _, operation in OPERATIONS]
    assert len(set(names)) == len(names)


@each_operation
def test_the_token_is_asked_for_where_it_is_needed(
    endpoint: Endpoint, operation: dict[str, Any]
) -> None:
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert schemes == {"adminToken": {"type": "http", "scheme": "bearer"}}
    assert operation["security"] == ([] if endpoint.public else [{"adminToken": []}])
    assert ("401" in operation["responses"]) is not endpoint.public
    assert ("403" in operation["responses"]) is (
        not endpoint.public and endpoint.least_role is not Role.VIEWER
    )
    if endpoint.uses_store:
        has_store = not endpoint.public or "readyz" in endpoint.path
        assert ("503" in operation["responses"]) is has_store


@each_operation
def test_every_parameter_of_the_path_is_described(
    endpoint: Endpoint, operation: dict[str, Any]
) -> None:
    in_path = {item["name"] for item in operation["parameters"] if item["in"] == "path"}
    assert in_path == set(re.findall(r"{(\w+)}", endpoint.path))
    assert all(item["description"] for item in operation["parameters"])


@each_operation
def test_every_answer_is_described(endpoint: Endpoint, operation: dict[str, Any]) -> None:
    """With a schema, and where there is a model, with an example of it."""
    for status, answer in operation["responses"].items():
        assert answer["description"]
        also = [endpoint.also_as] if endpoint.also_as and int(status) == endpoint.status else []
        media_type, *others = answer["content"]
        content = answer["content"][media_type]
        assert all(told["schema"] for told in answer["content"].values())
        assert others == also
        if int(status) in endpoint.errors:
            assert media_type == "application/json"
            assert set(content["examples"]) == set(endpoint.errors[int(status)])


@pytest.mark.parametrize(
    ("model", "status"),
    [
        (health.LivenessBody, 200),
        (health.ReadinessBody, 200),
        (health.ReadinessBody, 503),
        (bodies.TaskPageBody, 200),
        (bodies.TaskBody, 200),
        (bodies.OverrideAppliedBody, 201),
        (bodies.TaskChangedBody, 200),
        (bodies.GateBody, 200),
        (bodies.PhaseChangedBody, 200),
        (bodies.TaskRegisteredBody, 200),
        (bodies.TaskRegisteredBody, 201),
        (keys.KeysBody, 200),
        (bodies.TaskPhasesBody, 200),
        (bodies.TaskOverridesBody, 200),
        (history.BreachPageBody, 200),
        (statistics.StatisticsBody, 200),
        (verdicts.VerdictBody, 200),
        (reports.ReportBody, 200),
        (history.AuditPageBody, 200),
        (policies.PoliciesBody, 200),
        (dry_run.DryRunBody, 200),
        (prices.PriceBody, 200),
        (keys.KeyBody, 200),
        (keys.KeyMadeBody, 200),
        (keys.KeyMadeBody, 201),
        (sessions.SessionBody, 200),
        (sessions.SessionChangedBody, 200),
    ],
)
def test_examples_of_answers_are_true(model: type[BaseModel], status: int) -> None:
    """They have every field and no other."""
    example = body_example(model, status)
    assert model.model_validate(example).model_dump(mode="json") == example


def test_examples_of_errors_are_true() -> None:
    """Each names its own code, and every code of the table has one."""
    groups = [codes for endpoint in ALL_ENDPOINTS for codes in endpoint.errors.values()]
    assert {code for codes in groups for code in codes} == set(ERROR_EXAMPLES)
    for code, example in ERROR_EXAMPLES.items():
        assert bodies.ErrorBody.model_validate(example["value"]).error.code == code


def test_examples_of_overrides_are_accepted() -> None:
    sent = [json.dumps(example["value"]) for example in OVERRIDE_EXAMPLES.values()]
    kinds = [parse_override(json.loads(text, parse_float=Decimal)).kind for text in sent]
    assert set(kinds) == {"grant", "phase_limit", "multiplier", "resume"}


def test_the_body_of_an_override_is_one_of_four_kinds() -> None:
    operation = DOCUMENT["paths"]["/admin/v1/tasks/{id}/overrides"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema["discriminator"]["propertyName"] == "kind"
    schemas = DOCUMENT["components"]["schemas"]
    required = {
        kind: set(schemas[place.rpartition("/")[2]]["required"])
        for kind, place in schema["discriminator"]["mapping"].items()
    }
    assert required == {
        "grant": {"kind", "approver", "reason"},
        "phase_limit": {"kind", "approver", "reason", "phase"},
        "multiplier": {"kind", "approver", "reason", "factor"},
        "resume": {"kind", "approver", "reason"},
    }
    assert all(
        schemas[place.rpartition("/")[2]]["additionalProperties"] is False
        for place in schema["discriminator"]["mapping"].values()
    )
