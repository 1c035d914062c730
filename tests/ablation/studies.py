"""Small studies for tests: random towers and language models, a dozen images, a few steps."""

import json

import yaml

from olivine.testing import tiny_model_recipe, write_dataset


def write_study(folder, *, steps=2, questions=4, seeds=(0,), axes=None, **more):
    """Write a two-stage base recipe, its data, questions about its images, and a study; return the study's path."""
    dataset = write_dataset(folder / "data", items=20)
    images = str(dataset.parent / "images")
    stage = {"data": "all", "batch": 4, "lr": 1e-3, "steps": steps, "held_out": 2, "validate_every": 0}
    base = {
        "name": "tiny",
        "model": tiny_model_recipe().model_dump(by_alias=True, mode="json"),
        "data": {"all": {"json": str(dataset), "images": images}},
        "stages": [
            {"name": "align", "train": ["connector"], **stage},
            {"name": "instruct", "train": ["connector", "language"], **stage},
        ],
        "optimizer": {"precision": "fp32"},
    }
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    rows = [
        {"question_id": n, "image": f"{n % 4}.png", "text": f"is there a circle? {n}", "answer": "yes", "category": "c"}
        for n in range(questions)
    ]
    asked = folder / "asked"
    asked.mkdir()
    (asked / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (asked / "images").symlink_to(images)
    study = {
        "name": "small",
        "base": "base.yaml",
        "axes": axes
        or {
            "depth": {"two": {}, "one": {"model.language.from.num_hidden_layers": 1}},
            "align": {"yes": {}, "no": {"stages.align.skip": True}},
        },
        "seeds": list(seeds),
        "benchmarks": {"exact-match": str(asked)},
        "output": str(folder / "run"),
        **more,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path
