"""Prompts as LLaVA's own code makes them: text of a conversation template, tokenised in pieces around the image."""

from typing import Any

_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
#: `conv_gemma` of IntelLabs/multimodal_cognitive_ai and `v1` of haotian-liu/LLaVA, conversation.py.
_GEMMA = "<start_of_turn>user\n<image>\n{question}<end_of_turn>\n<start_of_turn>model\n"
_V1 = _SYSTEM + " USER: <image>\n{question} ASSISTANT:"
#: The text that each of Olivine's templates stands for.
TEXTS = {"gemma": _GEMMA, "vicuna": _V1, "llava-v1": _V1}


def spliced(tokenizer: Any, text: str, question: str, image: list[int]) -> list[int]:
    """Return the ids of a prompt (mm_utils.py, tokenizer_image_token).

    Args:
        tokenizer: the published model's, without an image token.
        text: one of `TEXTS`.
        question: goes into it.
        image: what stands for the image.
    """
    before, after = (list(tokenizer(chunk).input_ids) for chunk in text.format(question=question).split("<image>"))
    repeated = bool(before) and before[0] == tokenizer.bos_token_id
    return [*before, *image, *(after[1:] if repeated else after)]
