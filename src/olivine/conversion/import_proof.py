"""The proof of an import: what was written, run by today's transformers, against the source as its own time ran it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from olivine.conversion.export_samples import COUNT, ProofSample, drawn_samples
from olivine.conversion.proof import Proof, Side, compare
from olivine.conversion.published import Published
from olivine.conversion.raw_tensors import model_tensors
from olivine.conversion.reference.prompts import TEXTS, spliced
from olivine.conversion.reference.run import not_written_out, reference_logits
from olivine.errors import RunError
from olivine.model.hub_names import hub_name
from olivine.model.plain_llava import checked_logits, plain_logits
from olivine.model.streamed_weights import streamed
from olivine.model.tokenizers import load_tokenizer
from olivine.model.vlm import VisionLanguageModel

#: Models with more weights than `LARGE` are asked fewer questions.
LARGE, COUNT_OF_LARGE = 10**9, 4
#: Largest difference of logits, as a share of the largest, where weights were computed and then rounded to 16 bits.
ROUNDED_AGREE = {"float32": 1e-4, "float16": 0.01, "bfloat16": 0.02}


def samples_for(weights: int, asked: int | None) -> list[ProofSample]:
    """Return as many drawn images and questions as asked, or as the model's number of weights allows."""
    return drawn_samples(asked or (COUNT if weights <= LARGE else COUNT_OF_LARGE))


def prove(
    published: Published,
    vlm: VisionLanguageModel,
    folder: Path,
    samples: Sequence[ProofSample],
    *,
    rounded: bool,
    as_it_is: bool,
) -> Proof:
    """Run both sides, one after the other, in fp32 over the stored weights, and compare.

    Args:
        published: the source.
        vlm: the imported model without weights, whose prompts both sides get.
        folder: holds its weights.
        samples: images and questions.
        rounded: weights were computed and then rounded to 16 bits, so that they are not the source's.
        as_it_is: tensors have the source's names, which transformers alone knows how to read, with the whole model in
            memory.

    Raises:
        RequestError: the folder cannot be read.
        RunError: there is nothing to compare with.
    """
    prompts = _prompts(vlm, samples)
    their_prompts = _their_prompts(published, vlm, samples) or prompts
    missing = not_written_out(published)
    images = [sample.image for sample in samples]
    pixels = [torch.from_numpy(vlm.transform(image)[None]) for image in images]
    if missing is None:
        config = vlm.model.config
        theirs = reference_logits(
            published, vlm.transform, images, their_prompts, config.image_token_id, written=config.dtype
        )
        runtime = f"{published.layout}, written out"
    elif published.today is not None:
        theirs, runtime = plain_logits(published.folder, their_prompts, pixels)
    else:
        raise RunError(
            f"there is nothing to compare with: {missing} is not written out in the proof. Give --force to import "
            "without it."
        )
    if as_it_is:
        ours = checked_logits(folder, prompts, pixels, f"FOLDER: {published.folder}")
    else:
        ours = imported_logits(vlm, folder, prompts, pixels)
    dtype = str(vlm.model.config.dtype).removeprefix("torch.")
    proof = compare(_side("Olivine", vlm, ours, prompts), _side(runtime, vlm, theirs, their_prompts), dtype, exact=True)
    bound = ROUNDED_AGREE[dtype] if rounded else proof.required_difference
    notes = ("An answer is the most probable first token.", "Both sides compute in fp32 with the stored weights.")
    return replace(proof, required_difference=bound, notes=notes)


@torch.no_grad()
def imported_logits(
    vlm: VisionLanguageModel, folder: Path, prompts: Sequence[Sequence[int]], pixels: Sequence[Tensor]
) -> list[Tensor]:
    """Return the logits `[vocabulary]` behind each prompt, by transformers' own modules with weights read when used.

    Args:
        vlm: without weights.
        folder: holds them.
        prompts: token ids.
        pixels: `[1, 3, size, size]` each.
    """
    stored = model_tensors(folder, "output")
    config = vlm.model.config

    def read(name: str) -> Tensor:
        raw = stored[_table(hub_name(name, config), stored)]
        made = torch.empty(raw.shape, dtype=torch.float32)
        step = max(1, 2**24 * len(made) // max(1, made.numel()))
        for start in range(0, len(made), step):
            made[start : start + step] = raw.rows(start, min(start + step, len(made)))
        return made

    logits = []
    with streamed(vlm.model, read):
        for ids, image in zip(prompts, pixels, strict=True):
            tokens = torch.tensor([list(ids)])
            out = vlm.model(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                pixel_values=image,
                logits_to_keep=1,
                use_cache=False,
            )
            logits.append(out.logits[0, -1].float())
    return logits


def _table(name: str, stored: Any) -> str:
    """Return a tensor's name in the files: a tied head is stored once, as the embedding."""
    if name in stored or not name.endswith("lm_head.weight"):
        return name
    return next(each for each in stored if each.endswith("embed_tokens.weight"))


def _prompts(vlm: VisionLanguageModel, samples: Sequence[ProofSample]) -> list[list[int]]:
    encoder = vlm.encoder()
    asked = [encoder.prompt(sample.question, True, None) for sample in samples]
    return [[*prefix, *continuation] for prefix, continuation in asked]


def _their_prompts(
    published: Published, vlm: VisionLanguageModel, samples: Sequence[ProofSample]
) -> list[list[int]] | None:
    """Return prompts as LLaVA's own code makes them; None if neither folder nor template is LLaVA's."""
    if published.template is not None or vlm.template not in TEXTS:
        return None
    tokenizer = load_tokenizer(published.tokenizer, "--tokenizer")
    image = [vlm.model.config.image_token_id] * vlm.image_tokens
    return [spliced(tokenizer, TEXTS[vlm.template], sample.question, image) for sample in samples]


def _side(runtime: str, vlm: VisionLanguageModel, logits: Sequence[Tensor], prompts: Sequence[Sequence[int]]) -> Side:
    answers = [vlm.tokenizer.decode([int(each.argmax())]) for each in logits]
    return Side(runtime, answers, [len(each) for each in prompts], np.stack([each.numpy() for each in logits]))
