"""Tags and routes: precedence, what is not understood, and targets that mean another place."""

import pytest

from gateway.core.errors import BadCall
from gateway.core.headers import Headers
from gateway.core.identity import (
    Dialect,
    ErrorShape,
    InvalidTag,
    Route,
    Tags,
    checked_target,
    deployments_of,
    identify,
)
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase

CHAT = b"/v1/chat/completions"


def tags_of(target: bytes = CHAT, headers: Headers | None = None) -> Tags:
    return identify(target, headers or [])[0]


def route_of(target: bytes, headers: Headers | None = None) -> Route:
    return identify(target, headers or [])[1]


# Tags -----------------------------------------------------------------------------------------


def test_all_headers_are_understood() -> None:
    """Every tag header is read, in any letter case of its name and its value."""
    headers = [
        (b"X-TASK-ID", b" IMP-COST-01 "),
        (b"x-task-phase", b"verify"),
        (b"X-Task-Complexity", b"TINY"),
        (b"x-task-importance", b"Critical"),
        (b"X-Task-Parent", b"EPIC-1"),
        (b"x-task-grace", b"1"),
        (b"Authorization", b"Bearer sk"),
    ]
    assert tags_of(headers=headers) == Tags(
        task="IMP-COST-01",
        phase=WorkPhase.VERIFY,
        complexity=Complexity.TINY,
        importance=ImportanceTier.CRITICAL,
        parent="EPIC-1",
        grace=True,
    )


def test_a_call_that_says_nothing_has_no_tags() -> None:
    """No tag is invented, and an empty value is as good as none."""
    assert tags_of() == Tags()
    assert tags_of(headers=[(b"X-Task-Id", b"  "), (b"X-Phase", b"")]) == Tags()


def test_task_ids_keep_their_letter_case() -> None:
    """Ids are not folded: `t1` and `T1` are two tasks."""
    assert tags_of(headers=[(b"x-task-id", b"t1")]).task == "t1"


def test_x_phase_is_an_alias() -> None:
    """`X-Phase` names the phase; of two headers the first counts."""
    assert tags_of(headers=[(b"X-Phase", b"plan")]).phase is WorkPhase.PLAN
    both = [(b"X-Task-Phase", b"THINK"), (b"X-Phase", b"PLAN")]
    assert tags_of(headers=both).phase is WorkPhase.THINK


@pytest.mark.parametrize("grace", [b"0", b"true", b"yes", b"11"])
def test_only_one_asks_for_grace(grace: bytes) -> None:
    """Grace is asked for by `1` and nothing else."""
    assert not tags_of(headers=[(b"X-Task-Grace", grace)]).grace


BAGGAGE = (b"baggage", b"task.id=B,task.phase=spec,task.complexity=small,task.importance=low")


def test_baggage_is_understood() -> None:
    """The four members of W3C baggage are tags, percent-decoded, names in any case."""
    assert tags_of(headers=[BAGGAGE]) == Tags(
        task="B", phase=WorkPhase.SPEC, complexity=Complexity.SMALL, importance=ImportanceTier.LOW
    )
    assert tags_of(headers=[(b"Baggage", b"Task.Id=%41-1;p=1,other=2")]).task == "A-1"


def test_several_baggage_headers_are_one() -> None:
    """A later baggage header adds its members, and takes none back."""
    headers = [(b"baggage", b"task.id=A,x=1"), (b"baggage", b"task.phase=PR,task.id=B")]
    assert tags_of(headers=headers) == Tags(task="A", phase=WorkPhase.PR)


def test_url_goes_before_headers_goes_before_baggage() -> None:
    """Precedence holds tag by tag, whatever the order of the headers."""
    headers = [BAGGAGE, (b"X-Task-Id", b"H"), (b"X-Task-Phase", b"PLAN")]
    target = b"/t/U/-/v1/chat/completions"
    assert tags_of(target, headers) == Tags(
        task="U", phase=WorkPhase.PLAN, complexity=Complexity.SMALL, importance=ImportanceTier.LOW
    )
    assert tags_of(b"/t/U/review/v1/x", headers).phase is WorkPhase.REVIEW
    assert tags_of(headers=headers).task == "H"
    assert tags_of(headers=[BAGGAGE]).task == "B"


def test_an_invalid_tag_hides_the_sources_below_it() -> None:
    """A tag that is not understood counts as absent, not as the next source's."""
    tags = tags_of(b"/t/U/nope/v1/x", [(b"X-Task-Phase", b"PLAN")])
    assert tags.phase is None
    assert [invalid.source for invalid in tags.invalid] == ["URL /t/<task>/<phase>"]


ID_RULE = "a letter or digit, then up to 127 letters, digits, dots, underscores, hyphens"


@pytest.mark.parametrize(
    "text",
    [
        "-a",
        ".a",
        "_a",
        "a b",
        "a/b",
        "a:b",
        "a{b}",
        "..",
        "a\nb",
        "é",
        "x" * 129,
        "a*",
        "a\x00b",
    ],
)
def test_an_id_that_could_leave_its_place_is_not_one(text: str) -> None:
    """Ids become keys, paths and labels: what does not fit the pattern is reported, not used."""
    tags = tags_of(headers=[(b"X-Task-Id", text.encode("latin-1"))])
    assert tags.task is None
    assert [(i.source, i.allowed) for i in tags.invalid] == [("X-Task-Id", ID_RULE)]


@pytest.mark.parametrize("text", ["a", "0", "A.b_c-9", "x" * 128])
def test_good_ids(text: str) -> None:
    """One to 128 characters of the pattern are an id."""
    assert tags_of(headers=[(b"X-Task-Parent", text.encode())]).parent == text


def test_every_invalid_tag_is_reported() -> None:
    """Each with the header it came in, its text and what is allowed."""
    headers = [
        (b"X-Task-Id", b"a b"),
        (b"X-Phase", b"PLANNING"),
        (b"X-Task-Complexity", b"huge"),
        (b"baggage", b"task.importance=urgent"),
        (b"X-Task-Parent", b"?"),
    ]
    tags = tags_of(headers=headers)
    assert tags == Tags(invalid=tags.invalid)
    assert tags.invalid == (
        InvalidTag("X-Task-Id", "a b", ID_RULE),
        InvalidTag(
            "X-Phase",
            "PLANNING",
            "STRATEGIZE, SPEC, PLAN, THINK, IMPLEMENT, VERIFY, REVIEW, PR, MONITOR",
        ),
        InvalidTag("X-Task-Complexity", "huge", "Tiny, Small, Medium, Large"),
        InvalidTag("baggage task.importance", "urgent", "low, medium, high, critical"),
        InvalidTag("X-Task-Parent", "?", ID_RULE),
    )


def test_the_message_of_an_invalid_tag_is_bounded() -> None:
    """What the client sent is quoted, escaped and cut."""
    message = InvalidTag("X-Task-Id", "\n" + "x" * 500, "letters").message
    assert message == "X-Task-Id: '\\n" + "x" * 127 + "' is not valid; allowed: letters"


# Prefixes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "upstream", "rest"),
    [
        (b"/t/T1/PLAN/v1/models", "openai", b"/v1/models"),
        (b"/t/T1/-/u/local/v1/x?a=1", "local", b"/v1/x?a=1"),
        (b"/u/local/v1/x", "local", b"/v1/x"),
        (b"/t/T1/%2D/v1/x", "openai", b"/v1/x"),
        (b"/t/%541/plan/", "openai", b"/"),
    ],
)
def test_prefixes_come_off(target: bytes, upstream: str, rest: bytes) -> None:
    """`/t/<task>/<phase>` and `/u/<upstream>` compose in this order and leave the rest as it is."""
    tags, route = identify(target, [])
    assert (route.upstream, route.target) == (upstream, rest)
    assert route.is_named is (b"/u/" in target)
    assert tags.task == ("T1" if b"/t/" in target else None)
    assert tags.invalid == ()
    assert tags.phase is (WorkPhase.PLAN if b"/plan/" in target.lower() else None)


def test_a_url_id_is_checked_too() -> None:
    """What stands in the URL is decoded, then held to the same pattern."""
    tags = tags_of(b"/t/a%20b/PL%41N/v1/x")
    assert (tags.task, tags.phase) == (None, WorkPhase.PLAN)
    assert tags.invalid == (InvalidTag("URL /t/<task>", "a b", ID_RULE),)


@pytest.mark.parametrize(
    "target", [b"/t/", b"/t/T1", b"/t/T1/", b"/t/T1/PLAN", b"/u/", b"/u/x", b"/t/T1/-/u/x"]
)
def test_half_a_prefix_is_refused(target: bytes) -> None:
    """A base URL that lacks a part is an error to be told, not a path to be sent on."""
    with pytest.raises(BadCall) as caught:
        identify(target, [])
    assert caught.value.code == "invalid_target"
    assert caught.value.message.startswith("Expected /")


# Targets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        b"",
        b"*",
        b"v1/x",
        b"http://evil.example/v1/x",
        b"evil.example:443",
        b"?x=/v1",
        b"//evil.example/v1",
        b"/v1//chat/completions",
        b"/v1/x//",
        b"/%2fevil/v1",
        b"/v1/a%2Fb",
        b"/v1/a%5cb",
        b"/v1/a%5Cb",
        b"/v1\\chat\\completions",
        b"/v1/x\0",
        b"/v1/x%00",
        b"/v1/x?a=\0",
        b"/v1/./x",
        b"/v1/../x",
        b"/v1/..",
        b"/v1/.",
        b"/./v1",
        b"/..",
        b"/v1/%2e%2e/admin",
        b"/v1/.%2E/x",
        b"/v1/%2e/x",
        b"/t/../-/v1/x",
        b"/v1/..;/x",
        b"/v1/.;a=b/x",
        b"/v1/%2e%2e;x/x",
        b"/v1/chat/completions#",
        b"/v1/chat/completions#/x",
        b"/v1/x?a#b",
        b"/v1/chat/completions%0a",
        b"/v1/chat/completions%0D%0A",
        b"/v1/chat/completions%7f",
        b"/v1/x y",
        b"/v1/x\ty",
        b"/v1/x\r\nHost: evil",
        b" /v1/x",
    ],
)
def test_odd_targets_are_refused(target: bytes) -> None:
    """A target that a server may read as another place than we do is refused."""
    with pytest.raises(BadCall) as caught:
        checked_target(target)
    assert caught.value.code == "invalid_target"


@pytest.mark.parametrize(
    "target",
    [
        b"/",
        b"/v1/models/gpt-4o",
        b"/v1/a.b/..c/d../.e/...",
        b"/v1/x?u=http://a//b/../c\\d%2f%00&q=%23",
        b"/v1beta/models/gemini-2.5-pro:generateContent?alt=sse",
        b"/v1/files/%E4%BD%A0%20x",
        b"/v1/a;b=1/c",
        b"/v1/%7Eq?x=a+b",
    ],
)
def test_plain_targets_pass_as_they_came(target: bytes) -> None:
    """Nothing is normalised: the provider gets the bytes of the client."""
    assert checked_target(target) == target
    assert route_of(target).target == target


@pytest.mark.parametrize("target", [b"/v1/x?", b"/v1/x?a=", b"/v1/x?a?b", b"/v1/x?%zz"])
def test_the_query_stays_byte_by_byte(target: bytes) -> None:
    """Also an empty one."""
    assert route_of(target).target == target


@pytest.mark.parametrize(
    "target",
    [
        CHAT,
        b"/v1/chat/completions?beta=1",
        b"/v1/c%68at/completions",
        b"/v1/chat/completion%73",
        b"/v1/chat/completions/",
        b"/v1/chat/completions%20",
        b"/V1/Chat/COMPLETIONS",
        b"/v1/chat/completions;v=1",
        b"/v1;a/chat;b/completions;c/",
        b"/openai/deployments/my-gpt/chat/completions?api-version=1",
        b"/v1beta/openai/chat/completions",
        b"/u/local/api/v3/chat/completions",
        b"/t/T/-/u/local/v1/chat/completions",
    ],
)
def test_no_spelling_of_the_chat_path_dodges_the_meter(target: bytes) -> None:
    """However the path is written, what a server takes for chat completions is metered."""
    route = route_of(target)
    assert route.dialect is Dialect.OPENAI_CHAT
    assert route.error_shape is ErrorShape.OPENAI_ANTHROPIC


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/models",
        b"/v1/chat/completions/abc",
        b"/v1/chat/completions%3fx",
        b"/v1/chat%252fcompletions",
    ],
)
def test_other_paths_are_not_metered_as_chat(target: bytes) -> None:
    """A path that merely looks like it is relayed as it is."""
    assert route_of(target).dialect is Dialect.UNMETERED


@pytest.mark.parametrize(
    ("target", "dialect"),
    [
        (b"/v1/messages", Dialect.ANTHROPIC_MESSAGES),
        (b"/V1/Messages/?beta=true", Dialect.ANTHROPIC_MESSAGES),
        (b"/u/vertex/anthropic/v1/messages", Dialect.ANTHROPIC_MESSAGES),
        (b"/v1/responses", Dialect.OPENAI_RESPONSES),
        (b"/v1/responses/compact", Dialect.OPENAI_RESPONSES),
        (b"/u/azure/openai/v1/responses?api-version=1", Dialect.OPENAI_RESPONSES),
        (b"/v1/completions", Dialect.OPENAI_COMPLETIONS),
        (b"/v1/xchat/completions", Dialect.OPENAI_COMPLETIONS),
        (b"/v1/embeddings", Dialect.OPENAI_EMBEDDINGS),
        (b"/v1beta/models/gemini-2.5-pro:generateContent", Dialect.GEMINI),
        (b"/v1/models/g%3AgenerateContent", Dialect.GEMINI),
        (b"/v1beta/models/g:streamGenerateContent?alt=sse", Dialect.GEMINI_STREAM),
        (b"/v1/messages/count_tokens", Dialect.UNMETERED),
        (b"/v1/messages/batches", Dialect.UNMETERED),
        (b"/v1/threads/thread_1/messages", Dialect.UNMETERED),
        (b"/v1/responses/input_tokens", Dialect.UNMETERED),
        (b"/v1/responses/resp_1/cancel", Dialect.UNMETERED),
        (b"/v1beta/models/g:countTokens", Dialect.UNMETERED),
    ],
)
def test_which_dialect_a_path_speaks(target: bytes, dialect: Dialect) -> None:
    """Its end says so; counting, fetching and cancelling call no model."""
    assert route_of(target).dialect is dialect


VERSION = [(b"Anthropic-Version", b"2023-06-01")]


@pytest.mark.parametrize(
    ("target", "headers", "upstream", "shape"),
    [
        (b"/v1/models", [], "openai", ErrorShape.OPENAI_ANTHROPIC),
        (b"/v1/models", VERSION, "anthropic", ErrorShape.OPENAI_ANTHROPIC),
        (CHAT, VERSION, "anthropic", ErrorShape.OPENAI_ANTHROPIC),
        (b"/v1/messages", [], "anthropic", ErrorShape.OPENAI_ANTHROPIC),
        (b"/v1/messages/count_tokens", [], "anthropic", ErrorShape.OPENAI_ANTHROPIC),
        (b"/v1/m%65ssages?beta=true", [], "anthropic", ErrorShape.OPENAI_ANTHROPIC),
        (b"/v1/messages_archive", [], "openai", ErrorShape.OPENAI_ANTHROPIC),
        (b"/v1beta/models/g:generateContent", [], "gemini", ErrorShape.GEMINI),
        (b"/v1beta", [], "gemini", ErrorShape.GEMINI),
        (b"/v1/models/g:generateContent", [], "gemini", ErrorShape.GEMINI),
        (b"/v1/models/g:countTokens", [], "gemini", ErrorShape.GEMINI),
        (b"/v1/models/ft:gpt-4o:mine::1", [], "openai", ErrorShape.OPENAI_ANTHROPIC),
        (b"/v1beta/openai/embeddings", [], "gemini", ErrorShape.OPENAI_ANTHROPIC),
        (b"/v1beta/models", VERSION, "gemini", ErrorShape.GEMINI),
        (b"/v1betamax/x", [], "openai", ErrorShape.OPENAI_ANTHROPIC),
        (b"/v1beta/openai/chat/completions", [], "gemini", ErrorShape.OPENAI_ANTHROPIC),
        (b"/u/mine/v1/messages", [], "mine", ErrorShape.OPENAI_ANTHROPIC),
        (b"/u/mine/v1beta/models", [], "mine", ErrorShape.GEMINI),
    ],
)
def test_where_a_call_goes(
    target: bytes, headers: Headers, upstream: str, shape: ErrorShape
) -> None:
    """By the named upstream, else by path and `anthropic-version`; errors as the caller reads."""
    route = route_of(target, headers)
    assert (route.upstream, route.error_shape) == (upstream, shape)
    assert route.is_named is target.startswith(b"/u/")


@pytest.mark.parametrize(
    "query",
    [
        b"_method=POST",
        b"a=1&_METHOD=post",
        b"a=1;_method",
        b"$httpMethod=POST",
        b"%24httpMethod=POST",
        b"x-http-method-override=POST",
    ],
)
def test_the_query_names_no_other_method(query: bytes) -> None:
    """A request that reads would call a model at a server that obeys it."""
    with pytest.raises(BadCall) as raised:
        identify(b"/v1/files?" + query, [])
    assert raised.value.code == "invalid_target"
    identify(b"/v1/files?q=_method&my_method=1", [])


@pytest.mark.parametrize(
    ("target", "names"),
    [
        (b"/v1/chat/completions?x=/deployments/a/", ()),
        (b"/openai/deployments/gpt-5/chat/completions?api-version=1", ("gpt-5",)),
        (b"/openai/%64eployments;v=1/gpt%2D5;v=2/chat/completions", ("gpt-5",)),
        (b"/v1/engines/a/Deployments/b/completions", ("a", "b")),
    ],
)
def test_deployments(target: bytes, names: tuple[str, ...]) -> None:
    """All that a path names count: which one is served is the server's to say."""
    assert deployments_of(target) == names
