"""A finished study without any training: files as the steps leave them, answers drawn with known effects."""

import hashlib
import json

import numpy as np
from PIL import Image, ImageDraw
from studies import write_study

from olivine.ablation.plan import StageStep, make_plan
from olivine.ablation.study import load_study
from olivine.evaluation import benchmarks
from olivine.evaluation.answers import to_row
from olivine.evaluation.run import ANSWERS, write_score
from olivine.files import write_json, write_json_lines
from olivine.records import Answer

AXES = {
    "language": {"small": {}, "large": {"model.language.from.num_hidden_layers": 3}},
    "vision": {"clip": {}, "dinov2": {"model.vision.layer": -1}},
    "align": {"yes": {}, "no": {"stages.align.skip": True}},
}
SAY = {
    "language": {"large": "The large language model instead of the small one"},
    "vision": {"dinov2": "DINOv2 instead of CLIP"},
    "align": {"no": "Skipping the connector's pretraining"},
}
#: What a level adds to the chance of a right answer.
EFFECTS = {"large": 0.04, "dinov2": 0.10, "no": -0.15}


def write_benchmarks(folder, images):
    """Write POPE (one setting), MME (two tasks) and exact match over drawn images; return folders by name."""
    random = np.random.default_rng(0)
    pope, mme, exact = (folder / name for name in ("pope", "mme", "exact"))
    for target in (pope / "images", mme / "existence", mme / "color", exact / "images"):
        target.mkdir(parents=True)
    for number in range(images):
        image = Image.new("RGB", (160, 120), tuple(int(v) for v in random.integers(90, 240, 3)))
        x, y = (int(v) for v in random.integers(10, 70, 2))
        colour = tuple(int(v) for v in random.integers(0, 160, 3))
        ImageDraw.Draw(image).ellipse((x, y, x + 45, y + 40), fill=colour)
        for target in (pope / "images", exact / "images", mme / "existence", mme / "color"):
            image.save(target / f"{number}.png")
        for task in ("existence", "color"):
            lines = ["Is there a ball? Please answer yes or no.\tYes", "Is there a cat? Please answer yes or no.\tNo"]
            (mme / task / f"{number}.txt").write_text("\n".join(lines) + "\n")
    rows = [
        {"question_id": n, "image": f"{n // 6}.png", "text": f"Is there a {thing} in the image?", "label": label}
        for n in range(6 * images)
        for thing, label in [(("ball", "yes"), ("cat", "no"))[n % 2]]
    ]
    write_json_lines(pope / "coco_pope_random.json", rows)
    kinds = (("colour", "red"), ("shape", "ball"), ("count", "one"))
    rows = [
        {
            "question_id": f"q{n}",
            "image": f"{n // 3}.png",
            "text": f"What {kind} is it?",
            "answer": answer,
            "category": kind,
        }
        for n in range(3 * images)
        for kind, answer in [kinds[n % 3]]
    ]
    write_json_lines(exact / "questions.jsonl", rows)
    return {"pope": str(pope), "mme": str(mme), "exact-match": str(exact)}


def write_finished(folder, *, images=24, seeds=(0,), wrong="something else", **more):
    """Write a finished study of eight configurations and return its plan; `wrong` answers open questions wrongly."""
    path = write_study(
        folder,
        axes=AXES,
        seeds=seeds,
        name="drawn",
        title="Answers drawn by chance with known effects, to try the report on: nothing was trained.",
        say=SAY,
        benchmarks=write_benchmarks(folder / "benchmarks", images),
        **more,
    )
    plan = make_plan(load_study(path))
    for key, step in plan.steps.items():
        if isinstance(step, StageStep):
            write_stage(step)
        else:
            ((configuration, seed), *_rest) = plan.used_by(key)
            write_evaluation(step, configuration, seed, wrong)
    return path, make_plan(load_study(path))


def write_stage(step):
    random = np.random.default_rng(int(hashlib.sha256(step.key.encode()).hexdigest()[:8], 16))
    loss = 3 * np.exp(-np.arange(200) / 40) + 0.2 + random.normal(0, 0.08, 200)
    rows = [{"step": n, "loss": float(v), "tokens": 4000, "seconds": 0.05} for n, v in enumerate(loss)]
    write_json_lines(step.folder / "metrics.jsonl", rows)
    about = {"packages": {"torch": "2.13.0"}, "python": "3.11", "device": "cpu", "threads": 2}
    write_json(step.folder / "provenance.json", about)
    write_json(step.folder / "result.json", {"stage": step.kind, "steps": 200, "seconds": 10.0})


def write_evaluation(step, configuration, seed, wrong):
    benchmark = benchmarks.get(step.benchmark)
    questions = benchmark.read(step.settings.data)
    # Images are equally difficult for every configuration and seed; the noise is drawn for each.
    ease = np.random.default_rng(7)
    of_unit = {cluster: ease.normal(0, 0.12) for cluster in dict.fromkeys(q.cluster for q in questions)}
    # Seeded by the configuration, not by the step's key, which changes with everything that decides a real step's
    # output.
    drawn = f"{step.benchmark}/{step.control}/{configuration}/{seed}"
    luck = np.random.default_rng(int(hashlib.sha256(drawn.encode()).hexdigest()[:8], 16))
    base = 0.62 + sum(EFFECTS.get(level, 0) for level in configuration) if step.control is None else 0.5
    answers = []
    for question in questions:
        right = luck.random() < np.clip(base + of_unit[question.cluster], 0, 1)
        truth = question.references[0]
        said = truth if right else {"yes": "no", "no": "yes"}.get(truth, wrong)
        answers.append(Answer(question.id, said))
    score = benchmark.score(questions, answers)
    write_json_lines(step.folder / ANSWERS, [to_row(a, q, "m") for a, q in zip(answers, questions, strict=True)])
    write_json(step.folder / "timing.json", {"seconds": 1.5})
    write_score(score, step.folder, questions, {})


def read_csv(path):
    """Rows of a table, as dictionaries."""
    import csv

    return list(csv.DictReader(path.read_text().splitlines()))


__all__ = ["AXES", "EFFECTS", "json", "read_csv", "write_finished"]
