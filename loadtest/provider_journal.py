"""What the fake provider received and served: the truth that a gateway's totals are held to."""

from collections.abc import Iterable
from dataclasses import dataclass, field

METERED_ENDINGS = (
    "/completions",
    "/embeddings",
    "/images/generations",
    "/images/edits",
    "/audio/transcriptions",
    "/audio/speech",
    "/api/chat",
    "/api/generate",
    "/v1/messages",
    "/responses",
    "/responses/compact",
    "/converse",
    "/converse-stream",
    "/realtime",
    ":generateContent",
    ":streamGenerateContent",
)


@dataclass(slots=True)
class Received:
    """One request as it came in. Header names keep their case; `target` is undecoded latin-1."""

    number: int
    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    def header(self, name: bytes) -> bytes | None:
        """The first value under a name in whatever case, None if there is none."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)


@dataclass(slots=True)
class Served:
    """One answer. The entry is made when the answer begins and changes until it has ended.

    `status` is that of the answer, 0 where none is ever sent. `completion_tokens` are those really
    generated so far: a stream counts as it is written, any other call is billed in full at once,
    because a provider finishes it even if the client is gone. `seconds` are those of a recording
    that is billed by its length. `usage_sent` and `finished` are set
    once the last byte of the usage, or of the answer, was handed to the socket; `aborted` if the
    client closed before that.
    """

    number: int
    method: str
    path: str
    model: str = ""
    stream: bool = False
    status: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    usage_sent: bool = False
    finished: bool = False
    aborted: bool = False
    tag: str = ""
    seconds: int = 0


@dataclass(frozen=True)
class Totals:
    """Sums over the model calls that were answered with status 200."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    seconds: int = 0


def total(journal: Iterable[Served]) -> Totals:
    """Add up the model calls of a journal; other routes and other statuses cost nothing."""
    billed = [
        entry for entry in journal if entry.status == 200 and entry.path.endswith(METERED_ENDINGS)
    ]
    return Totals(
        calls=len(billed),
        prompt_tokens=sum(entry.prompt_tokens for entry in billed),
        completion_tokens=sum(entry.completion_tokens for entry in billed),
        cached_tokens=sum(entry.cached_tokens for entry in billed),
        reasoning_tokens=sum(entry.reasoning_tokens for entry in billed),
        seconds=sum(entry.seconds for entry in billed),
    )
