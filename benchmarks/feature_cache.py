"""A study whose trainings share a large tower's features, against the same study running the tower in each.

    python benchmarks/feature_cache.py [--quick] [--json] [--out benchmarks/results/feature-cache-cpu.json]

Six trainings (connector alone, six rates) of a small language model over a CLIP of random weights, compared by the
seconds of all their steps and of waiting for batches, including those of computing the features. The table is small
enough to stay in the system's page cache: a larger table also has to be read from the disk.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from report import arguments, show
from transformers import CLIPVisionConfig, CLIPVisionModel

from olivine.ablation.plan import FeatureStep
from olivine.ablation.run import plan_study
from olivine.ablation.spent import spent
from olivine.files import read_json_lines
from olivine.testing import tiny_model_recipe, write_dataset


def write_study(folder: Path, quick: bool) -> Path:
    """Write the study, its base recipe, its tower and its data; return the study's path."""
    width, layers, items, side = (64, 2, 24, 64) if quick else (384, 12, 160, 224)
    tower = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        image_size=side,
        patch_size=16,
    )
    CLIPVisionModel(tower).save_pretrained(folder / "tower")
    dataset = write_dataset(folder / "data", items=items)
    model = tiny_model_recipe().model_dump(by_alias=True, mode="json")
    model["vision"] |= {"from": str(folder / "tower"), "image_size": side}
    model["language"]["from"] |= {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4}
    stage = {"name": "align", "train": ["connector"], "data": "all", "batch": 16, "lr": 1e-3, "validate_every": 0}
    base = {
        "name": "cached",
        "model": model,
        "data": {"all": {"json": str(dataset), "images": str(dataset.parent / "images")}},
        "stages": [stage],
        "optimizer": {"precision": "fp32"},
    }
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    asked = folder / "asked"
    asked.mkdir()
    row = {"question_id": 0, "image": "0.png", "text": "is there a circle?", "answer": "yes", "category": "c"}
    (asked / "questions.jsonl").write_text(json.dumps(row) + "\n")
    (asked / "images").symlink_to(dataset.parent / "images")
    study = {
        "name": "cached",
        "base": "base.yaml",
        "axes": {"rate": {str(n): {"stages.align.lr": n / 1000} for n in range(1, 7)}},
        "benchmarks": {"exact-match": str(asked)},
        "controls": [],
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def run(study: Path, keep: str, folder: Path) -> dict[str, Any]:
    """Run the study with features kept or not; return its seconds of training and of computing features."""
    values = yaml.safe_load(study.read_text()) | {"features": keep, "output": str(folder / keep)}
    path = study.with_name(f"{keep}.yaml")
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    done = subprocess.run(
        [sys.executable, "-m", "olivine", "ablate", str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"the study failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    plan = plan_study(path)
    (benefit,) = plan.features
    features = {step.key for step in plan.steps.values() if isinstance(step, FeatureStep)}
    seconds = {step.key: step.seconds for step in spent(plan)}
    first = plan.stages[next(iter(plan.stages))][-1]
    losses = [row["loss"] for row in read_json_lines(plan.steps[first].folder / "metrics.jsonl") if "loss" in row]
    return {
        "features": keep,
        "training_s": round(sum(s for key, s in seconds.items() if key.startswith("align")), 2),
        "computing_s": round(sum(seconds[key] for key in features), 2),
        "plan_says_saved": round(benefit.saved or 0.0, 3),
        "megabytes": round((benefit.bytes or 0.0) / 1e6, 1),
        "losses": [round(loss, 5) for loss in losses],
    }


def main() -> None:
    requested = arguments(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        study = write_study(Path(name), requested.quick)
        rows = [run(study, keep, Path(name)) for keep in ("never", "always")]
    never, always = rows
    apart = max(abs(a - b) for a, b in zip(never.pop("losses"), always.pop("losses"), strict=True))
    assert apart < 1e-3, f"losses are {apart} apart"
    saved = 1 - (always["training_s"] + always["computing_s"]) / never["training_s"]
    show(
        requested,
        {"share of the seconds saved": round(saved, 3), "share that the plan said": always["plan_says_saved"]},
        rows,
    )


if __name__ == "__main__":
    main()
