"""What makes the tiny language models look up an attribute in a description: word lists, and heads that look back.

    python benchmarks/looking_up.py [--quick] [--json] [--out benchmarks/results/looking-up-cpu.json]

Models of the small size run the beginning of their curriculum, up to descriptions of two objects with colour and place:
without lists; with lists that are repeated; with those and lists in which the third word after a given one is to be
found; and with all of these, but without heads initialised to look back. Reported is the share of statements about
held-out scenes of two objects that are right: the colour, which stands before an object's name in the description, and
the place, which stands after it. A model that knows the attributes, but not which object has which, gets half of them
right.
"""

import os
import time
from collections.abc import Sequence
from random import Random
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from report import arguments, show
from transformers import GemmaForCausalLM

from olivine.world.language import Mentions, description
from olivine.world.pretraining.curriculum import Schedule
from olivine.world.pretraining.gemma import SIZES, gemma_config, scaled_init
from olivine.world.pretraining.language import LanguagePretraining
from olivine.world.pretraining.loop import muon, update
from olivine.world.questions import ask
from olivine.world.sampling import sample_scene

SCHEDULED, PEAK = 10000, 5e-3
#: Of the schedule: lists, colours, places.
TOGETHER = round(0.075 * SCHEDULED)
TOPICS, HELD_OUT = ("colour", "place"), 120
#: The lags of lists, and whether heads are initialised to look back.
WAYS: dict[str, tuple[tuple[int, ...], bool]] = {
    "no lists": ((), True),
    "lists said twice": ((1,), True),
    "lists said twice and asked for the third": ((1, 3), True),
    "the same, heads at random": ((1, 3), False),
}


def right(job: LanguagePretraining, topic: str) -> float:
    """Return the percentage of statements about one of two objects ("The ball is", "red") completed rightly."""
    rng, hits = Random("looking up"), []
    for index in range(HELD_OUT):
        scene = sample_scene(0, "looking up", index, objects=2)
        if len({obj.class_name for obj in scene.objects}) == 1:
            continue  # only attributes that are not described distinguish them
        text = description(scene, rng, Mentions(size=False, pattern=False, state=False), plainly=True)
        found = [question for question in ask(scene, rng, 8, (topic,)) if question.structural in ("query", "choose")]
        stated = [(said, f" {one.answer}") for one in found if (said := before(one.sentence, one.answer))]
        if stated:
            hits += job.right(job.curriculum.statements_on(scene.id, text, stated))
    return round(100 * sum(hits) / len(hits), 1)


def before(sentence: str, answer: str) -> str:
    """Return what stands before the answer in a statement; nothing if the answer is not in it."""
    return sentence.rpartition(f" {answer}")[0]


def learn(job: LanguagePretraining, steps: Sequence[int], look_every: int) -> list[dict[str, Any]]:
    """Train on the given steps' texts; return the shares that were right at intervals."""
    found, began = [], time.process_time()
    for number, index in enumerate(steps, start=1):
        job.trained.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            job.step(index)
        update(job, PEAK * min(1.0, number / 40))
        if number % look_every == 0 or number == len(steps):
            shares = {topic: right(job, topic) for topic in TOPICS}
            found.append({"step": number, **shares, "seconds": round(time.process_time() - began)})
    return found


def made(lists: tuple[int, ...], looking_back: bool) -> LanguagePretraining:
    job = LanguagePretraining(SIZES["small"], 1024, Schedule(SCHEDULED, PEAK, lists=lists), 0)
    if not looking_back:
        torch.manual_seed(0)
        job.model = GemmaForCausalLM(gemma_config(SIZES["small"], len(job.tokenizer)))
        scaled_init(job.model)
        job.trained, job.optimizers = job.model, muon(job.model, (job.model,), 0.05)
    return job


def main() -> None:
    requested = arguments(__doc__).parse_args()
    steps, look_every = (range(0, TOGETHER, 250), 3) if requested.quick else (range(TOGETHER), 170)
    rows, shares = [], {}
    for name, (lists, looking_back) in WAYS.items():
        found = learn(made(lists, looking_back), steps, look_every)
        rows.append({"way": name, "found": found})
        shares |= {f"{name}: {topic}, % right": found[-1][topic] for topic in TOPICS}
    show(requested, shares, rows, steps=len(steps))


if __name__ == "__main__":
    main()
