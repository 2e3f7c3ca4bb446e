"""Upstreams together: patterns, keys, fallbacks. What is wrong is named with its remedy."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import tollgate
from gateway.core.errors import InvalidConfigError
from gateway.settings import data_plane, load_settings
from gateway.settings.routing import routing_doubts

SECRET = "sk-very-secret-word"

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.chdir(tmp_path)

    def write_file(text: str) -> Path:
        file = tmp_path / "gateway.yaml"
        file.write_text(text)
        return file

    return write_file


def faults(file: Path) -> list[str]:
    with pytest.raises(InvalidConfigError) as raised:
        load_settings(file, {})
    return [fault.replace(f"{file}", "FILE") for fault in raised.value.faults]


AZURE = "azure: {base_url: 'https://x.example/openai', provider: azure"


@pytest.mark.parametrize(
    ("upstreams", "said"),
    [
        (
            "openai: {fallback: [azur]}, " + AZURE + ", api_key: k}",
            "upstreams.openai.fallback: there is no upstream 'azur'. Remedy: did you mean 'azure'?",
        ),
        (
            "openai: {fallback: [openai]}",
            "upstreams.openai.fallback: names the upstream itself. Remedy: name another one.",
        ),
        (
            "openai: {fallback: [azure, Azure]}, " + AZURE + ", api_key: k}",
            "upstreams.openai.fallback: names an upstream twice. Remedy: name each once",
        ),
        (
            "openai: {fallback: [anthropic]}, anthropic: {api_key: k}",
            "upstreams.openai.fallback: anthropic takes no dialect that openai takes. Remedy: name "
            "one that does, or set upstreams.anthropic.dialects",
        ),
        (
            "openai: {fallback: [azure]}, " + AZURE + "}",
            "upstreams.azure.api_key: is needed: azure stands in for openai, whose credential it "
            "must not see. Remedy: give it api_key, api_key_file, or api_key: none if it takes",
        ),
        (
            "vllm: {base_url: 'http://10.0.0.5:8000', models: ['llama-*']}",
            "upstreams.vllm.models: would take calls away from openai, whose credential vllm must "
            "not see. Remedy: give it api_key, api_key_file, or api_key: none if it takes calls "
            "without one; or leave out models and call it as /u/vllm/.",
        ),
        (
            "openai: {api_key: a, api_key_file: key}",
            "upstreams.openai.api_key_file: is given beside api_key. Remedy: leave out one",
        ),
        (
            "openai: {api_key_file: nowhere}",
            "upstreams.openai.api_key_file: nowhere cannot be read: No such file or directory. "
            "Remedy: name a file that holds nothing but the key.",
        ),
        (
            "openai: {api_key_file: two-words}",
            "upstreams.openai.api_key_file: two-words does not hold a key. Remedy: write nothing",
        ),
        (
            "openai: {api_key_file: no-ascii}",
            "upstreams.openai.api_key_file: no-ascii does not hold a key. Remedy: write nothing",
        ),
        (
            f"openai: {{api_key: 'Bearer {SECRET}'}}",
            "upstreams.openai.api_key: holds a space, a line break or a character beyond ASCII",
        ),
        (f"openai: {{api_key: [{SECRET}]}}", "upstreams.openai.api_key: "),
        (
            "openai: {auth_header: x-key}",
            "upstreams.openai.auth_header: 'x-key' holds no provider's key. Remedy: did you mean "
            "'x-api-key'? known here: authorization, x-api-key, api-key, x-goog-api-key.",
        ),
        ("openai: {auth_header: 5}", "upstreams.openai.auth_header: must be a valid string"),
        (
            "openai: {dialects: [open-ai]}",
            "upstreams.openai.dialects: 'open-ai' is no family of dialects. Remedy: did you mean",
        ),
        (
            "openai: {fallback_on: [200]}",
            "upstreams.openai.fallback_on: '200' is no failure. Remedy: write connect, 5xx, or a",
        ),
        (
            "openai: {models: ['']}",
            "upstreams.openai.models: '' is no pattern of model names. Remedy: write a name",
        ),
        ("openai: {models: '[a'}", "upstreams.openai.models: is no JSON list. Remedy: write words"),
        ("openai: {models: 5}", "upstreams.openai.models: "),
        ("openai: {models: [true]}", "upstreams.openai.models."),
    ],
)
def test_what_is_wrong_is_named_with_its_remedy(
    write: Write, tmp_path: Path, upstreams: str, said: str
) -> None:
    (tmp_path / "two-words").write_text(f"{SECRET} two")
    (tmp_path / "key").write_text(SECRET)
    (tmp_path / "no-ascii").write_text("sk-ü")
    [fault] = faults(write(f"upstreams: {{{upstreams}}}\n"))
    assert said in fault
    assert SECRET not in fault


@pytest.mark.parametrize(
    "upstreams",
    [
        "openai: {fallback: [azure], api_key: k}, " + AZURE + ", api_key: k, fallback: [openai]}",
        "openai: {fallback: [vllm]}, vllm: {base_url: 'http://10.0.0.5:8000', api_key: none}",
        "openai: {fallback: [eu]}, eu: {base_url: 'https://api.openai.com:443/eu'}",
        "own: {base_url: 'https://api.openai.com', models: [gpt-9]}",
        "openai: {models: [gpt-*, o3]}",
        "openai: {fallback: [aws]}, aws: {base_url: 'https://aws.example', translate: bedrock}",
        "claude: {base_url: 'https://c.example', translate: anthropic, api_key: k, models: ['*']},"
        " anthropic: {fallback: [claude]}, openai: {fallback: [claude]}",
    ],
)
def test_what_is_right(write: Write, upstreams: str) -> None:
    """Two may stand in for each other; one origin, one credential; `none` is a key as well."""
    load_settings(write(f"upstreams: {{{upstreams}}}\n"), {})


def test_a_key_comes_from_the_environment_or_a_file(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And lists with commas, as a variable has them."""
    (tmp_path / "key").write_text(f"  {SECRET}\n")
    monkeypatch.setenv("TOLLGATE_UPSTREAMS__OPENAI__API_KEY", "123456")
    monkeypatch.setenv("TOLLGATE_UPSTREAMS__OPENAI__MODELS", "gpt-*, o3*")
    monkeypatch.setenv("TOLLGATE_UPSTREAMS__ANTHROPIC__MODELS", '["claude-*"]')
    monkeypatch.setenv("TOLLGATE_UPSTREAMS__OPENAI__FALLBACK_ON", "429,503")
    settings = load_settings(write("upstreams: {anthropic: {api_key_file: key}}\n"), {})
    plane = data_plane(settings, "unix:///s")
    assert plane.upstreams["openai"].api_key == "123456"
    assert plane.upstreams["openai"].models == ("gpt-*", "o3*")
    assert plane.upstreams["openai"].fallback_on == ("429", "503")
    assert plane.upstreams["anthropic"].models == ("claude-*",)
    assert plane.upstreams["anthropic"].api_key == SECRET
    assert SECRET not in repr(plane) + repr(settings)


def test_bedrock_is_shown_nobody_s_credential(write: Write) -> None:
    """The translator signs its calls."""
    file = write("upstreams: {aws: {base_url: 'https://aws.example', translate: bedrock}}")
    assert data_plane(load_settings(file, {}), "u").upstreams["aws"].api_key == "none"


PAGE = (Path(__file__).parents[1] / "docs/routing.md").read_text()


@pytest.mark.parametrize(
    "example", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL), ids=lambda text: text.split()[1]
)
def test_the_examples_of_the_page_are_sound(
    write: Write, monkeypatch: pytest.MonkeyPatch, example: str
) -> None:
    """With the keys that they name in the environment; nothing about their routes is doubtful."""
    for variable in re.findall(r"TOLLGATE_\w+__API_KEY", example):
        monkeypatch.setenv(variable, SECRET)
    settings = load_settings(write(example), {})
    assert not list(routing_doubts(settings.upstreams))


def test_patterns_count_in_the_order_of_the_file(write: Write) -> None:
    """Upstreams that exist anyway have no place in front of those that are written."""
    text = (
        "upstreams: {own: {base_url: 'http://o', api_key: k, models: '*'}, openai: {models: '*'}}"
    )
    settings = load_settings(write(text), {})
    assert list(settings.upstreams) == ["own", "openai", "anthropic", "gemini"]


@pytest.mark.parametrize(
    ("first", "second", "is_doubtful"),
    [
        ("['gpt-*']", "['gpt-4*']", True),
        ("['gpt-*']", "['GPT-*']", True),
        ("['*-mini']", "['gpt-*']", True),
        ("['gpt-4*']", "['gpt-*']", False),  # an exception, then the rule
        ("['gpt-*']", "['claude-*']", False),
        ("['gpt-*', 'gpt-4']", "[]", False),
    ],
)
def test_patterns_that_overlap_are_a_doubt(
    write: Write, first: str, second: str, is_doubtful: bool
) -> None:
    text = (
        f"upstreams: {{own: {{base_url: 'http://o', api_key: k, models: {first}}},"
        f" openai: {{models: {second}}}, anthropic: {{models: {second}}}}}"
    )
    doubts = list(routing_doubts(load_settings(write(text), {}).upstreams))
    assert [key for key, _, _ in doubts] == ["upstreams.openai.models"] * is_doubtful


def test_check_says_it_and_tells_no_key(write: Write) -> None:
    file = write(
        f"upstreams: {{own: {{base_url: 'http://o/v1', drop_v1: true, api_key: {SECRET},"
        " models: ['gpt-*']}, openai: {models: ['gpt-4*']}}"
    )
    result = CliRunner().invoke(tollgate, ["check", "--config", str(file)])
    assert "upstreams.openai.models: gpt-4* overlaps with gpt-* of own" in result.output
    assert "ends in /v1" not in result.output
    assert SECRET not in result.output
