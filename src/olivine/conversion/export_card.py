"""The model card beside an export: what was trained on what, how it scores, and how far the other side agrees.

Everything that comes from a recipe or from data is written as text: no markup of it survives, and no local path.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from olivine.conversion.proof import Proof
from olivine.files import read_json
from olivine.statistics.correlated import mean_interval

RECIPE, PROVENANCE = "recipe.yaml", "provenance.json"
#: A model's name on the hub.
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|~-])")
_LONGEST = 300


def escaped(text: Any) -> str:
    """Return text from outside for one line of Markdown: no HTML, no Markdown, no line break, no control character."""
    line = " ".join(str(text).split())[:_LONGEST]
    line = "".join(letter if letter.isprintable() else "\ufffd" for letter in line)
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\1", line)


def run_of(checkpoint: Path) -> Path | None:
    """Return the run directory that a checkpoint lies in, by its recipe and provenance; None for a bare folder."""
    for folder in checkpoint.absolute().parents[:2]:
        if (folder / RECIPE).is_file() and (folder / PROVENANCE).is_file():
            return folder
    return None


def card(checkpoint: Path, target: str, name: str, license_name: str | None, proof: Proof | None, skipped: str) -> str:
    """Return the card's Markdown.

    Args:
        checkpoint: the model folder that was exported.
        target: what for.
        name: the model's name.
        license_name: as the user gave it; None says that none is stated.
        proof: of the export, or None.
        skipped: why there is none.
    """
    run = run_of(checkpoint)
    recipe = yaml.safe_load((run / RECIPE).read_text(encoding="utf-8")) if run else None
    head: dict[str, Any] = {"pipeline_tag": "image-text-to-text", "library_name": _library(target)}
    if license_name is not None:
        head["license"] = license_name
    bases = _bases(recipe)
    if bases:
        head["base_model"] = bases
    stated = f"License: {escaped(license_name)}." if license_name else "License: not stated by its maker (`--license`)."
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=True, allow_unicode=True).strip(),
        "---",
        f"# {escaped(name)}",
        "",
        f"A vision-language model in the LLaVA recipe, exported by Olivine for {target}. {stated}",
        "The licenses of the models it was built from and of its training data apply as well.",
        "",
        *_scores(run),
        *_agreement(proof, skipped),
        *(_data(run) if run else []),
        *_recipe(recipe),
    ]
    return "\n".join(lines) + "\n"


def _library(target: str) -> str:
    return "gguf" if target == "gguf" else "transformers"


def _bases(recipe: Any) -> list[str]:
    """Return the hub's names of the models that a recipe starts from."""
    if not isinstance(recipe, dict):
        return []
    sources = [recipe.get("model", {}).get(part, {}).get("from") for part in ("vision", "language")]
    return [source for source in sources if isinstance(source, str) and _HUB_ID.fullmatch(source)]


def _scores(run: Path | None) -> list[str]:
    if run is None:
        return []
    rows = []
    for scores in sorted(run.glob("evaluation/*/scores.json")):
        values, items = read_json(scores), scores.with_name("items.jsonl")
        if values.get("control") is not None or not items.is_file():
            continue
        rows.append(f"| {escaped(values.get('benchmark'))} | {_with_interval(items)} | {values.get('items')} |")
    if not rows:
        return ["No scores were recorded beside the checkpoint.", ""]
    return [
        "## Scores",
        "",
        "Share of questions answered correctly by each benchmark's own rule, with 95 % intervals over images.",
        "",
        "| benchmark | correct | questions |",
        "|---|---|---|",
        *rows,
        "",
    ]


def _with_interval(items: Path) -> str:
    found: dict[str, list[float]] = {}
    with items.open(encoding="utf-8") as file:
        for line in file:
            item = json.loads(line)
            found.setdefault(item["cluster"], []).append(item["correct"])
    if not found:
        return "no answers"
    right, squares = (np.array([sum(v**k for v in values) for values in found.values()]) for k in (1, 2))
    asked = np.array([len(values) for values in found.values()], dtype=float)
    score = 100 * right.sum() / asked.sum()
    if len(found) == 1:
        return f"{score:.1f} %"
    low, high = mean_interval(right[:, None], squares[:, None], asked[:, None])
    return f"{score:.1f} % ({100 * low[0]:.1f} to {100 * high[0]:.1f})"


def _agreement(proof: Proof | None, skipped: str) -> list[str]:
    if proof is None:
        return ["## Agreement", "", f"Not measured: {escaped(skipped)}", ""]
    notes = [f"- {escaped(note)}" for note in proof.notes]
    verdict = "" if proof.passed else " **Below what this precision requires; exported all the same.**"
    return ["## Agreement", "", f"With Olivine's own answers: {escaped(proof.summary())}.{verdict}", *notes, ""]


def _data(run: Path) -> list[str]:
    data: Mapping[str, Any] = read_json(run / PROVENANCE).get("data", {})
    rows = [
        f"| {escaped(name)} | {escaped(Path(str(of.get('json', ''))).name)} | {escaped(of.get('samples', ''))} "
        f"| {escaped(of.get('sha256', ''))} |"
        for name, of in data.items()
        if isinstance(of, dict)
    ]
    return ["## Data", "", "| source | file | samples | SHA-256 |", "|---|---|---|---|", *rows, ""] if rows else []


def _recipe(recipe: Any) -> list[str]:
    if recipe is None:
        return ["The recipe is not known: the checkpoint did not lie in a run directory.", ""]
    text = yaml.safe_dump(_without_paths(recipe), sort_keys=False, allow_unicode=False)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return ["## Recipe", "", f"{fence}yaml", text.rstrip(), fence, ""]


def _without_paths(value: Any) -> Any:
    """Leave file names, not the folders of this machine."""
    if isinstance(value, dict):
        return {key: _without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_paths(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
