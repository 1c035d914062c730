"""Plain transformers, any version from 4.52 on, answering a proof's questions: run as a script, with no Olivine.

    python plain_side.py JOB.json

The job names a model folder, images (PNG files), questions and where to write: logits of the first answer token as
`[samples, vocabulary]` fp32 in NumPy's format, and answers as JSON.
"""

import json
import sys

if __name__ == "__main__":
    sys.path = [entry for entry in sys.path[1:] if entry]  # not this file's folder: its neighbours are Olivine's

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor


def main() -> None:
    """Do the job that the first argument names."""
    with open(sys.argv[1], encoding="utf-8") as file:  # noqa: PTH123  # as plain as it can be
        job = json.load(file)
    assert "olivine" not in sys.modules, "the other side must be transformers alone"
    processor = AutoProcessor.from_pretrained(job["model"])
    model = AutoModelForImageTextToText.from_pretrained(job["model"], **_fp32()).eval()
    logits, answers, lengths = [], [], []
    for path, question in zip(job["images"], job["questions"], strict=True):
        content = [{"type": "image"}, {"type": "text", "text": question}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(images=Image.open(path).convert("RGB"), text=prompt, return_tensors="pt")
        with torch.no_grad():
            logits.append(model(**inputs).logits[0, -1].float().numpy())
            made = model.generate(**inputs, do_sample=False, max_new_tokens=job["max_new_tokens"])
        length = inputs["input_ids"].shape[1]
        lengths.append(length)
        answers.append(processor.tokenizer.decode(made[0, length:], skip_special_tokens=True).strip())
    np.save(job["logits"], np.stack(logits))
    with open(job["answers"], "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump({"runtime": f"transformers {transformers.__version__}", "answers": answers, "lengths": lengths}, file)


def _fp32() -> dict:  # type: ignore[type-arg]
    newer = tuple(int(part) for part in transformers.__version__.split(".")[:2]) >= (4, 56)
    return {"dtype" if newer else "torch_dtype": torch.float32}


if __name__ == "__main__":
    main()
