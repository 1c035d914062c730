"""A chat completion request: its JSON checked field by field; what it may hold, what is ignored, what is refused.

What becomes of it is in `app`.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from olivine.errors import nearest_name
from olivine.serving.problems import ApiError, invalid, quoted

#: Fields that change no answer of this server, with any value.
IGNORED = frozenset(
    {
        *("user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
        *("parallel_tool_calls", "verbosity"),
    }
)
#: Fields that this server has no implementation of: any other value than these is refused.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "store": (False,),
    "reasoning_effort": ("none",),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}
#: Fields of messages that clients send back from earlier answers, empty.
_EMPTY_IN_MESSAGES = frozenset({"refusal", "annotations", "audio", "tool_calls", "function_call"})


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TextPart(_Part):
    """A part of a message that is text."""

    type: Literal["text"]
    text: str


class ImageUrl(_Part):
    """Where an image is; `detail` changes nothing, every image takes the model's number of tokens."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(_Part):
    """A part of a message that is an image."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]


class StreamOptions(_Part):
    """What a stream holds besides the answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(BaseModel):
    """What is read of a request."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def longest(self) -> int | None:
        """The longest answer that is asked for."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


def parse(body: bytes) -> ChatRequest:
    """Return a request.

    Raises:
        ApiError: it is not one, or asks for what this server does not do (400).
    """
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        raise invalid("the body is not valid JSON (in UTF-8).", code="invalid_json") from None
    if not isinstance(values, dict):
        raise invalid("the body is not a JSON object.", code="invalid_json")
    values = {name: value for name, value in values.items() if name not in IGNORED and _asks(name, value)}
    for message in values["messages"] if isinstance(values.get("messages"), list) else ():
        if isinstance(message, dict):
            for name in [key for key in message if key in _EMPTY_IN_MESSAGES and not message[key]]:
                del message[name]
    try:
        request = ChatRequest.model_validate(values)
    except ValidationError as error:
        raise _wrong(error) from None
    except RecursionError:
        raise invalid("the body is nested too deeply.", code="invalid_json") from None
    if request.top_logprobs is not None and not request.logprobs:
        raise invalid("top_logprobs: needs logprobs: true.", "top_logprobs")
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options: needs stream: true.", "stream_options")
    if "" in request.stops:
        raise invalid("stop: an empty text would end every answer at once.", "stop")
    return request


def _asks(name: str, value: Any) -> bool:
    """Return whether a field is to be read at all.

    Raises:
        ApiError: it asks for what is not implemented.
    """
    if name not in NEUTRAL:
        return True
    if value is not None and value not in NEUTRAL[name]:
        raise invalid(f"{name}: not implemented by this server. Leave it out.", name, "unsupported_parameter")
    return False


def _wrong(error: ValidationError) -> ApiError:
    found = error.errors(include_url=False)
    # Of the alternatives that a field may be, the one that was meant is wrong in the smallest part.
    first = max((one for one in found if one["loc"][:1] == found[0]["loc"][:1]), key=lambda one: len(one["loc"]))
    # Names of the alternatives that pydantic tried are no fields.
    path = [str(step) for step in first["loc"] if not (isinstance(step, str) and (step in _TAGS or "[" in step))]
    param = ".".join(path)[:100]
    if first["type"] == "extra_forbidden":
        fields = ChatRequest.model_fields if len(path) == 1 else ("role", "content")
        near = nearest_name(path[-1], fields)
        hint = f" Did you mean {near!r}?" if near else ""
        return invalid(f"unknown parameter {quoted(param)}.{hint}", param, "unknown_parameter")
    if first["type"] == "missing":
        return invalid(f"{param}: missing.", param, "missing_required_parameter")
    return invalid(f"{quoted(param)}: {first['msg']} (got {quoted(first['input'])}).", param)


#: How pydantic names the alternatives of a union.
_TAGS = frozenset({"str", "text", "image_url", "TextPart", "ImagePart"})
