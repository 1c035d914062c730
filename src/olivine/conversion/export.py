"""`olivine export`: a checkpoint for another runtime, with a model card and the proof that it answers alike there.

What is written for each target is in `export_transformers` and in the `gguf` modules.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from olivine.conversion import gguf_file
from olivine.conversion.export_card import card
from olivine.conversion.export_samples import ProofSample, drawn_samples
from olivine.conversion.export_transformers import (
    DTYPES,
    cast,
    check_plain,
    check_vllm,
    divide_last_layer,
    write_folder,
)
from olivine.conversion.gguf_language import check_language, language_file
from olivine.conversion.gguf_vision import ClassOrder, check_vision, vision_file
from olivine.conversion.gguf_vocabulary import begins_with_space
from olivine.conversion.llama_cpp import llama_cpp_library, llama_side
from olivine.conversion.llama_template import llama_template
from olivine.conversion.plain_transformers import plain_side
from olivine.conversion.proof import MAX_NEW_TOKENS, Proof, Side, compare, own_side
from olivine.errors import RequestError, RunError, unknown_name
from olivine.files import atomic_folder, read_json, write_json, write_text
from olivine.model import checkpoint
from olivine.model.vlm import VisionLanguageModel

Target = Literal["transformers", "transformers-4", "gguf", "vllm"]
TARGETS: tuple[str, ...] = get_args(Target)
#: Precisions of a GGUF file by the names of dtypes.
_GGUF: dict[str, gguf_file.Precision] = {"float32": "f32", "float16": "f16", "q8_0": "q8_0"}
PROOF, CARD = "proof.json", "README.md"
LANGUAGE_FILE, VISION_FILE = "model.gguf", "mmproj.gguf"


@dataclass(frozen=True, slots=True)
class Export:
    """A request.

    Attributes:
        checkpoint: the model folder.
        target: what for.
        output: the folder to write; it must not exist.
        dtype: of the weights; None keeps the checkpoint's (float16 for gguf).
        python: an interpreter with the target's transformers; None is this one, or skips the proof of transformers-4.
        samples: what the proof asks; None draws images.
        force: keep an export whose proof fails.
        license_name: for the card.
        class_order: where the graph of the llama.cpp that will run the file has the class token.
    """

    checkpoint: Path
    target: str
    output: Path
    dtype: str | None = None
    python: str | None = None
    samples: Sequence[ProofSample] | None = None
    force: bool = False
    license_name: str | None = None
    class_order: ClassOrder = "last"


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and its proof or why there is none."""

    folder: Path
    proof: Proof | None
    skipped: str = ""


def export(request: Export) -> Exported:
    """Write the export, ask both sides, and leave the folder only if they agree, or if `force` is set.

    Raises:
        RequestError: the target cannot hold the model; the request is wrong.
        DataError: the checkpoint is damaged.
        RunError: the proof fails, or the other side does not run.
    """
    stored = _checked(request)
    dtype = request.dtype or ("float16" if request.target == "gguf" else stored)
    vlm = checkpoint.load(request.checkpoint)
    _check_model(vlm, request)
    samples = request.samples or _drawn(vlm, request.target)
    vlm.cast(torch.float32)
    own = own_side(vlm, samples)
    with atomic_folder(request.output) as folder:
        other, skipped, notes = _write_and_ask(vlm, folder, request, dtype, samples)
        proof = None
        if other is not None:
            exact = DTYPES.get(dtype) in (torch.float32, DTYPES[stored]) and request.target != "transformers-4"
            exact = exact or (request.target == "transformers-4" and dtype == "float32")
            proof = compare(own, other, dtype, exact=exact, notes=notes)
            write_json(folder / PROOF, proof.as_json())
            if not proof.passed and not request.force:
                raise RunError(
                    f"{request.output}: the proof failed, nothing was written. {proof.summary()}. "
                    "Give --force to keep such an export."
                )
        name = request.checkpoint.absolute().parent.parent.name or request.checkpoint.name
        text = card(request.checkpoint, request.target, name, request.license_name, proof, skipped)
        write_text(folder / CARD, text)
    return Exported(request.output, proof, skipped)


def _checked(request: Export) -> str:
    """Return the dtype in which the checkpoint is stored."""
    if request.target not in TARGETS:
        raise RequestError(f"--to: {unknown_name(request.target, TARGETS)}")
    known = tuple(_GGUF) if request.target == "gguf" else tuple(DTYPES)
    if request.dtype is not None and request.dtype not in known:
        raise RequestError(f"--dtype: {unknown_name(request.dtype, known)}")
    if request.output.exists():
        raise RequestError(f"--output: {request.output} exists. Name a folder that does not.")
    if request.target == "gguf":
        gguf_file.gguf_library()
        llama_cpp_library()
    stored = read_json(request.checkpoint / "config.json").get("dtype") if request.checkpoint.is_dir() else None
    return stored if stored in DTYPES else "float32"


def _check_model(vlm: VisionLanguageModel, request: Export) -> None:
    config = vlm.model.config
    if request.target == "vllm":
        check_vllm(config)
    elif request.target == "gguf":
        check_language(vlm.language.config)
        check_vision(vlm)
    else:
        check_plain(config, request.target)


def _drawn(vlm: VisionLanguageModel, target: str) -> list[ProofSample]:
    """Return drawn samples; of the tower's own size for llama.cpp, which resizes images in another way."""
    return drawn_samples(side=vlm.transform.size if target == "gguf" else None)


def _write_and_ask(
    vlm: VisionLanguageModel, folder: Path, request: Export, dtype: str, samples: Sequence[ProofSample]
) -> tuple[Side | None, str, list[str]]:
    """Return the other side, or why it was not asked, and notes for the record."""
    if request.target == "gguf":
        return _gguf(vlm, folder, request, dtype, samples)
    older = request.target == "transformers-4"
    if older:
        divide_last_layer(vlm)
    cast(vlm, dtype)
    write_folder(vlm, folder / "model", before_5_4=older)
    for path in (folder / "model").iterdir():
        path.rename(folder / path.name)
    (folder / "model").rmdir()
    if older and request.python is None:
        skipped = "transformers before 5.4 was not run: name an interpreter that has it with --python."
        return None, skipped, []
    notes = ["vLLM itself was not run; plain transformers read the same folder."] if request.target == "vllm" else []
    return plain_side(folder, samples, request.python or sys.executable), "", notes


def _gguf(
    vlm: VisionLanguageModel, folder: Path, request: Export, dtype: str, samples: Sequence[ProofSample]
) -> tuple[Side, str, list[str]]:
    precision, name = _GGUF[dtype], request.checkpoint.absolute().parent.parent.name
    template = llama_template((request.checkpoint / "chat_template.jinja").read_text(encoding="utf-8"))
    if begins_with_space(request.checkpoint):
        template = f"{{{{ ' ' }}}}{template}"
    language, vision = folder / LANGUAGE_FILE, folder / VISION_FILE
    images = [sample.image for sample in samples]
    vision_content = vision_file(vlm, images, name, class_order=request.class_order)
    gguf_file.write(language, language_file(vlm, request.checkpoint, template, name), precision)
    gguf_file.write(vision, vision_content, precision)
    context = vlm.image_tokens + 256 + MAX_NEW_TOKENS
    notes = [
        "llama.cpp computes GELU in its tanh form from a table in fp16: log-probabilities differ even in fp32.",
        "llama.cpp resizes images that are not of the tower's size in its own way.",
    ]
    if request.class_order == "last" and "v.class_embd" in vision_content.tensors:
        notes.append(
            "The tower is widened for a llama.cpp whose LLaVA graph has the class token behind the patches, as "
            "it has since 2025; in one with the class token first it is wrong (--class-token first)."
        )
    return llama_side(language, vision, samples, context=context), "", notes
