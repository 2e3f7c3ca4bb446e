"""The API's description, OpenAPI 3.1, made of the route table and the models."""

import json
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, TypeAdapter

from gateway.admin.bodies import ErrorBody
from gateway.admin.endpoint import Endpoint
from gateway.admin.examples import ERROR_EXAMPLES, OVERRIDE_EXAMPLES, REQUEST_EXAMPLES, body_example
from gateway.admin.override_requests import OVERRIDE_REQUEST

_REF = "#/components/schemas/{model}"
_JSON = "application/json"

Schema = dict[str, Any]


def document(endpoints: Iterable[Endpoint], version: str) -> Schema:
    """Return the description of `endpoints`."""
    table = list(endpoints)
    schemas, components = _schemas(table)
    paths: dict[str, Schema] = {}
    for endpoint in table:
        operation = _operation(endpoint, schemas)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tollgate admin API",
            "version": version,
            "description": "Health, metrics, tasks with their budgets, and overrides.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"adminToken": {"type": "http", "scheme": "bearer"}},
        },
    }


def _schemas(endpoints: list[Endpoint]) -> tuple[dict[type[BaseModel] | None, Schema], Schema]:
    """Return a schema by model (None: an override's body), and what they refer to."""
    models: set[type[BaseModel]] = {ErrorBody, *(e.body for e in endpoints if e.body is not None)}
    inputs: list[tuple[type[BaseModel] | None, Any, TypeAdapter[Any]]] = [
        (model, "serialization", TypeAdapter(model))
        for model in sorted(models, key=lambda model: model.__name__)
    ]
    taken = {e.takes for e in endpoints if e.takes is not None}
    inputs += [
        (model, "validation", TypeAdapter(model))
        for model in sorted(taken, key=lambda model: model.__name__)
    ]
    inputs.append((None, "validation", OVERRIDE_REQUEST))
    made, shared = TypeAdapter.json_schemas(inputs, ref_template=_REF)
    told = json.dumps([list(made.values()), shared["$defs"]])
    used = {
        name: schema
        for name, schema in shared["$defs"].items()
        if json.dumps(_REF.format(model=name)) in told  # others: a type shown by a schema of ours
    }
    return {model: schema for (model, _), schema in made.items()}, used


def _operation(endpoint: Endpoint, schemas: Mapping[type[BaseModel] | None, Schema]) -> Schema:
    operation: Schema = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "parameters": list(endpoint.parameters),
        "responses": _responses(endpoint, schemas),
        "security": [] if endpoint.public else [{"adminToken": []}],
    }
    if endpoint.takes_override or endpoint.takes is not None:
        examples = REQUEST_EXAMPLES[endpoint.takes] if endpoint.takes else OVERRIDE_EXAMPLES
        operation["requestBody"] = {
            "required": True,
            "content": {_JSON: {"schema": schemas[endpoint.takes], "examples": examples}},
        }
    return operation


def _responses(endpoint: Endpoint, schemas: Mapping[type[BaseModel] | None, Schema]) -> Schema:
    responses: Schema = {str(int(endpoint.status)): _plain_answer(endpoint)}
    bodies: dict[int, type[BaseModel]] = dict(endpoint.also)
    if endpoint.body is not None:
        bodies[endpoint.status] = endpoint.body
    for status, model in bodies.items():
        content = {"schema": schemas[model], "example": body_example(model, status)}
        responses[str(int(status))] = _answer(HTTPStatus(status).phrase, _JSON, content)
    if endpoint.also_as:
        told = responses[str(int(endpoint.status))]["content"]
        told[endpoint.also_as] = {"schema": {"type": "string"}}
    for status, codes in endpoint.errors.items():
        examples = {code: ERROR_EXAMPLES[code] for code in codes}
        content = {"schema": schemas[ErrorBody], "examples": examples}
        responses[str(status)] = _answer(" or ".join(codes), _JSON, content)
    return dict(sorted(responses.items()))


def _plain_answer(endpoint: Endpoint) -> Schema:
    """Return the description of an answer that has no model."""
    kind = "object" if endpoint.media_type == _JSON else "string"
    return _answer(endpoint.status.phrase, endpoint.media_type, {"schema": {"type": kind}})


def _answer(description: str, media_type: str, content: Schema) -> Schema:
    return {"description": description, "content": {media_type: content}}
