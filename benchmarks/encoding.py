"""How fast conversations are tokenised, against the bare tokenizer on the same text, one call per conversation.

Small tokenizers of four families always; published ones where OLIVINE_REAL_TOKENIZERS names their folder (`make
real-parts` says how to get them). Bare tokenizer and encoder alternate, chunk by chunk, and each ratio is the median
over rounds: a busy machine slows both. `again` is what a further encoder of one tokenizer costs.
"""

import os
import statistics
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

from report import arguments, show

from olivine.data.encoding import TemplateEncoder
from olivine.data.template import OWN, TEMPLATES
from olivine.model.extra_tokens import make_markers_special
from olivine.model.own_template import own_template
from olivine.model.processor import saved_chat_template
from olivine.model.tokenizers import image_token
from olivine.records import Conversation, Role, Turn
from olivine.testing import gemma_tokenizer, llama_tokenizer
from olivine.testing.tokenizers import chat_tokenizer

SMALL = {
    "small gemma": (gemma_tokenizer, "gemma"),
    "small llama": (llama_tokenizer, "vicuna"),
    "small qwen": (lambda: chat_tokenizer("chatml"), "chatml"),
    "small llama3": (lambda: chat_tokenizer("llama3"), "llama3"),
}
REAL = {
    "gemini": ("gemma", OWN),
    "gemma3": ("gemma", OWN),
    "llama2": ("vicuna",),
    "llama3": ("llama3", OWN),
    "qwen3": ("chatml", OWN),
}
WORDS = ("the", "a", "image", "shows", "red", "circle", "to the left", "of", "blue", "square,", "and", "person", "near")
WORDS += (
    "is",
    "there",
    "what",
    "color",
    "how many",
    "yes",
    "no;",
    "because",
    "street",
    "building",
    "wearing",
    "holding",
)


def conversations(count: int) -> list[Conversation]:
    """As long as LLaVA's instructions: one to five questions of 5 to 30 words, replies of 1 to 60."""
    draw = Random(0)

    def text(fewest: int, most: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(fewest, most)))

    return [
        tuple(
            turn
            for _ in range(draw.randint(1, 5))
            for turn in (Turn(Role.USER, text(5, 30)), Turn(Role.ASSISTANT, text(1, 60)))
        )
        for _ in range(count)
    ]


def measure(name: str, tokenizer: Any, template: str, talks: list[Conversation], rounds: int) -> dict[str, Any]:
    token_id = image_token(tokenizer)
    chosen = own_template(tokenizer) if template == OWN else TEMPLATES[template]
    make_markers_special(tokenizer, chosen)
    costs = []
    for _ in range(2):
        start = time.perf_counter()
        encoder = TemplateEncoder(chosen, tokenizer, image_token_id=token_id, image_tokens=576)
        costs.append(time.perf_counter() - start)
    jinja = saved_chat_template(chosen, tokenizer)
    said = [[{"role": turn.role.value, "content": turn.text} for turn in talk] for talk in talks]
    texts = tokenizer.apply_chat_template(said, chat_template=jinja, tokenize=False)
    bare = tokenizer.backend_tokenizer
    ratios, speeds = [], []
    tokens = 0
    for _ in range(rounds):
        spent = [0.0, 0.0]
        tokens = 0
        for talk, text in zip(talks, texts, strict=True):
            start = time.perf_counter()
            tokens += len(bare.encode(text, add_special_tokens=True).ids)
            middle = time.perf_counter()
            encoder.conversation(talk, False)
            spent[0] += middle - start
            spent[1] += time.perf_counter() - middle
        ratios.append(spent[0] / spent[1])
        speeds.append(tokens / spent[1])
    assert tokens == sum(len(encoder.conversation(talk, False)) for talk in talks), "not the same text"
    return {
        "tokenizer": name,
        "template": template,
        "tokens": tokens,
        "tokens_per_s": round(max(speeds)),
        "of_bare": round(statistics.median(ratios), 3),
        "first_encoder_s": round(costs[0], 3),
        "again_s": round(costs[1], 3),
    }


def main() -> None:
    wanted = arguments(__doc__).parse_args()
    talks = conversations(60 if wanted.quick else 600)
    rounds = 1 if wanted.quick else 7
    rows = [measure(name, make(), template, talks, rounds) for name, (make, template) in SMALL.items()]
    root = os.environ.get("OLIVINE_REAL_TOKENIZERS")
    if root is not None:
        from transformers import AutoTokenizer

        for name, templates in REAL.items():
            for template in templates:
                tokenizer = AutoTokenizer.from_pretrained(Path(root) / f"tokenizer-{name}" / "models")
                rows.append(measure(name, tokenizer, template, talks, rounds))
    else:
        print("OLIVINE_REAL_TOKENIZERS is not set: small tokenizers alone.", file=sys.stderr)
    kinds = {
        "small tokenizers": [row for row in rows if row["tokenizer"] in SMALL],
        "published tokenizers, named templates": [
            row for row in rows if row["tokenizer"] in REAL and row["template"] != OWN
        ],
        "published tokenizers, their own templates": [row for row in rows if row["template"] == OWN],
    }
    ratios = {
        f"slowest of the bare tokenizer: {kind}": min(row["of_bare"] for row in found)
        for kind, found in kinds.items()
        if found
    }
    show(wanted, ratios, rows)


if __name__ == "__main__":
    main()
