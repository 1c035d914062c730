"""Chat templates: how a conversation becomes pieces of text, each known to be supervised or not.

The label mask is decided here, where the text is built; tokenising is in `encoding`, and never counts or guesses.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from olivine.errors import DataError
from olivine.records import Conversation, Role


class PieceKind(Enum):
    """What a piece of the rendered text stands for."""

    MARKER = auto()
    """One special token, by its exact name in the tokenizer."""
    IMAGE = auto()
    """The place of the image's tokens."""
    TEXT = auto()
    """Ordinary text, in which no special token is recognised whatever it spells."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the rendered conversation; `supervised` parts carry labels."""

    text: str
    kind: PieceKind = PieceKind.TEXT
    supervised: bool = False


IMAGE = Piece("<image>", PieceKind.IMAGE)


def _marker(name: str, *, supervised: bool = False) -> Piece:
    return Piece(name, PieceKind.MARKER, supervised)


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """One way of writing a conversation down.

    Attributes:
        name: as recipes call it.
        render: pieces of a conversation (second argument: whether an image comes first). A conversation that ends
            with a user turn is rendered up to where the model's reply begins.
        stop: the marker that ends a reply.
        jinja: the same template for `transformers`, without the beginning-of-sequence token.
        image_tag: what stands for the image in the Jinja form.
    """

    name: str
    render: Callable[[Conversation, bool], list[Piece]]
    stop: str
    jinja: str


def _gemma(conversation: Conversation, image: bool) -> list[Piece]:
    """LLaVA-Gemma's `conv_gemma` (IntelLabs/multimodal_cognitive_ai, conversation.py); one `<bos>`, no trimming."""
    pieces = [_marker("<bos>")]
    for index, turn in enumerate(conversation):
        if turn.role is Role.USER:
            pieces += [_marker("<start_of_turn>"), Piece("user\n")]
            if image and index == 0:
                pieces += [IMAGE, Piece("\n")]
            pieces += [Piece(turn.text), _marker("<end_of_turn>"), Piece("\n")]
            pieces += [_marker("<start_of_turn>"), Piece("model\n")]
        else:
            pieces += [Piece(turn.text, supervised=True), _marker("<end_of_turn>", supervised=True), Piece("\n")]
    return pieces


_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def _vicuna(conversation: Conversation, image: bool) -> list[Piece]:
    """LLaVA-1.5's `v1` (haotian-liu/LLaVA, conversation.py): the reply's leading space belongs to its first token."""
    pieces = [_marker("<s>"), Piece(_VICUNA_SYSTEM + " ")]
    for index, turn in enumerate(conversation):
        if turn.role is Role.USER:
            pieces.append(Piece("USER: "))
            if image and index == 0:
                pieces += [IMAGE, Piece("\n")]
            pieces.append(Piece(turn.text + " ASSISTANT:"))
        else:
            pieces += [Piece(" " + turn.text, supervised=True), _marker("</s>", supervised=True)]
    return pieces


def _plain(conversation: Conversation, image: bool) -> list[Piece]:
    """LLaVA-1.5's stage-1 `plain`: the image, then the caption and a newline; what the user said is left out."""
    replies = [turn.text for turn in conversation if turn.role is Role.ASSISTANT]
    if len(replies) > 1:
        raise DataError(f"template plain takes one caption a sample; this one has {len(replies)} replies.")
    pieces = [_marker("<bos>")] + ([IMAGE] if image else [])
    for reply in replies:
        pieces += [Piece(reply, supervised=True), Piece("\n", supervised=True)]
    return pieces


#: The Jinja form must spell `<image>` otherwise where a text has it: there it is no image, and transformers takes each
#: for one. Nothing spelled alike is tokenised as text there, so the text has one space more than in training.
_TEXT = " | replace('<image>', '<image >')"
_CONTENT = (
    "{%- macro content(message) -%}{%- if message['content'] is string -%}{{ message['content']"
    + _TEXT
    + " }}{%- else -%}"
    "{%- for part in message['content'] if part['type'] == 'image' -%}{{ '<image>\n' }}{%- endfor -%}"
    "{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text']" + _TEXT + " }}{%- endfor -%}"
    "{%- endif -%}{%- endmacro -%}"
)

_GEMMA_JINJA = _CONTENT + (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ raise_exception('System role not supported') }}{%- endif -%}"
    "{%- set role = 'model' if message['role'] == 'assistant' else 'user' -%}"
    "{{ '<start_of_turn>' + role + '\n' + content(message) + '<end_of_turn>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)

_VICUNA_JINJA = _CONTENT + (
    "{{ '" + _VICUNA_SYSTEM.replace("'", "\\'") + " ' }}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{{ 'USER: ' + content(message) + ' ASSISTANT:' }}"
    "{%- else -%}{{ ' ' + content(message) + '</s>' }}{%- endif -%}"
    "{%- endfor -%}"
)

_PLAIN_JINJA = (
    "{%- for message in messages -%}{%- if message['content'] is not string -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{ '<image>' }}"
    "{%- elif message['role'] == 'assistant' -%}{{ (part['text']" + _TEXT + ") + '\n' }}{%- endif -%}"
    "{%- endfor -%}{%- elif message['role'] == 'assistant' -%}{{ (message['content']" + _TEXT + ") + '\n' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
)

TEMPLATES: dict[str, ChatTemplate] = {
    template.name: template
    for template in (
        ChatTemplate("gemma", _gemma, "<end_of_turn>", _GEMMA_JINJA),
        ChatTemplate("vicuna", _vicuna, "</s>", _VICUNA_JINJA),
        ChatTemplate("plain", _plain, "\n", _PLAIN_JINJA),
    )
}


def independent_segments(template: ChatTemplate, conversation: Conversation, image: bool) -> list[list[Piece]]:
    """Each question with its reply on its own, behind what they share.

    Returns `[shared prefix, continuation, continuation, ...]`: the prefix ends with the image (or, without one,
    with the first marker), so that every boundary lies beside a special token and tokenising the parts apart gives
    the same tokens as tokenising them together.
    """
    pairs = [conversation[i : i + 2] for i in range(0, len(conversation), 2)]
    rendered = [template.render(pair, image) for pair in pairs]
    cut = rendered[0].index(IMAGE) + 1 if image else 1
    return [rendered[0][:cut], *(pieces[cut:] for pieces in rendered)]
