"""Memory and time of `olivine import` on LLaVA-Gemma-2B's real shape: random weights, 11.3 GB in fp32, on disk.

    python benchmarks/import_memory.py --work DIR [--samples 4] [--quick] [--json] [--out FILE]

DIR needs 24 GB; what is written there is deleted at the end. The folder is in the layout of the converted 2B
(transformers 4.39, 256,064 rows). Resident memory of the importing process is read every 50 ms, for each phase that it
reports. `anonymous` excludes pages of files.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from report import arguments, show
from transformers import GemmaTokenizer

from olivine.conversion.tensor_stream import PlannedTensor, write_tensors
from olivine.data.vocabulary import train_tokenizer

TEXT = {
    "hidden_size": 2048,
    "intermediate_size": 16384,
    "num_hidden_layers": 18,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 256,
}
VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
TOKENS = 256_000
SMALL_TEXT = {**TEXT, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
SMALL_VISION = {**VISION, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "image_size": 56}
EVERY = 0.05


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="a folder with 24 GB free")
    parser.add_argument("--samples", type=int, default=4, help="questions of the proof")
    requested = parser.parse_args()
    requested.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=requested.work) as name:
        source, output = Path(name) / "source", Path(name) / "imported"
        text, vision = (SMALL_TEXT, SMALL_VISION) if requested.quick else (TEXT, VISION)
        weights = write_source(source, text, vision)
        rows = [{"weights": weights, **measure(source, output, requested.samples)}]
    ratios = {"conversion_gb": rows[0]["conversion"]["peak_gb"], "proof_gb": rows[0]["proof"]["peak_gb"]}
    show(requested, ratios, rows)


def write_source(folder: Path, text: dict[str, int], vision: dict[str, int]) -> int:
    """Write the folder; returns how many weights it holds."""
    folder.mkdir()
    write_tokenizer(folder)
    shapes = tensors(text, vision)
    write_tensors(folder, [random_tensor(name, shape) for name, shape in shapes.items()])
    values = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "ignore_index": -100,
        "image_token_index": TOKENS,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "torch_dtype": "float32",
        "transformers_version": "4.39.0.dev0",
        "text_config": {
            **text,
            "model_type": "gemma",
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu",
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 8192,
            "vocab_size": TOKENS + 64,
            "tie_word_embeddings": True,
        },
        "vision_config": {**vision, "model_type": "clip_vision_model", "projection_dim": 768},
    }
    size = vision["image_size"]
    processor = {"image_processor_type": "CLIPImageProcessor", "crop_size": size, "size": {"shortest_edge": size}}
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, "resample": 3}))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 2, "eos_token_id": 1}))
    return sum(int(torch.Size(shape).numel()) for shape in shapes.values())


def write_tokenizer(folder: Path) -> None:
    """Gemma's layout of ids with as many tokens, most of them unused; `<image>` is 256,000."""
    model = json.loads(train_tokenizer(["what is in the image?"], 640).backend_tokenizer.to_str())["model"]
    vocabulary = dict(model["vocab"])
    vocabulary |= {f"<unused-id{number}>": number for number in range(len(vocabulary), TOKENS)}
    merges = [tuple(pair) for pair in model["merges"]]
    extra = ["<start_of_turn>", "<end_of_turn>", "<image>"]
    GemmaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True, extra_special_tokens=extra).save_pretrained(
        folder
    )


def tensors(text: dict[str, int], vision: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """Names of transformers 4.38 to 4.45."""
    hidden, inner, width, wide = (
        text["hidden_size"],
        text["intermediate_size"],
        vision["hidden_size"],
        vision["intermediate_size"],
    )
    query, key = text["num_attention_heads"] * text["head_dim"], text["num_key_value_heads"] * text["head_dim"]
    tower, language = "vision_tower.vision_model.", "language_model.model."
    found: dict[str, tuple[int, ...]] = {
        f"{tower}embeddings.class_embedding": (width,),
        f"{tower}embeddings.patch_embedding.weight": (width, 3, vision["patch_size"], vision["patch_size"]),
        f"{tower}embeddings.position_embedding.weight": (
            (vision["image_size"] // vision["patch_size"]) ** 2 + 1,
            width,
        ),
        "multi_modal_projector.linear_1.weight": (hidden, width),
        "multi_modal_projector.linear_1.bias": (hidden,),
        "multi_modal_projector.linear_2.weight": (hidden, hidden),
        "multi_modal_projector.linear_2.bias": (hidden,),
        f"{language}embed_tokens.weight": (TOKENS + 64, hidden),
        f"{language}norm.weight": (hidden,),
    }
    norms = ["pre_layrnorm", "post_layernorm"]
    for number in range(vision["num_hidden_layers"]):
        at = f"encoder.layers.{number}."
        norms += [f"{at}layer_norm1", f"{at}layer_norm2"]
        linears = {f"self_attn.{name}_proj": (width, width) for name in ("q", "k", "v", "out")}
        for name, shape in {**linears, "mlp.fc1": (wide, width), "mlp.fc2": (width, wide)}.items():
            found |= {f"{tower}{at}{name}.weight": shape, f"{tower}{at}{name}.bias": shape[:1]}
    found |= {f"{tower}{name}.{part}": (width,) for name in norms for part in ("weight", "bias")}
    for number in range(text["num_hidden_layers"]):
        at = f"{language}layers.{number}."
        found |= {f"{at}{name}.weight": (hidden,) for name in ("input_layernorm", "post_attention_layernorm")}
        found |= {
            f"{at}self_attn.q_proj.weight": (query, hidden),
            f"{at}self_attn.k_proj.weight": (key, hidden),
            f"{at}self_attn.v_proj.weight": (key, hidden),
            f"{at}self_attn.o_proj.weight": (hidden, query),
            f"{at}mlp.gate_proj.weight": (inner, hidden),
            f"{at}mlp.up_proj.weight": (inner, hidden),
            f"{at}mlp.down_proj.weight": (hidden, inner),
        }
    return found


def random_tensor(name: str, shape: tuple[int, ...]) -> PlannedTensor:
    """As a new model's: norms of the tower around one, matrices such that states keep their size."""
    rng = torch.Generator().manual_seed(hash_of(name))
    around = float(name.startswith("vision_tower.") and "norm" in name and name.endswith("weight"))
    spread = 0.02 if len(shape) == 1 else shape[-1] ** -0.5

    def rows(start: int, stop: int) -> torch.Tensor:
        return torch.randn((stop - start, *shape[1:]), generator=rng) * spread + around

    return PlannedTensor(name, shape, torch.float32, rows)


def hash_of(name: str) -> int:
    return sum(number * byte for number, byte in enumerate(name.encode(), 1))


def measure(source: Path, output: Path, samples: int) -> dict[str, Any]:
    """Import in a process of its own; peaks and seconds of its two phases."""
    command = [sys.executable, "-m", "olivine", "import", str(source), "--output", str(output), "--json"]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        command += ["--samples", str(samples)]
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.PIPE, text=True)
        phases = watch(process, output)
        if process.returncode:
            sys.exit(f"the import failed with exit code {process.returncode}")
        said.seek(0)
        made = json.loads(said.read())
    proof = made["proof"]
    return {
        **phases,
        "seconds": round(time.perf_counter() - start, 1),
        "samples": proof["samples"],
        "equal_answers": proof["equal_answers"],
        "largest_difference_share": proof["largest_difference"] / proof["largest_logit"],
        "repairs": [each["what"] for each in made["repairs"]],
    }


def watch(process: subprocess.Popen[str], output: Path) -> dict[str, dict[str, float]]:
    """Return peaks and seconds by phase: until the proof is announced, until its record lies there, until the end."""
    names = ("conversion", "proof", "checksums")
    phases = {name: {"peak_gb": 0.0, "anonymous_gb": 0.0, "seconds": 0.0} for name in names}
    announced = threading.Event()
    reader = threading.Thread(target=listen, args=(process, announced))
    reader.start()
    record, before = output.with_name(f".{output.name}.partial") / "import.json", time.perf_counter()
    name = names[0]
    while process.poll() is None:
        if record.exists():
            name = names[2]
        elif announced.is_set() and name == names[0]:
            name = names[1]
        total, anonymous = resident(process.pid)
        now = time.perf_counter()
        phase = phases[name]
        phase["seconds"] += now - before
        before = now
        phase["peak_gb"], phase["anonymous_gb"] = max(phase["peak_gb"], total), max(phase["anonymous_gb"], anonymous)
        time.sleep(EVERY)
    reader.join()
    return {each: {key: round(value, 2) for key, value in phase.items()} for each, phase in phases.items()}


def listen(process: subprocess.Popen[str], announced: threading.Event) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        sys.stderr.write(line)
        if line.startswith("proof:"):
            announced.set()


def resident(pid: int) -> tuple[float, float]:
    """Return GB of memory, and GB of it that are no files' pages."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    values = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "RssAnon"))}
    return int(values.get("VmRSS", 0)) * 1024 / 1e9, int(values.get("RssAnon", 0)) * 1024 / 1e9


if __name__ == "__main__":
    main()
