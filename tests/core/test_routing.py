"""Where a call goes, with whose credential, and where next: pure rules."""

import pytest

from gateway.core.configuration import UpstreamSettings
from gateway.core.headers import Headers
from gateway.core.identity import Dialect, ErrorShape, Route
from gateway.core.routing import (
    DEFAULT_UPSTREAM_OF,
    FAMILIES,
    Routing,
    covers,
    doubtful_overlaps,
    drops_v1,
    families_of,
    fits,
    origin_of,
    overlap,
    passes_over,
)

OPENAI = UpstreamSettings("https://api.openai.com", "openai")
CHAT = Route("openai", b"/v1/chat/completions", Dialect.OPENAI_CHAT, ErrorShape.OPENAI_ANTHROPIC)
MESSAGES = Route(
    "anthropic", b"/v1/messages", Dialect.ANTHROPIC_MESSAGES, ErrorShape.OPENAI_ANTHROPIC
)
CLIENT: Headers = [(b"Authorization", b"Bearer sk-client"), (b"X-Other", b"1")]


def upstream(
    url: str = "https://x.example", provider: str = "", **more: object
) -> UpstreamSettings:
    return UpstreamSettings(url, provider, **more)  # type: ignore[arg-type]


def named(name: str, route: Route = CHAT) -> Route:
    return Route(name, route.target, route.dialect, route.error_shape, is_named=True)


# families, versions, origins


def test_families_are_those_of_the_dialects() -> None:
    """Each has an upstream that its calls go to by their path."""
    assert FAMILIES == ("openai", "anthropic", "gemini", "ollama")
    assert set(DEFAULT_UPSTREAM_OF) == set(FAMILIES)


@pytest.mark.parametrize(
    ("settings", "families"),
    [
        (upstream(provider="Anthropic"), ("anthropic",)),
        (upstream(provider="gemini"), ("gemini",)),
        (upstream(provider="groq"), ("openai",)),
        (upstream(), ("openai",)),
        (upstream("https://g.example/v1beta/openai", "gemini"), ("openai",)),
        (upstream(provider="gemini", dialects=("openai", "gemini")), ("openai", "gemini")),
    ],
)
def test_families_by_provider_unless_said(
    settings: UpstreamSettings, families: tuple[str, ...]
) -> None:
    assert families_of(settings) == families


@pytest.mark.parametrize(
    ("settings", "drops"),
    [
        (upstream(), False),
        (upstream("https://g.example/v1beta/openai"), True),
        (upstream("https://g.example/v1beta/openai", drop_v1=False), False),
        (upstream("https://z.example/api/paas/v4", drop_v1=True), True),
    ],
)
def test_v1_is_dropped_where_the_base_url_has_a_version(
    settings: UpstreamSettings, drops: bool
) -> None:
    assert drops_v1(settings) is drops


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://a.example", "https://A.example:443/path", True),
        ("http://a.example", "http://a.example:80", True),
        ("https://a.example", "http://a.example", False),
        ("https://a.example", "https://a.example:8443", False),
        ("https://a.example", "https://b.example", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(one: str, other: str, same: bool) -> None:
    assert (origin_of(one) == origin_of(other)) is same


# patterns


@pytest.mark.parametrize(
    ("pattern", "model", "does_fit"),
    [
        ("gpt-*", "gpt-4o", True),
        ("gpt-*", "GPT-4o", True),
        ("gpt-*", "gpt", False),
        ("gpt-*", "my-gpt-4o", False),
        ("*/*", "qwen/qwen3", True),
        ("*", "", True),
        ("gpt-4.1", "gpt-4x1", False),
        ("[ab]", "a", False),
        ("a*c", "a\nc", True),
    ],
)
def test_a_pattern_fits_the_whole_name(pattern: str, model: str, does_fit: bool) -> None:
    """`*` is the one thing that stands for others."""
    assert fits(pattern, model) is does_fit


@pytest.mark.parametrize(
    ("one", "other", "do_overlap"),
    [
        ("gpt-*", "gpt-4*", True),
        ("gpt-*", "*-mini", True),
        ("a*", "b*", False),
        ("a*c", "ab", False),
        ("abc", "ABC", True),
        ("abc", "ab", False),
        ("ab", "ab**", True),
        ("*", "", True),
        ("a", "", False),
    ],
)
def test_overlap_is_a_name_that_both_fit(one: str, other: str, do_overlap: bool) -> None:
    assert overlap(one, other) is overlap(other, one) is do_overlap


def test_a_general_pattern_covers_a_special_one() -> None:
    assert covers("gpt-*", "gpt-4*")
    assert covers("gpt-*", "GPT-4o")
    assert not covers("gpt-4*", "gpt-*")
    assert not covers("*-mini", "gpt-*")


def test_doubts_are_about_two_upstreams_and_not_about_exceptions() -> None:
    one, rule, other = ("a", "gpt-4*"), ("b", "gpt-*"), ("c", "gpt-4o")
    assert list(doubtful_overlaps([one, ("a", "gpt-4o"), rule])) == []
    assert list(doubtful_overlaps([rule, one])) == [(rule, one)]
    assert list(doubtful_overlaps([one, rule, other])) == [(one, other), (rule, other)]
    assert list(doubtful_overlaps([rule, ("c", "GPT-*")])) == [(rule, ("c", "GPT-*"))]


# by model


def test_the_first_pattern_that_fits_decides() -> None:
    """In the order of the upstreams, and asked once for each name."""
    routing = Routing(
        {
            "openai": OPENAI,
            "azure": upstream(models=("o3", "gpt-4*"), api_key="k"),
            "rest": upstream("https://y.example", models=("gpt-*",), api_key="k"),
        }
    )
    for _ in range(2):
        assert routing.by_model(CHAT, "gpt-4o").upstream == "azure"
        assert routing.by_model(CHAT, "gpt-5").upstream == "rest"
        assert routing.by_model(CHAT, "llama") is CHAT


def test_a_named_upstream_is_obeyed() -> None:
    routing = Routing({"openai": OPENAI, "own": upstream(models=("*",), api_key="k")})
    route = named("openai")
    assert routing.by_model(route, "gpt-4o") is route


def test_patterns_are_asked_for_the_dialects_that_an_upstream_takes() -> None:
    routing = Routing({"own": upstream(models=("*",), api_key="k"), "openai": OPENAI})
    assert routing.by_model(MESSAGES, "gpt-4o") is MESSAGES
    assert routing.by_model(CHAT, "gpt-4o").upstream == "own"


def test_without_patterns_nothing_is_looked_up() -> None:
    assert Routing({"openai": OPENAI}).by_model(CHAT, "m") is CHAT


def test_the_path_s_own_upstream_may_have_patterns() -> None:
    routing = Routing({"openai": upstream(models=("gpt-*",)), "own": upstream(models=("*",))})
    assert routing.by_model(CHAT, "gpt-4o") is CHAT
    assert routing.by_model(CHAT, "m").meant == "openai"


def test_what_is_remembered_is_bounded() -> None:
    """Clients choose the names."""
    routing = Routing({"own": upstream(models=("m*",), api_key="k")})
    for number in range(3_000):
        assert routing.by_model(CHAT, f"m{number}").upstream == "own"
    assert len(routing._by_model) <= 1_024


# credentials


def test_a_plain_route_goes_out_as_it_came() -> None:
    target, headers = Routing({"openai": OPENAI}).outgoing(CHAT, CLIENT)
    assert target is CHAT.target
    assert headers is CLIENT


def test_a_key_of_ours_replaces_the_client_s() -> None:
    routing = Routing({"openai": upstream(provider="openai", api_key="sk-ours")})
    sent = routing.outgoing(CHAT, CLIENT)
    assert sent == (CHAT.target, [(b"X-Other", b"1"), (b"authorization", b"Bearer sk-ours")])


def test_none_sends_no_credential() -> None:
    routing = Routing({"openai": upstream(api_key="none")})
    assert routing.outgoing(CHAT, CLIENT) == (CHAT.target, [(b"X-Other", b"1")])


@pytest.mark.parametrize(
    ("settings", "header"),
    [
        (upstream(provider="anthropic", api_key="k"), (b"x-api-key", b"k")),
        (upstream(provider="azure", api_key="k"), (b"api-key", b"k")),
        (upstream(provider="gemini", api_key="k"), (b"x-goog-api-key", b"k")),
        (upstream(provider="groq", api_key="k"), (b"authorization", b"Bearer k")),
        (
            upstream("https://g.example/v1beta/openai", "gemini", api_key="k"),
            (b"authorization", b"Bearer k"),
        ),
        (upstream(provider="groq", api_key="k", auth_header="api-key"), (b"api-key", b"k")),
    ],
)
def test_the_key_stands_where_the_provider_reads_it(
    settings: UpstreamSettings, header: tuple[bytes, bytes]
) -> None:
    _, headers = Routing({"openai": settings}).outgoing(CHAT, [])
    assert headers == [header]


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        (upstream("https://api.openai.com:443/eu", models=("*",)), True),
        (upstream("https://evil.example", models=("*",)), False),
        (upstream("http://api.openai.com", models=("*",)), False),
    ],
)
def test_a_client_s_credential_stays_at_the_origin_it_is_meant_for(
    settings: UpstreamSettings, passes: bool
) -> None:
    """Even where settings that were not checked would lead it elsewhere."""
    routing = Routing({"openai": OPENAI, "own": settings})
    route = routing.turned(CHAT, "own")
    _, headers = routing.outgoing(route, CLIENT)
    assert (CLIENT[0] in headers) is passes


def test_a_credential_meant_for_nobody_known_goes_nowhere() -> None:
    routing = Routing({"own": upstream()})
    assert routing.outgoing(routing.turned(CHAT, "own"), CLIENT)[1] == [(b"X-Other", b"1")]


def test_the_query_s_key_goes_with_the_others() -> None:
    routing = Routing({"gemini": upstream(provider="gemini", api_key="ours")})
    route = Route("gemini", b"/v1beta/m:x?alt=sse&key=AI", Dialect.GEMINI, ErrorShape.GEMINI)
    assert routing.outgoing(route, [])[0] == b"/v1beta/m:x?alt=sse"


@pytest.mark.parametrize(
    ("target", "sent"),
    [(b"/v1/chat/completions?a=1", b"/chat/completions?a=1"), (b"/v2/x", b"/v2/x")],
)
def test_v1_is_dropped_and_the_client_s_credential_passes(target: bytes, sent: bytes) -> None:
    routing = Routing({"openai": upstream("https://g.example/v1beta/openai")})
    route = Route("openai", target, Dialect.OPENAI_CHAT, ErrorShape.OPENAI_ANTHROPIC)
    assert routing.outgoing(route, CLIENT) == (sent, CLIENT)


# fallback


@pytest.mark.parametrize(
    ("status", "fallback_on", "is_passed_over"),
    [
        (429, ("connect", "429", "5xx"), True),
        (503, ("5xx",), True),
        (529, ("5xx",), True),
        (503, ("503",), True),
        (500, ("503",), False),
        (429, ("5xx",), False),
        (200, ("429", "5xx"), False),
        (400, ("429", "5xx"), False),
    ],
)
def test_which_answers_are_passed_over(
    status: int, fallback_on: tuple[str, ...], is_passed_over: bool
) -> None:
    assert passes_over(status, fallback_on) is is_passed_over


def test_who_stands_in() -> None:
    """In order: who is known, takes the dialect, and has a key or the same origin."""
    names = ("gone", "claude", "keyless", "keyed", "open", "same")
    routing = Routing(
        {
            "openai": UpstreamSettings(
                "https://api.openai.com", fallback=names, fallback_on=("503",)
            ),
            "claude": upstream(provider="anthropic", api_key="k"),
            "keyless": upstream(),
            "keyed": upstream(api_key="k", fallback=("openai",)),
            "open": upstream(api_key="none"),
            "same": UpstreamSettings("https://api.openai.com/eu"),
        }
    )
    assert routing.fallbacks(CHAT) == ("keyed", "open", "same")
    assert routing.fallback_on(CHAT) == ("503",)
    assert routing.fallbacks(named("keyed")) == ()  # openai has no key of its own
    assert routing.fallbacks(named("open")) == ()
    assert routing.fallbacks(MESSAGES) == ()  # its upstream is not known here
    assert routing.fallback_on(MESSAGES) == ()


def test_a_route_that_turns_twice_keeps_whom_the_credential_is_for() -> None:
    routing = Routing({"openai": OPENAI, "a": upstream(), "b": upstream()})
    once = routing.turned(CHAT, "a")
    assert (once.upstream, once.meant, once.target) == ("a", "openai", CHAT.target)
    assert routing.turned(once, "b").meant == "openai"
    assert routing.turned(once, "a") is once
