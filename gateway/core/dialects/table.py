"""Every metered dialect and its wire format: what is not in here is relayed and not metered."""

from collections.abc import Mapping

from gateway.core.dialects.anthropic_messages import ANTHROPIC_MESSAGES
from gateway.core.dialects.gemini import GEMINI, GEMINI_STREAM
from gateway.core.dialects.ollama import OLLAMA, OLLAMA_EMBED
from gateway.core.dialects.openai_chat import OPENAI_CHAT
from gateway.core.dialects.openai_media import OPENAI_AUDIO, OPENAI_IMAGES, OPENAI_SPEECH
from gateway.core.dialects.openai_other import OPENAI_COMPLETIONS, OPENAI_EMBEDDINGS
from gateway.core.dialects.openai_responses import OPENAI_RESPONSES
from gateway.core.dialects.wire_format import WireFormat
from gateway.core.identity import Dialect

WIRE_FORMATS: Mapping[Dialect, WireFormat] = {
    Dialect.OPENAI_CHAT: OPENAI_CHAT,
    Dialect.OPENAI_RESPONSES: OPENAI_RESPONSES,
    Dialect.OPENAI_COMPLETIONS: OPENAI_COMPLETIONS,
    Dialect.OPENAI_EMBEDDINGS: OPENAI_EMBEDDINGS,
    Dialect.OPENAI_IMAGES: OPENAI_IMAGES,
    Dialect.OPENAI_AUDIO: OPENAI_AUDIO,
    Dialect.OPENAI_SPEECH: OPENAI_SPEECH,
    Dialect.OLLAMA: OLLAMA,
    Dialect.OLLAMA_EMBED: OLLAMA_EMBED,
    Dialect.ANTHROPIC_MESSAGES: ANTHROPIC_MESSAGES,
    Dialect.GEMINI: GEMINI,
    Dialect.GEMINI_STREAM: GEMINI_STREAM,
}
