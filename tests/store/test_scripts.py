"""Scripts as loaded: whole, named by what they contain, the same on every gateway."""

import hashlib
import re
from importlib.resources import files

import pytest
import redis

from gateway.core.phases import WorkPhase
from gateway.store.scripts import NAMES, load_script


@pytest.mark.parametrize("name", NAMES)
def test_a_script_is_named_as_the_server_names_it(name: str, redis_client: redis.Redis) -> None:
    """SCRIPT LOAD compiles it and answers the SHA-1 that EVALSHA is going to use."""
    script = load_script(name)
    assert redis_client.script_load(script.source.decode()) == script.sha
    assert hashlib.sha1(script.source, usedforsecurity=False).hexdigest() == script.sha
    assert load_script(name) is script


def test_every_script_file_is_known() -> None:
    """But for what they share."""
    there = {path.name for path in (files("gateway.store") / "lua").iterdir()}
    assert there == {f"{name}.lua" for name in (*NAMES, "shared", "limits", "loop", "grace")}


@pytest.mark.parametrize("name", NAMES)
def test_a_script_begins_with_its_contract(name: str) -> None:
    """Name and version, KEYS, ARGV and what it returns."""
    text = (files("gateway.store") / "lua" / f"{name}.lua").read_text("utf-8")
    head = re.match(r"(--.*\n)+", text)
    assert head is not None
    assert re.match(rf"-- {name} v\d+: ", head[0])
    assert all(word in head[0] for word in ("KEYS", "ARGV", "Returns"))


def test_the_order_of_phases_comes_from_the_enum() -> None:
    """A script knows every phase, in working order."""
    first = load_script("reserve").source.decode().splitlines()[0]
    assert re.findall(r"(\w+)=(\d+)", first) == [
        (phase.value, str(phase.order)) for phase in WorkPhase
    ]
