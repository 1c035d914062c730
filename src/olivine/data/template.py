"""Chat templates: how a conversation becomes pieces of text, each known to be supervised or not.

The label mask is decided here, where the text is built; tokenising is in `encoding`, and never counts or guesses.
"""

from contextlib import suppress

from olivine.data import named_templates, saved_templates
from olivine.data.image_marks import each_behind_images, image_count
from olivine.data.pieces import IMAGE as IMAGE
from olivine.data.pieces import ChatTemplate as ChatTemplate
from olivine.data.pieces import Piece as Piece
from olivine.data.pieces import PieceKind as PieceKind
from olivine.data.pieces import without_system
from olivine.errors import DataError
from olivine.records import Conversation, Role, Turn

#: The tokenizer's own template, which `model.own_template` reads.
OWN = "chat"

TEMPLATES: dict[str, ChatTemplate] = {
    template.name: template
    for template in (
        ChatTemplate("gemma", named_templates.gemma, "<end_of_turn>", saved_templates.GEMMA),
        ChatTemplate("vicuna", named_templates.vicuna, "</s>", saved_templates.VICUNA, first="<s>"),
        ChatTemplate("llava-v1", named_templates.llava_v1, "</s>", saved_templates.LLAVA_V1, first="<s>"),
        ChatTemplate("plain", named_templates.plain, "\n", saved_templates.PLAIN),
        ChatTemplate("chatml", named_templates.chatml, "<|im_end|>", saved_templates.CHATML, begins=False),
        ChatTemplate("llama3", named_templates.llama3, "<|eot_id|>", saved_templates.LLAMA3, first="<|begin_of_text|>"),
        ChatTemplate("phi3", named_templates.phi3, "<|end|>", saved_templates.PHI3, begins=False),
        ChatTemplate("prismatic-base", named_templates.prismatic_base, "<eos>", saved_templates.PRISMATIC_BASE),
    )
}
#: Every name that a recipe may give.
TEMPLATE_NAMES = (*TEMPLATES, OWN)


def marker_names(template: ChatTemplate) -> list[str]:
    """Return the special tokens that a template needs, those of a system turn included where it has one."""
    system, user, reply = Turn(Role.SYSTEM, "a"), Turn(Role.USER, "a"), Turn(Role.ASSISTANT, "a")
    pieces = template.render((user, reply), True)
    with suppress(DataError):
        pieces += template.render((system, user, reply), True)
    return sorted({piece.text for piece in pieces if piece.kind is PieceKind.MARKER})


def independent_segments(template: ChatTemplate, conversation: Conversation, image: bool) -> list[list[Piece]]:
    """Each question with its reply on its own, behind what they share.

    Returns `[shared prefix, continuation, continuation, ...]`: the prefix ends with the last image (or, without one,
    with the first marker), so that every boundary lies beside a special token and tokenising the parts apart gives
    the same tokens as tokenising them together.

    Raises:
        DataError: images stand in a later question than the first.
    """
    if image_count(conversation):
        rendered = [template.render(one, image) for one in each_behind_images(conversation)]
        cut = len(rendered[0]) - rendered[0][::-1].index(IMAGE)
        return [rendered[0][:cut], *(pieces[cut:] for pieces in rendered)]
    _system, turns = without_system(conversation)
    opening = conversation[: len(conversation) - len(turns)]
    pairs = [opening + turns[i : i + 2] for i in range(0, len(turns), 2)]
    rendered = [template.render(pair, image) for pair in pairs]
    cut = rendered[0].index(IMAGE) + 1 if image else _behind_first_marker(rendered[0])
    return [rendered[0][:cut], *(pieces[cut:] for pieces in rendered)]


def _behind_first_marker(pieces: list[Piece]) -> int:
    """How many pieces come up to the first marker of the template, itself included; 0 where text opens it."""
    for index, piece in enumerate(pieces):
        if piece.kind is not PieceKind.BEGINNING:
            return index + 1 if piece.kind is PieceKind.MARKER else index
    return 0
