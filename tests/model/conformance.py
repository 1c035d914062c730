"""What holds for every tower and every connector, in any combination."""

import atexit
import json
import shutil
import subprocess
import sys
from functools import cache
from tempfile import mkdtemp

import numpy as np
import torch
from PIL import Image

from olivine.data.images import open_image
from olivine.data.packing import pack
from olivine.evaluation.engine import AnsweringEngine
from olivine.model import checkpoint
from olivine.model.attention import packed
from olivine.model.build import build
from olivine.model.generate import answer_one
from olivine.model.loss import labelled_loss
from olivine.recipe import ModelRecipe
from olivine.records import Question, Role, Sample, Turn
from olivine.testing import gemma_tokenizer
from olivine.testing.specimens import specimen_recipe

TOKENS = 6
QUESTIONS = (("what color is it?", 0), ("is there a circle?", 1), ("hello", None))


@cache
def _tokenizer():
    folder = mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    gemma_tokenizer().save_pretrained(folder)
    return folder


def made(vision=None, connector=None, language=None, seed=0):
    """A model whose answers are not all one token: random Gemmas repeat their last."""
    recipe = made_recipe(vision, connector, language)
    vlm = build(recipe, seed=seed, texts=list)
    with torch.no_grad():
        for name, weight in vlm.part("language").items():
            if weight.ndim == 2 and "embed" not in name:
                weight.mul_(2)
        # Tiny towers start with weights so small that images would hardly differ.
        for name, weight in vlm.part("vision").items():
            if weight.ndim == 2 and "position" not in name:
                weight.mul_(8)
    return vlm


def made_recipe(vision=None, connector=None, language=None):
    """Return a model section with specimens instead of the usual modules; all language models get Gemma's tokenizer."""
    recipe = specimen_recipe(vision, connector, tokenizer=_tokenizer())
    if language is None:
        return recipe
    section = {"from": language, "tokenizer": _tokenizer(), "template": "gemma"}
    return ModelRecipe.model_validate({**recipe.model_dump(by_alias=True), "language": section})


def images(folder):
    """Write two different images of one size."""
    draw = np.random.default_rng(0)
    paths = [folder / "0.png", folder / "1.png"]
    for number, path in enumerate(paths):
        values = draw.integers(0, 256, (20, 26, 3)) // (1 + 3 * number) + 60 * number
        Image.fromarray(values.astype(np.uint8)).save(path)
    return paths


def sample(identity, question, answer, image):
    return Sample(identity, (Turn(Role.USER, question), Turn(Role.ASSISTANT, answer)), image)


SAMPLES = [
    sample("a", "what color is it?", "red, and not blue", "0.png"),
    sample("b", "hello", "hi", None),
    sample("c", "is there a circle?", "yes", "1.png"),
    sample("d", "what?", "a shape", "0.png"),
]


def pixels_of(vlm, path):
    return torch.from_numpy(vlm.transform(open_image(path)))[None]


@torch.no_grad()
def check_features(vlm, folder):
    """Check that features are as many as positions, equal to plain transformers' own, and depend on the image."""
    pixels = [pixels_of(vlm, path) for path in images(folder)]
    features = [vlm.project(vlm.patch_features(one)) for one in pixels]
    ids = vlm.encoder().prompt("what?", True)[0]
    placeholders = ids.count(vlm.model.config.image_token_id)
    assert features[0].shape[:2] == (1, placeholders) == (1, vlm.image_tokens)
    config = vlm.model.config
    assert config.image_seq_length == vlm.image_tokens
    theirs = vlm.model.get_image_features(
        pixel_values=pixels[0],
        vision_feature_layer=config.vision_feature_layer,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
    ).pooler_output
    torch.testing.assert_close(features[0], torch.stack(list(theirs)))
    assert (features[0] - features[1]).abs().max() > 1e-2 * features[0].abs().max(), (
        "the features do not depend on the image"
    )


@torch.no_grad()
def check_packed(vlm, folder, samples=SAMPLES):
    """Check that packed and separate logits agree to 1e-5 of the largest."""
    names = [path.name for path in images(folder)]
    examples = [vlm.encoder().example(one) for one in samples]
    sequence = pack(examples, [names.index(e.sample.image) for e in examples if e.sample.image])
    pixels = torch.cat([pixels_of(vlm, folder / name) for name in names])
    features = vlm.project(vlm.patch_features(pixels))[list(sequence.images)]
    with packed(vlm.language):
        logits = vlm.logits(vlm.hidden_states(sequence, features))
    start = 0
    for example in examples:
        ids = torch.tensor([example.parts[0].ids])
        image = pixels_of(vlm, folder / example.sample.image) if example.sample.image else None
        alone = vlm.model(input_ids=ids, pixel_values=image, attention_mask=torch.ones_like(ids)).logits[0]
        ours = logits[start : start + example.length]
        assert (ours - alone).abs().max() <= 1e-5 * alone.abs().max(), example.sample.id
        start += example.length


def check_steps(vlm, folder, parts=("vision", "connector")):
    """Check that three steps of every module lower the loss, and gradients reach the tower's first weights."""
    names = [path.name for path in images(folder)]
    examples = [vlm.encoder().example(one) for one in SAMPLES]
    sequence = pack(examples, [names.index(e.sample.image) for e in examples if e.sample.image])
    pixels = torch.cat([pixels_of(vlm, folder / name) for name in names])
    weights = [p for part in parts for p in vlm.part(part).values()]
    optimizer, losses = torch.optim.AdamW(weights, lr=3e-3), []
    for _ in range(4):
        features = vlm.project(vlm.patch_features(pixels))[list(sequence.images)]
        with packed(vlm.language):
            loss = labelled_loss(vlm.hidden_states(sequence, features), sequence.targets, vlm.model.lm_head)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    first = next(p for n, p in vlm.part("vision").items() if "patch_embed" in n and p.ndim == 4)
    assert first.grad is not None
    assert float(first.grad.abs().max()) > 0
    assert losses[-1] < losses[0], losses


def answers(vlm, folder):
    paths = images(folder)
    return [answer_one(vlm, text, None if n is None else paths[n], max_new_tokens=TOKENS) for text, n in QUESTIONS]


def check_engine(vlm, folder):
    paths = images(folder)
    asked = [
        Question(str(i), text, None if n is None else paths[n].name, str(i)) for i, (text, n) in enumerate(QUESTIONS)
    ]
    given = AnsweringEngine(vlm, max_new_tokens=TOKENS).answer(asked, folder)
    assert [a.text for a in sorted(given, key=lambda a: a.question_id)] == answers(vlm, folder)


def check_saved(vlm, folder):
    """Check that weights and answers survive saving and loading; return what another process must answer."""
    checkpoint.save(vlm, folder / "saved")
    again = checkpoint.load(folder / "saved")
    old, new = vlm.model.state_dict(), again.model.state_dict()
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert again.image_tokens == vlm.image_tokens
    assert again.transform == vlm.transform
    said = answers(again, folder)
    assert said == answers(vlm, folder)
    return said


_ELSEWHERE = """
import json, sys
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
out = {}
for name, folder in json.loads(sys.argv[1]).items():
    model = AutoModelForImageTextToText.from_pretrained(folder + "/saved")
    if getattr(model.config.text_config, "attn_logit_softcapping", None):
        model.model.language_model.set_attn_implementation("eager")  # some versions take SDPA, which has no cap
    processor = AutoProcessor.from_pretrained(folder + "/saved")
    said = []
    for question, number in json.loads(sys.argv[2]):
        image = None if number is None else Image.open(f"{folder}/{number}.png")
        content = [{"type": "image"}] if image else []
        texts = [question, question + " " + question]  # the first is padded then
        prompts = [
            processor.apply_chat_template(
                [{"role": "user", "content": [*content, {"type": "text", "text": text}]}],
                add_generation_prompt=True,
                tokenize=False,
            )
            for text in texts
        ]
        answers = set()
        for together in (prompts[:1], prompts):
            images = [image] * len(together) if image else None
            inputs = processor(text=together, images=images, return_tensors="pt", padding=True)
            got = model.generate(**inputs, max_new_tokens=int(sys.argv[3]))[0, inputs["input_ids"].shape[1] :]
            answers.add(processor.decode(got, skip_special_tokens=True).strip())
        said.append(" | ".join(sorted(answers)))  # one answer, if alone and padded agree
    out[name] = said
print(json.dumps(out))
"""


def check_elsewhere(expected, folders, *, alone):
    """Check that another process, with or without olivine, answers the same, alone and in a padded batch."""
    code = "" if alone else "import olivine\n"
    code += _ELSEWHERE
    code += "assert not any(m.startswith('olivine') for m in sys.modules)\n" if alone else ""
    where = json.dumps({name: str(folder) for name, folder in folders.items()})
    done = subprocess.run(
        [sys.executable, "-c", code, where, json.dumps(QUESTIONS), str(TOKENS)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == expected
