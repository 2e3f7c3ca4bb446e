"""Values that a JSON schema of the API's description allows, as hypothesis strategies."""

from typing import Any

from hypothesis import strategies as st

from gateway.admin.api import ALL_ENDPOINTS
from gateway.admin.openapi import document

DOCUMENT = document(ALL_ENDPOINTS, "1.2.3")
_PREFIX = "#/components/schemas/"
_INTEGERS = (-(2**53), 2**53)
_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return values that `schema` allows; of what it does not say, anything."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_PREFIX)
        return st.deferred(lambda: values(DOCUMENT["components"]["schemas"][name]))
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return st.one_of(*(values(one) for one in schema[word]))
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    makers = {
        "string": _strings,
        "integer": _integers,
        "number": _numbers,
        "array": _arrays,
        "object": _objects,
        "boolean": lambda _: st.booleans(),
        "null": lambda _: st.none(),
    }
    return makers[schema["type"]](schema) if "type" in schema else ANYTHING


def _strings(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    if "pattern" in schema:
        return st.from_regex(schema["pattern"], fullmatch=True)
    least = schema.get("minLength", 0)
    return st.text(min_size=least, max_size=min(schema.get("maxLength", 40), least + 40))


def _integers(schema: dict[str, Any]) -> st.SearchStrategy[int]:
    least, most = schema.get("minimum", _INTEGERS[0]), schema.get("maximum", _INTEGERS[1])
    return st.integers(least, most)


def _numbers(schema: dict[str, Any]) -> st.SearchStrategy[float]:
    least = schema.get("minimum", schema.get("exclusiveMinimum", -1e9))
    return st.floats(least, schema.get("maximum", 1e9), allow_nan=False)


def _arrays(schema: dict[str, Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values(schema.get("items", {})), max_size=3)


def _objects(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    members = schema.get("properties", {})
    required = {name: values(members[name]) for name in schema.get("required", ())}
    optional = {name: values(one) for name, one in members.items() if name not in required}
    if not members and isinstance(schema.get("additionalProperties"), dict):
        return st.dictionaries(_TEXT, values(schema["additionalProperties"]), max_size=2)
    return st.fixed_dictionaries(required, optional=optional)
