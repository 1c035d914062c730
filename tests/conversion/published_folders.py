"""Tiny models in published layouts, files and fields as they are on the hub, and their logits as they were trained.

The references use transformers' modules piece by piece, with what has changed since written out here.
"""

import json
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    GemmaConfig,
    GemmaForCausalLM,
    GemmaTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

from olivine.testing import gemma_tokenizer, llama_tokenizer

HIDDEN, SIZE, PATCH, WIDTH = 32, 28, 7, 24
PATCHES = (SIZE // PATCH) ** 2
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
GEMMA_CHAT = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | "
    "trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
TEXT = {"hidden_size": HIDDEN, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION = {
    "hidden_size": WIDTH,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": PATCH,
    "projection_dim": 16,
}
QUESTION = "is there a red circle in the image?"


def old_gemma_tokenizer():
    """Gemma's, without `<image>`, as LLaVA-Gemma was trained with it."""
    model = json.loads(gemma_tokenizer().backend_tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    extra = ["<start_of_turn>", "<end_of_turn>"]
    return GemmaTokenizer(vocab=model["vocab"], merges=merges, add_bos_token=True, extra_special_tokens=extra)


@dataclass
class Parts:
    """A tower, a projector and a language model, in fp32 with values that `dtype` holds."""

    language: str
    dtype: torch.dtype = torch.float32
    depth: int = 2
    exact: bool = True
    tower: CLIPVisionModel = field(init=False)
    model: object = field(init=False)
    linears: list = field(init=False)

    def __post_init__(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.tower = CLIPVisionModel(CLIPVisionConfig(**VISION, attn_implementation="eager")).eval()
            config = {**TEXT, "vocab_size": len(self.tokenizer()), "initializer_range": 0.2}
            if self.language == "gemma":
                act = "gelu_python" if self.exact else "gelu_pytorch_tanh"
                config |= {"num_key_value_heads": 1, "head_dim": 16, "hidden_act": act}
                self.model = GemmaForCausalLM(GemmaConfig(**config)).eval()
            else:
                config |= {"num_key_value_heads": 2, "rms_norm_eps": 1e-5}
                self.model = LlamaForCausalLM(LlamaConfig(**config)).eval()
            widths = [WIDTH, HIDDEN, HIDDEN][: self.depth + 1]
            self.linears = [torch.nn.Linear(a, b) for a, b in pairwise(widths)]
            self._loosen()

    def _loosen(self):
        """Random towers and norms hardly matter; these do."""
        with torch.no_grad():
            for module in (self.tower, self.model, *self.linears):
                for name, weight in module.named_parameters():
                    if weight.ndim == 1 or module is self.tower:
                        weight.add_(torch.randn(weight.shape) * 0.15)
                    elif self.language == "gemma" and "embed" not in name and module is self.model:
                        weight.mul_(2)
                    weight.copy_(weight.to(self.dtype).float())

    def tokenizer(self):
        return old_gemma_tokenizer() if self.language == "gemma" else llama_tokenizer()

    def tower_state(self):
        """Names that CLIP's modules had up to transformers 5.3: with `vision_model` inside."""
        return {f"vision_model.{k.removeprefix('vision_model.')}": v for k, v in self.tower.state_dict().items()}

    def language_state(self, *, head):
        state = dict(self.model.state_dict())
        if not head:
            state.pop("lm_head.weight", None)
        return state

    def projector_state(self):
        """As LLaVA has it: `0` and `2` of a sequence, or one layer."""
        names = ["0.", "2."] if self.depth == 2 else [""]
        return {
            f"{name}{part}": getattr(layer, part)
            for name, layer in zip(names, self.linears, strict=True)
            for part in ("weight", "bias")
        }

    @torch.no_grad()
    def features(self, pixels):
        states = self.tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        for number, layer in enumerate(self.linears):
            states = layer(states if number == 0 else F.gelu(states))
        return states

    @torch.no_grad()
    def logits(self, image, question, *, fit="pad", pre_5_4=True, features=None, repaired=True):
        """Logits `[vocabulary]` behind LLaVA's own prompt, spliced as its own code does.

        `pre_5_4`: Gemma's forward of 4.38, `hidden_states = inputs_embeds * hidden_size**0.5`; today's multiplies
        nothing that comes in as embeddings.
        """
        features = self.features(preprocess(image, fit)) if features is None else features
        before, after = (
            self.tokenizer()(chunk).input_ids for chunk in prompt(self.language, question).split("<image>")
        )
        table = self.model.get_input_embeddings().weight
        pieces = [table[before], features[0], table[after[1:]]]  # the second beginning of sequence is dropped
        if self.language == "gemma" and pre_5_4:
            embedded = torch.cat(pieces) * HIDDEN**0.5
        elif self.language == "gemma":
            embedded = torch.cat([pieces[0] * HIDDEN**0.5, pieces[1], pieces[2] * HIDDEN**0.5])
        else:
            embedded = torch.cat(pieces)
        return self.model(inputs_embeds=embedded[None]).logits[0, -1]


def prompt(language, question):
    """`conv_gemma` and `v1` of LLaVA's conversation.py, without the beginning of sequence."""
    if language == "gemma":
        return f"<start_of_turn>user\n<image>\n{question}<end_of_turn>\n<start_of_turn>model\n"
    system = (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    )
    return f"{system} USER: <image>\n{question} ASSISTANT:"


def preprocess(image, fit):
    """LLaVA's `process_images`."""
    if fit == "pad":
        side = max(image.size)
        square = Image.new("RGB", (side, side), tuple(int(x * 255) for x in MEAN))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = square
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    return torch.as_tensor(processor(image, return_tensors="np")["pixel_values"])


def write_json(path, values):
    path.write_text(json.dumps(values, indent=2))


def write_weights(folder, tensors, dtype, *, pickled=False, shards=1, name="model"):
    """One file, or numbered ones with an index; fp16 pickles as LLaVA-1.5's, safetensors as Intel's."""
    tensors = {name: tensor.detach().to(dtype).clone().contiguous() for name, tensor in tensors.items()}
    ending, stem = ("bin", "pytorch_model") if pickled else ("safetensors", name)
    names = list(tensors)
    groups = [names[number::shards] for number in range(shards)]
    files = (
        [f"{stem}-{n + 1:05}-of-{shards:05}.{ending}" for n in range(shards)] if shards > 1 else [f"{stem}.{ending}"]
    )
    for file, group in zip(files, groups, strict=True):
        part = {name: tensors[name] for name in group}
        torch.save(part, folder / file) if pickled else save_file(part, folder / file, metadata={"format": "pt"})
    if shards > 1:
        where = {name: file for file, group in zip(files, groups, strict=True) for name in group}
        write_json(folder / f"{stem}.{ending}.index.json", {"metadata": {"total_size": 1}, "weight_map": where})


def write_tokenizer(folder, tokenizer, **fields):
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    write_json(path, {**json.loads(path.read_text()), "padding_side": "right", **fields})


def write_clip(folder, parts, *, whole=True):
    """A tower's own folder like openai/clip-vit-large-patch14-336: image and text together."""
    folder.mkdir()
    tensors = parts.tower_state()
    tensors["vision_model.embeddings.position_ids"] = torch.arange(PATCHES + 1)[None].float()
    if whole:
        tensors |= {"logit_scale": torch.ones(1), "visual_projection.weight": torch.ones(16, WIDTH)}
        tensors["text_model.embeddings.token_embedding.weight"] = torch.ones(4, 16)
    write_weights(folder, tensors, torch.float32)
    text = {"model_type": "clip_text_model", "hidden_size": 16, "num_attention_heads": 2, "projection_dim": 16}
    values = {"architectures": ["CLIPModel"], "model_type": "clip", "text_config": text, "projection_dim": 16}
    write_json(folder / "config.json", {**values, "vision_config": {**VISION, "model_type": "clip_vision_model"}})
    write_json(folder / "preprocessor_config.json", clip_processor())
    return folder


def clip_processor(**fields):
    return {
        "crop_size": {"height": SIZE, "width": SIZE},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(MEAN),
        "image_processor_type": "CLIPImageProcessor",
        "image_std": list(STD),
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": SIZE},
        **fields,
    }


def llava_fields(tower, **fields):
    return {
        "freeze_mm_mlp_adapter": False,
        "image_aspect_ratio": "pad",
        "mm_hidden_size": WIDTH,
        "mm_patch_merge_type": "flat",
        "mm_projector_lr": None,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": str(tower),
        "tokenizer_model_max_length": 2048,
        "tokenizer_padding_side": "right",
        "tune_mm_mlp_adapter": False,
        "use_mm_proj": True,
        "use_cache": False,
        **fields,
    }


def text_fields(parts):
    config = parts.model.config
    common = {**TEXT, "vocab_size": config.vocab_size, "max_position_embeddings": 4096, "initializer_range": 0.02}
    if parts.language == "gemma":
        return {
            **common,
            "attention_bias": False,
            "head_dim": 16,
            "num_key_value_heads": 1,
            "hidden_act": "gelu",
            "rms_norm_eps": 1e-6,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "bos_token_id": 2,
            "eos_token_id": 1,
            "pad_token_id": 0,
        }
    return {
        **common,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "pretraining_tp": 1,
        "tie_word_embeddings": False,
    }


def write_llava_original(folder, parts, tower, *, pickled=False, shards=1, with_tower=True, **fields):
    """haotian-liu/LLaVA's layout: Intel's 7B (`llava_gemma`) and LLaVA-1.5 (`llava_llama`, earlier `llava`)."""
    folder.mkdir()
    gemma = parts.language == "gemma"
    tensors = parts.language_state(head=True)  # Gemma's head is written too, as a copy
    tensors |= {f"model.mm_projector.{k}": v for k, v in parts.projector_state().items()}
    if with_tower:
        tensors |= {f"model.vision_tower.vision_tower.{k}": v for k, v in parts.tower_state().items()}
    if not gemma:
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # what old versions saved
    write_weights(folder, tensors, parts.dtype, pickled=pickled, shards=shards)
    values = {
        "architectures": ["LlavaGemmaForCausalLM" if gemma else "LlavaLlamaForCausalLM"],
        "model_type": "llava_gemma" if gemma else "llava_llama",
        "torch_dtype": str(parts.dtype).removeprefix("torch."),
        "transformers_version": "4.39.0.dev0" if gemma else "4.31.0",
        **text_fields(parts),
        **llava_fields(tower, **({} if parts.depth == 2 else {"mm_projector_type": "linear"})),
    }
    write_json(folder / "config.json", {**values, **fields})
    write_json(folder / "generation_config.json", generation(gemma))
    write_tokenizer(folder, parts.tokenizer(), **({"chat_template": GEMMA_CHAT} if gemma else {}))
    return folder


def generation(gemma):
    ids = {"bos_token_id": 2, "eos_token_id": 1} if gemma else {"bos_token_id": 1, "eos_token_id": 2}
    return {"_from_model_config": True, **ids, "pad_token_id": 0, "transformers_version": "4.39.0.dev0"}


def write_language_model(folder, parts, *, pickled=False):
    """A plain base such as vicuna-7b-v1.5 or gemma-2b-it."""
    folder.mkdir()
    gemma = parts.language == "gemma"
    write_weights(folder, parts.language_state(head=not gemma), parts.dtype, pickled=pickled)
    name = "GemmaForCausalLM" if gemma else "LlamaForCausalLM"
    values = {"architectures": [name], "model_type": parts.language, "transformers_version": "4.38.2"}
    write_json(folder / "config.json", {**values, **text_fields(parts)})
    write_tokenizer(folder, parts.tokenizer(), **({"chat_template": GEMMA_CHAT} if gemma else {}))
    return folder


def write_projector(folder, parts, base, tower):
    """What LLaVA's stage 1 leaves: `mm_projector.bin` beside config.json."""
    folder.mkdir()
    tensors = {f"model.mm_projector.{k}": v.detach().to(parts.dtype) for k, v in parts.projector_state().items()}
    torch.save(tensors, folder / "mm_projector.bin")
    values = {
        "_name_or_path": str(base),
        "architectures": ["LlavaGemmaForCausalLM" if parts.language == "gemma" else "LlavaLlamaForCausalLM"],
        "model_type": "llava_gemma" if parts.language == "gemma" else "llava_llama",
        "transformers_version": "4.39.0.dev0" if parts.language == "gemma" else "4.31.0",
    }
    fields = llava_fields(tower, image_aspect_ratio="square", tune_mm_mlp_adapter=True)
    del fields["image_aspect_ratio"]  # stage 1 leaves it unset
    write_json(folder / "config.json", {**values, **text_fields(parts), **fields})
    return folder


def write_lora(folder, parts, base, tower, *, rank=4, alpha=8):
    """What finetune_lora.sh leaves. Returns the folder; the parts' language model has the update merged afterwards."""
    folder.mkdir()
    update = {}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for name, module in parts.model.named_modules():
            if isinstance(module, torch.nn.Linear) and "lm_head" not in name:
                down = torch.randn(rank, module.in_features) * 0.2
                up = torch.randn(module.out_features, rank) * 0.2
                update[f"base_model.model.{name}.lora_A.weight"] = down
                update[f"base_model.model.{name}.lora_B.weight"] = up
                module.weight += alpha / rank * up @ down
    torch.save(update, folder / "adapter_model.bin")
    settings = {
        "base_model_name_or_path": str(base),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": alpha,
        "lora_dropout": 0.05,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "task_type": "CAUSAL_LM",
    }
    write_json(folder / "adapter_config.json", settings)
    state = parts.projector_state()
    rest = {f"base_model.model.model.mm_projector.{k}": v.detach().to(parts.dtype) for k, v in state.items()}
    torch.save(rest, folder / "non_lora_trainables.bin")
    values = {"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava_llama", "transformers_version": "4.31.0"}
    write_json(folder / "config.json", {**values, **text_fields(parts), **llava_fields(tower)})
    return folder


def write_hf(folder, parts, *, age="4.38", rows=None, chat=None, processor=None, text=None, version=None, **fields):
    """A folder of `LlavaForConditionalGeneration` with the names of an age: "4.38" (the hub's), "4.52", "5.0"."""
    folder.mkdir()
    gemma = parts.language == "gemma"
    tokenizer = parts.tokenizer()
    image = len(tokenizer)
    tokenizer.add_special_tokens({"extra_special_tokens": [*tokenizer.extra_special_tokens, "<image>"]})
    rows = rows or -(-(image + 1) // 64) * 64
    write_weights(folder, _hf_tensors(parts, age, rows), parts.dtype, shards=3)
    values = {
        "architectures": ["LlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_token_index": image,
        "model_type": "llava",
        "projector_hidden_act": "gelu",
        "text_config": {"model_type": parts.language, **text_fields(parts), "vocab_size": rows, **(text or {})},
        "torch_dtype": str(parts.dtype).removeprefix("torch."),
        "transformers_version": version or ("4.39.0.dev0" if gemma else "4.36.0.dev0"),
        "vision_config": {"model_type": "clip_vision_model", **VISION, "vocab_size": 32000},
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }
    write_json(folder / "config.json", {**values, **fields})
    write_json(folder / "generation_config.json", generation(gemma))
    write_json(folder / "preprocessor_config.json", processor or clip_processor(processor_class="LlavaProcessor"))
    write_tokenizer(folder, tokenizer, **({"chat_template": chat} if chat else {}))
    return folder


def _hf_tensors(parts, age, rows):
    language = {}
    for name, tensor in parts.language_state(head=parts.language != "gemma").items():
        if len(tensor) == parts.model.config.vocab_size and tensor.ndim == 2:
            tensor = torch.cat([tensor, tensor.new_zeros(rows - len(tensor), tensor.shape[1])])
        if age == "4.38":
            language[f"language_model.{name}"] = tensor
        else:
            language[name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name] = tensor
    top = "" if age == "4.38" else "model."
    tower = {f"{top}vision_tower.{k}": v for k, v in parts.tower_state().items()}
    if age == "5.0":
        tower = {k.replace("vision_tower.vision_model.", "vision_tower."): v for k, v in tower.items()}
    layers = zip(("linear_1", "linear_2"), parts.linears, strict=True)
    projector = {f"{top}multi_modal_projector.{n}.{p}": getattr(m, p) for n, m in layers for p in ("weight", "bias")}
    return {**language, **tower, **projector}
