"""What becomes of a provider's answer when its client has left: cancelled, or drained.

Drained means read on, for the usage that it ends with. A JSON answer always is, within the caps:
whoever aborts one is billed for it in full. A stream is where its provider bills on.
Source: OpenRouter's list of who stops when cancelled, openrouter.ai/docs/api-reference/streaming.
"""

from gateway.core.vocabulary import Vocabulary


class Disconnect(Vocabulary):
    """What becomes of a stream whose client has left."""

    CANCEL = "cancel"
    DRAIN = "drain"


_BILL_ON = frozenset(
    {
        "ai21",
        "bedrock",
        "bedrock_converse",
        "dashscope",
        "gemini",
        "groq",
        "huggingface",
        "minimax",
        "mistral",
        "nebius",
        "perplexity",
        "replicate",
        "sambanova",
        "vertex_ai",
    }
)
"""Names as in the price list (`upstreams.<name>.provider`); a cancellation saves nothing there."""


def disconnect_of(provider: str) -> Disconnect:
    """Return what to do where nobody said: drain what is billed anyway, stop what can be stopped.

    An unknown provider is stopped, as most are: reading on could cost money that nobody asked for.
    """
    return Disconnect.DRAIN if provider.lower() in _BILL_ON else Disconnect.CANCEL
