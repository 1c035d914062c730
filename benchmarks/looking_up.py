"""What makes the tiny language models look up what was told of a thing: lists said twice, and heads that look back.

    python benchmarks/looking_up.py [--quick] [--json] [--out benchmarks/results/looking-up-cpu.json]

Four models of the small size learn from descriptions of two things, "There is a red ball. There is a blue cup.", to go
on with "The cup is blue."; each with or without either help. Shown is the share of such words that are right on
scenes not yet seen, by steps over these texts; one of two told colours at random would be right half the time.
"""

import os
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from report import arguments, show
from torch import nn
from transformers import GemmaForCausalLM

from olivine.train.backbones.curriculum import Schedule
from olivine.train.backbones.gemma import SIZES, begin_calmly, gemma_config
from olivine.train.backbones.language import LanguagePretraining
from olivine.train.backbones.loop import adamw

PEAK, SCHEDULED = 2e-3, 3000
LISTS, TEXTS, HELD_OUT = 150, 280, 10


def learnt(job: LanguagePretraining, indices: list[int], look_every: int) -> list[dict[str, Any]]:
    """Train on the given steps' texts; the share right now and then."""
    held_out = [
        example
        for index in range(LISTS + TEXTS, LISTS + TEXTS + HELD_OUT)
        for example in job.curriculum.examples(index)
    ]
    found, began = [], time.process_time()
    for number, index in enumerate(indices):
        for group in job.optimizer.param_groups:
            group["lr"] = PEAK * min(1.0, (number + 1) / 40)
        job.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            job.step(index)
        nn.utils.clip_grad_norm_(job.trained.parameters(), 1.0)
        job.optimizer.step()
        over_texts = index - LISTS + 1
        if over_texts > 0 and over_texts % look_every == 0:
            right = round(100 * job.share_right(held_out), 1)
            found.append({"texts": over_texts, "right": right, "seconds": round(time.process_time() - began)})
    return found


def measure(texts: int, look_every: int) -> list[dict[str, Any]]:
    rows = []
    for lists in (False, True):
        for looking_back in (False, True):
            job = LanguagePretraining(SIZES["small"], 1024, Schedule(SCHEDULED, PEAK), 0)
            if not looking_back:
                torch.manual_seed(0)
                job.model = GemmaForCausalLM(gemma_config(SIZES["small"], len(job.tokenizer)))
                begin_calmly(job.model)
                job.trained, job.optimizer = job.model, adamw(job.model, 0.05)
            indices = list(range(0 if lists else LISTS, LISTS + texts))
            rows.append({"lists": lists, "looking_back": looking_back, "found": learnt(job, indices, look_every)})
    return rows


def name(row: dict[str, Any]) -> str:
    lists, looking_back = (("without ", "with ")[row[helped]] for helped in ("lists", "looking_back"))
    return f"{lists}lists, {looking_back}looking back"


def main() -> None:
    wanted = arguments(__doc__).parse_args()
    texts, look_every = (4, 2) if wanted.quick else (TEXTS, 70)
    rows = measure(texts, look_every)
    shares = {f"{name(row)}: % right in the end": row["found"][-1]["right"] for row in rows}
    show(wanted, shares, rows, lists=LISTS, texts=texts)


if __name__ == "__main__":
    main()
