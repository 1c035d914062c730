"""`olivine import`: a published model as a model folder of Olivine's, with a record of repairs and a proof.

What a folder holds is for `layouts` to say, what becomes of its tensors for `assemble`, the proof is in `import_proof`.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from olivine.conversion.assemble import embedding, embedding_rows, planned_tensors, text_values, under_file_names
from olivine.conversion.gemma_time import SCALED
from olivine.conversion.import_proof import prove, samples_for
from olivine.conversion.layouts.registry import recognise
from olivine.conversion.proof import Proof
from olivine.conversion.published import ImportOptions, Published, Repair
from olivine.conversion.reference.prompts import TEXTS, spliced
from olivine.conversion.tensor_stream import PlannedTensor, as_stored, write_tensors
from olivine.data.image_fit import ImageTransform
from olivine.data.template import TEMPLATE_NAMES, TEMPLATES
from olivine.data.vocabulary import IMAGE_TOKEN
from olivine.errors import RequestError, RunError, unknown_name
from olivine.files import atomic_folder, full_disk_reported, write_json
from olivine.model.companion import write_companion
from olivine.model.configuration import model_config
from olivine.model.encoders import template_encoder
from olivine.model.languages.registry import language_family
from olivine.model.outline import expected_tensors, outline, write_settings
from olivine.model.preprocessor import described_transform
from olivine.model.tokenizers import check_vocabulary_rows, image_token, load_tokenizer
from olivine.model.towers.joined import JOINED
from olivine.model.towers.registry import tower_family
from olivine.model.vlm import VisionLanguageModel

RECORD = "import.json"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_KEY = "FOLDER"
_ASKED = "What is in the image?"


@dataclass(frozen=True, slots=True)
class Import:
    """A request.

    Attributes:
        folder: the published model.
        output: the folder to write; it must not exist.
        options: what the user says of the model.
        dtype: of the weights; None keeps the language model's.
        samples: how many questions the proof asks; None goes by the model's size.
        force: import without a proof, or against it.
    """

    folder: Path
    output: Path
    options: ImportOptions = field(default_factory=ImportOptions)
    dtype: str | None = None
    samples: int | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Imported:
    """What was written, from which layout, what was repaired, what is not known, and the proof or why there is none."""

    folder: Path
    layout: str
    repairs: tuple[Repair, ...]
    unknown: tuple[str, ...]
    proof: Proof | None
    unproven: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the record that is written beside the model."""
        return {
            "layout": self.layout,
            "repairs": [asdict(each) for each in self.repairs],
            "unknown": list(self.unknown),
            "proof": self.proof.as_json() if self.proof else None,
            "unproven": self.unproven or None,
        }


@dataclass(frozen=True, slots=True)
class _Plan:
    vlm: VisionLanguageModel
    tensors: list[PlannedTensor]
    dtype: torch.dtype
    rounded: bool
    as_it_is: bool

    @property
    def weights(self) -> int:
        return sum(each.count for each in self.tensors)


def import_model(request: Import, say: Callable[[str], None] = lambda _line: None) -> Imported:
    """Write the model, prove it, and leave the folder only if the proof holds, or if `force` is set.

    Args:
        request: what is imported, and how.
        say: told what is under way.

    Raises:
        RequestError: the folder holds nothing that is known, or damaged files; the request is wrong; something must
            be said by an option.
        RunError: the proof fails, or there is nothing to compare with.
    """
    _check(request)
    layout, source = recognise(request.folder)
    published = layout.read(source, request.options)
    _check_options(request.options, published)
    plan = _planned(published, request)
    _check_space(request.output, plan)
    say(f"layout: {published.layout}; writing {plan.weights * plan.dtype.itemsize / 1e9:.2g} GB")
    with atomic_folder(request.output) as folder, full_disk_reported(request.output):
        write_settings(folder, plan.vlm, plan.dtype)
        write_tensors(folder, plan.tensors)
        made = _proven(published, plan, folder, request, say)
        write_json(folder / RECORD, made.as_json())
        write_companion(folder, plan.vlm.template, plan.vlm.transform)
    return made


def _check(request: Import) -> None:
    if request.dtype is not None and request.dtype not in DTYPES:
        raise RequestError(f"--dtype: {unknown_name(request.dtype, DTYPES)}")
    if request.options.template is not None and request.options.template not in TEMPLATE_NAMES:
        raise RequestError(f"--template: {unknown_name(request.options.template, TEMPLATE_NAMES)}")
    if request.output.exists():
        raise RequestError(f"--output: {request.output} exists. Name a folder that does not.")
    if request.samples is not None and request.samples < 1:
        raise RequestError(f"--samples: {request.samples}; expected a number from 1.")


def _check_options(options: ImportOptions, published: Published) -> None:
    """Refuse options that this layout or model does not use."""
    model_type = published.text["model_type"]
    if options.image_scale is not None and model_type not in SCALED:
        raise RequestError(f"--image-scale: only Gemma ever scaled image features; this is a {model_type!r}.")
    if options.activation is not None and model_type != "gemma":
        raise RequestError(f"--activation: only Gemma's is in doubt; this is a {model_type!r}.")
    for name, asked in (("base", options.base), ("tower", options.tower)):
        if asked is not None and name not in published.taken:
            raise RequestError(f"--{name}: this folder ({published.layout}) holds its own. Leave it out.")


def _planned(published: Published, request: Import) -> _Plan:
    where = f"{_KEY}: {published.folder}"
    language_family(published.text["model_type"], where)
    tokenizer = load_tokenizer(published.tokenizer, "--tokenizer")
    check_vocabulary_rows(tokenizer, embedding(published).shape[0], "--tokenizer")
    own_beginning = _writes_beginning(tokenizer)
    image_id = image_token(tokenizer)
    if published.image_token_id not in (None, image_id):
        raise RequestError(
            f"{where}: config.json has {IMAGE_TOKEN} as id {published.image_token_id}, the tokenizer as {image_id}. "
            "Give the tokenizer that belongs to the model (--tokenizer)."
        )
    rows = embedding_rows(published, max(len(tokenizer), image_id + 1))
    vision = model_config(published.vision, where)
    vlm = outline(
        text_values(published, rows),
        published.vision,
        tokenizer,
        _template(published, tokenizer, image_id),
        _transform(published, vision, where),
        image_token_id=image_id,
        layer=published.layer,
        strategy=published.strategy,
        activation=published.projector_activation,
        connector=published.connector,
        stop_ids=published.stop_ids,
        key=where,
    )
    _say_tokens(published, vlm, own_beginning)
    planned = planned_tensors(published, rows, DTYPES[request.dtype] if request.dtype else None)
    expected = expected_tensors(vlm)
    # Some towers' modules have other names than files have in any version; transformers alone knows which.
    as_it_is = published.today is not None and {each.name for each in planned} != expected.keys()
    if as_it_is and published.today is not None and rows == embedding(published).shape[0]:
        tensors = [as_stored(name, raw, planned[0].dtype) for name, raw in published.today.items()]
    else:
        tensors = under_file_names(planned, expected, where)
    dtype = tensors[0].dtype
    computed = published.image_scale == "sqrt-hidden" or bool(published.adapters)
    rounded = dtype != torch.float32 and (computed or dtype != embedding(published).dtype)
    return _Plan(vlm, tensors, dtype, rounded, as_it_is)


def _transform(published: Published, vision: Any, where: str) -> ImageTransform:
    if vision.model_type == JOINED:  # of several towers, which all take the first one's images
        vision = model_config(vision.parts[0]["config"], where)
    family = tower_family(vision.model_type, where)
    return described_transform(published.preprocessor, published.fit, vision, family, f"{where}: image processor")


def _template(published: Published, tokenizer: Any, image_id: int) -> str:
    """Return the template of training, or the language model's own, which is then said."""
    if published.template is not None:
        return published.template
    family = language_family(published.text["model_type"])
    name = family.template(tokenizer.get_vocab().keys(), TEMPLATES.keys(), "--template")
    if name == "vicuna" and not _as_llava(published, tokenizer, name, image_id):
        name = "llava-v1"
        published.repairs.append(
            Repair(
                "chat template llava-v1: a space behind the image",
                "LLaVA's own code tokenises what follows an image separately, and this tokenizer then puts a space "
                "before it; transformers' processor does not",
            )
        )
    advice = f"; {published.template_advice}" if published.template_advice else ""
    published.unknown.append(f"the chat template of training: {name} is taken (--template){advice}")
    return name


def _as_llava(published: Published, tokenizer: Any, name: str, image_id: int) -> bool:
    """Return whether prompts in a template have the ids that LLaVA's own code gives them."""
    encoder = template_encoder(TEMPLATES[name], tokenizer, image_token_id=image_id, image_tokens=1)
    prefix, continuation = encoder.prompt(_ASKED, True, None)
    plain = load_tokenizer(published.tokenizer, "--tokenizer")
    return [*prefix, *continuation] == spliced(plain, TEXTS[name], _ASKED, [image_id])


def _writes_beginning(tokenizer: Any) -> bool:
    """Return whether the documented use in two steps writes the beginning of sequence twice."""
    template = getattr(tokenizer, "chat_template", None)
    adds = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    return adds and isinstance(template, str) and "bos_token" in template


def _say_tokens(published: Published, vlm: VisionLanguageModel, own_beginning: bool) -> None:
    if own_beginning:
        published.repairs.append(
            Repair(
                "a chat template that leaves the beginning of sequence to the tokenizer",
                "the folder's own writes it, and the tokenizer adds another: prompts then begin twice",
            )
        )
    stops = vlm.model.generation_config.eos_token_id
    if set(stops) - set(published.stop_ids):
        published.repairs.append(
            Repair(
                f"replies end at the tokens {', '.join(map(str, stops))}",
                f"training taught the end of the template's turns ({vlm.template}); the folder's generation settings "
                f"name {', '.join(map(str, published.stop_ids)) or 'none'}",
            )
        )


def _check_space(output: Path, plan: _Plan) -> None:
    existing = next(parent for parent in output.absolute().parents if parent.exists())
    needed, free = plan.weights * plan.dtype.itemsize, shutil.disk_usage(existing).free
    if needed > free:
        raise RequestError(
            f"--output: {output} takes {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free there. Free disk space "
            "or give another folder."
        )


def _proven(published: Published, plan: _Plan, folder: Path, request: Import, say: Callable[[str], None]) -> Imported:
    proof, unproven = None, ""
    samples = samples_for(plan.weights, request.samples)
    say(f"proof: {len(samples)} questions to the source as it was, then to what was written")
    try:
        proof = prove(published, plan.vlm, folder, samples, rounded=plan.rounded, as_it_is=plan.as_it_is)
    except RunError as error:
        if not request.force:
            raise RunError(f"{request.output}: nothing was written: {error}") from None
        unproven = str(error)
    if proof is not None and not proof.passed and not request.force:
        raise RunError(
            f"{request.output}: the proof failed, nothing was written. {proof.summary()}. Give --force to keep such an "
            "import."
        )
    repairs, unknown = tuple(published.repairs), tuple(published.unknown)
    return Imported(request.output, published.layout, repairs, unknown, proof, unproven)
