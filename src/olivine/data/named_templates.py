"""The named chat templates: each a published format, written as pieces.

Their Jinja forms, for plain transformers, are in `saved_templates`.
"""

from olivine.data.image_marks import image_count, pieces_of
from olivine.data.pieces import BEGINNING, BOS, EOS, IMAGE, Piece, PieceKind, marker, without_system
from olivine.errors import DataError
from olivine.records import Conversation, Role

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def gemma(conversation: Conversation, image: bool) -> list[Piece]:
    """Render LLaVA-Gemma's `conv_gemma` (IntelLabs/multimodal_cognitive_ai, conversation.py); one `<bos>`, no trimming.

    A system turn opens the first user turn, as in Gemma 3's own template.
    """
    system, turns = without_system(conversation)
    pieces = [marker(BOS)]
    for index, turn in enumerate(turns):
        if turn.role is Role.USER:
            pieces += [marker("<start_of_turn>"), Piece("user\n")]
            if system is not None and index == 0:
                pieces.append(Piece(system + "\n\n"))
            if image and index == 0:
                pieces += [IMAGE, Piece("\n")]
            pieces += [*pieces_of(turn), marker("<end_of_turn>"), Piece("\n")]
            pieces += [marker("<start_of_turn>"), Piece("model\n")]
        else:
            pieces += [Piece(turn.text, supervised=True), marker("<end_of_turn>", supervised=True), Piece("\n")]
    return pieces


def vicuna(conversation: Conversation, image: bool) -> list[Piece]:
    """Render LLaVA-1.5's `v1` (haotian-liu/LLaVA, conversation.py).

    The reply's leading space belongs to its first token. A system turn replaces the preamble.
    """
    system, turns = without_system(conversation)
    pieces = [marker("<s>"), Piece((VICUNA_SYSTEM if system is None else system) + " ")]
    for index, turn in enumerate(turns):
        if turn.role is Role.USER:
            pieces.append(Piece("USER: "))
            if image and index == 0:
                pieces += [IMAGE, Piece("\n")]
            pieces += [*pieces_of(turn), Piece(" ASSISTANT:")] if turn.images else [Piece(turn.text + " ASSISTANT:")]
        else:
            pieces += [Piece(" " + turn.text, supervised=True), marker("</s>", supervised=True)]
    return pieces


def llava_v1(conversation: Conversation, image: bool) -> list[Piece]:
    """Render LLaVA-1.5's `v1` as its own code tokenises it (mm_utils.py, tokenizer_image_token).

    The text behind an image is tokenised on its own there, and Llama's tokenizer puts a space before it.
    """
    pieces = vicuna(conversation, image)
    behind = [False, *(piece == IMAGE for piece in pieces[:-1])]
    return [
        Piece(" " + piece.text) if image_before and piece.kind is PieceKind.TEXT else piece
        for piece, image_before in zip(pieces, behind, strict=True)
    ]


def plain(conversation: Conversation, image: bool) -> list[Piece]:
    """Render LLaVA-1.5's stage-1 `plain`: the images, the caption and a newline, without the question."""
    replies = [turn.text for turn in conversation if turn.role is Role.ASSISTANT]
    if len(replies) > 1:
        raise DataError(f"template plain takes one caption a sample; this one has {len(replies)} replies.")
    pieces = [marker(BOS)] + [IMAGE] * (image + image_count(conversation))
    for reply in replies:
        pieces += [Piece(reply, supervised=True), Piece("\n", supervised=True)]
    return pieces


def chatml(conversation: Conversation, image: bool) -> list[Piece]:
    """Render ChatML, as in Qwen 2 to 3 and SmolLM2: no default system turn, no trimming."""
    pieces = [BEGINNING]
    for index, turn in enumerate(conversation):
        if turn.role is Role.ASSISTANT:
            pieces += [Piece(turn.text, supervised=True), marker("<|im_end|>", supervised=True), Piece("\n")]
            continue
        pieces += [marker("<|im_start|>"), Piece(f"{turn.role.value}\n"), *_content(conversation, index, image)]
        pieces += [marker("<|im_end|>"), Piece("\n")]
        if turn.role is Role.USER:
            pieces += [marker("<|im_start|>"), Piece("assistant\n")]
    return pieces


def llama3(conversation: Conversation, image: bool) -> list[Piece]:
    """Render Llama 3's instruct format (meta-llama/llama3, tokenizer.py's ChatFormat), without its trimming."""
    pieces = [marker("<|begin_of_text|>")]
    for index, turn in enumerate(conversation):
        if turn.role is Role.ASSISTANT:
            pieces += [Piece(turn.text, supervised=True), marker("<|eot_id|>", supervised=True)]
            continue
        pieces += [*_llama3_header(turn.role), *_content(conversation, index, image), marker("<|eot_id|>")]
        if turn.role is Role.USER:
            pieces += _llama3_header(Role.ASSISTANT)
    return pieces


def _llama3_header(role: Role) -> list[Piece]:
    return [marker("<|start_header_id|>"), Piece(role.value), marker("<|end_header_id|>"), Piece("\n\n")]


def phi3(conversation: Conversation, image: bool) -> list[Piece]:
    """Render Phi-3's instruct format, as in its tokenizer's own template."""
    pieces = [BEGINNING]
    for index, turn in enumerate(conversation):
        if turn.role is Role.ASSISTANT:
            pieces += [Piece(turn.text, supervised=True), marker("<|end|>", supervised=True), Piece("\n")]
            continue
        pieces += [marker(f"<|{turn.role.value}|>"), Piece("\n"), *_content(conversation, index, image)]
        pieces += [marker("<|end|>"), Piece("\n")]
        if turn.role is Role.USER:
            pieces += [marker("<|assistant|>"), Piece("\n")]
    return pieces


def prismatic_base(conversation: Conversation, image: bool) -> list[Piece]:
    """Render Prismatic's prompt for base models (arXiv:2402.07865): beginning, image, `In: `, `Out:`, end.

    As in its training code, the prompt ends without a space, and the reply's leading space belongs to its first token.

    Raises:
        DataError: the conversation has a system turn, which the format lacks.
    """
    system, turns = without_system(conversation)
    if system is not None:
        raise DataError("template prismatic-base has no system turn; put its text in front of the first question.")
    pieces = [marker(BOS)] + ([IMAGE] if image else [])
    for turn in turns:
        if turn.role is Role.USER:
            placed = [Piece("In: "), *pieces_of(turn), Piece("\nOut:")]
            pieces += placed if turn.images else [Piece(f"In: {turn.text}\nOut:")]
        else:
            pieces += [Piece(" " + turn.text, supervised=True), marker(EOS, supervised=True)]
    return pieces


def _content(conversation: Conversation, index: int, image: bool) -> list[Piece]:
    """Return a turn's text, after the image and a newline if it is the first user turn of a sample with an image."""
    turn = conversation[index]
    first = next(i for i, other in enumerate(conversation) if other.role is Role.USER or i == len(conversation) - 1)
    opens = image and turn.role is Role.USER and index == first
    return [*([IMAGE, Piece("\n")] if opens else []), *pieces_of(turn)]
