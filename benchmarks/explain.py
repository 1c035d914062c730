"""Seconds and memory of each explanation method at a real length, and the table of methods on trained models.

    python benchmarks/explain.py [--tokens 576 --layers 18 --width 1024] [--quick] [--json]
    python benchmarks/explain.py --models MODEL ... --data GQA --limit 500

Each method runs in a process of its own with one thread; its peak resident memory includes the weights. Where other
programs share the CPU, `cpu_seconds` is what a free core takes; `estimated_seconds` is what `--plan` would say there.
`--models` runs `olivine explain MODEL --benchmark gqa` for each model folder.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from PIL import Image

#: A method of more passes than this is timed by one micro-batch of them.
SAMPLED = 64


def random_model(side, layers, width, dtype, gemma_2b=False):
    from olivine.model.build import build
    from olivine.recipe import ModelRecipe
    from olivine.testing import CORPUS

    heads = {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256 if gemma_2b else width // 8}
    language = {"model_type": "gemma", "vocab_size": 640, "hidden_size": 2048 if gemma_2b else width}
    language |= {"intermediate_size": 16384 if gemma_2b else 4 * width, "num_hidden_layers": layers, **heads}
    tower = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    tower |= {"num_attention_heads": 2, "patch_size": 14, "image_size": 14 * side}
    recipe = ModelRecipe.model_validate(
        {
            "vision": {"from": tower},
            "language": {"from": language, "tokenizer": {"vocab_size": 640}},
            "connector": {"depth": 2},
        }
    )
    vlm = build(recipe, seed=0, texts=lambda: CORPUS)
    vlm.cast(dtype)
    return vlm


def one_method(name, side, layers, width, gemma_2b):
    """Measure one method in this process."""
    from olivine.explanation.explainer import Asked, Explainer
    from olivine.explanation.methods.registry import method
    from olivine.explanation.work_estimate import estimate_methods

    torch.set_num_threads(1)
    vlm = random_model(side, layers, width, torch.bfloat16 if gemma_2b else torch.float32, gemma_2b)
    explainer = Explainer(vlm, max_new_tokens=1)
    features = explainer.features(Image.effect_noise((96, 96), 80).convert("RGB"))
    parts = vlm.encoder().prompt("what color is the shape in the image?", True)
    case = explainer.case(Asked(tuple(part for ids in parts for part in ids), (1,), (5,), features, "0"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    passes = method(name).work(len(features)).forwards
    run = min(passes, case.micro_batch) if passes > SAMPLED else passes
    began, spent = time.perf_counter(), time.process_time()
    if run < passes:  # hundreds of passes of one kind: a micro-batch of them tells time and memory
        assert torch.isfinite(case.kept_only(torch.rand(run, len(features)) < 0.5)).all()
    else:
        assert torch.isfinite(method(name).token_scores(case)).all()
    scale = passes / run if run else 1
    seconds, spent = (time.perf_counter() - began) * scale, (time.process_time() - spent) * scale
    estimate = estimate_methods(vlm, [method(name)], len(features))[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    weights = sum(p.numel() * p.element_size() for p in vlm.model.parameters())
    return {
        "method": name,
        "image_tokens": len(features),
        "sequence_tokens": len(case.ids),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(spent, 2),
        "extrapolated": run < passes,
        "estimated_seconds": round(estimate.seconds, 2),
        "peak_gb": round(peak / 1e9, 2),
        "weights_gb": round(weights / 1e9, 2),
        "before_gb": round(before / 1e9, 2),
        "estimated_beside_weights_gb": round(estimate.bytes / 1e9, 2),
    }


def at_length(names, arguments):
    """Each method in its own process."""
    rows = []
    for name in names:
        command = [sys.executable, __file__, "--one", name, "--tokens", str(arguments.tokens)]
        command += ["--layers", str(arguments.layers), "--width", str(arguments.width)]
        command += ["--gemma-2b"] if arguments.gemma_2b else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        rows.append(json.loads(done.stdout))
        sys.stderr.write(f"{rows[-1]}\n")
    return rows


def tables(models, data, limit, folder):
    """The table of methods of each model."""
    found = {}
    for model in models:
        command = [sys.executable, "-m", "olivine", "explain", str(model), "--benchmark", "gqa", "--data", str(data)]
        command += ["--methods", "all", "--limit", str(limit), "--output", str(folder / Path(model).name), "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[Path(model).name] = json.loads(done.stdout)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=576)
    parser.add_argument("--layers", type=int, default=18)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--gemma-2b", action="store_true", help="Gemma-2B's real shape in bf16")
    parser.add_argument("--methods", help="comma-separated; default: all")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--output", type=Path, default=Path("runs/explain"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    side = round(arguments.tokens**0.5)
    if arguments.one:
        print(json.dumps(one_method(arguments.one, side, arguments.layers, arguments.width, arguments.gemma_2b)))
        return
    from olivine.explanation.methods.registry import compared_names

    if arguments.quick:
        arguments.tokens, arguments.layers, arguments.width, arguments.limit = 36, 2, 64, 20
    names = arguments.methods.split(",") if arguments.methods else compared_names()
    rows = at_length(names, arguments)
    result = {
        "ratios": {"highest peak, GB": max(row["peak_gb"] for row in rows)},
        "rows": rows,
        "tables": tables(arguments.models, arguments.data, arguments.limit, arguments.output),
        "device": f"cpu, torch {torch.__version__}, 1 thread",
    }
    if arguments.json:
        print(json.dumps(result))
    else:
        for row in rows:
            print(row)


if __name__ == "__main__":
    main()
