"""The backbones' pretraining: it learns, resumes to the same bits, and leaves ordinary transformers folders."""

import re
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, GemmaForCausalLM

from olivine.data.packing import pack
from olivine.errors import RequestError, RunError
from olivine.files import read_json, read_json_lines, sha256_of_file, write_json
from olivine.model.towers.clip import Clip
from olivine.model.towers.siglip import Siglip
from olivine.records import Sample
from olivine.world.backbones import BACKBONES, locate, shipped
from olivine.world.conversations import conversation
from olivine.world.language import description
from olivine.world.pretraining import loop, run
from olivine.world.pretraining.clip import ClipPretraining
from olivine.world.pretraining.curriculum import Curriculum, Schedule
from olivine.world.pretraining.dinov2 import Dinov2Pretraining
from olivine.world.pretraining.gemma import SIZES, Size, begin_looking_back, expanded, gemma_config, scaled_init
from olivine.world.pretraining.language import LanguagePretraining
from olivine.world.pretraining.run import JOBS
from olivine.world.pretraining.siglip import SiglipPretraining
from olivine.world.pretraining.symbolic_patches import embedded, symbolic_patch_captions
from olivine.world.pretraining.towers import SHAPE, as_pixels, covered, patches_of, probe
from olivine.world.questions import ask
from olivine.world.sampling import sample_scene, sample_scenes

#: Enough that a tower's training ends with whole scenes.
STEPS = 6


def _language(steps=STEPS, vocabulary=640, size="small", smaller=None, **schedule):
    plan = Schedule(steps, 1e-3, tokens=500, questions=3, **schedule)
    return LanguagePretraining(SIZES[size], vocabulary, plan, 0, smaller=smaller)


MAKERS = {
    "clip": lambda: ClipPretraining(STEPS, 8, 0, variants=2),
    "siglip": lambda: SiglipPretraining(STEPS, 8, 0, variants=2),
    "dinov2": lambda: Dinov2Pretraining(STEPS, 4, 0, local_crops=2),
    "language": _language,
    "restarted": lambda: _language(unplaced=3, restarted=5e-4),
    "grown": lambda: _language(size="large", unplaced=STEPS, before=20, smaller=shipped() / "tiny-gemma-s"),
}


@pytest.fixture
def quick_figures(monkeypatch):
    for job in (ClipPretraining, SiglipPretraining, Dinov2Pretraining, LanguagePretraining):
        monkeypatch.setattr(job, "figures", lambda self: {"seen": True})


@pytest.mark.parametrize("name", MAKERS)
def test_goes_on_to_the_same_bits(name, tmp_path, quick_figures):
    """A run interrupted between two training checkpoints ends with the bits of an uninterrupted one."""
    loop.pretrain(MAKERS[name](), tmp_path / "whole", save_every=2, on_step=lambda *_: None)

    def stop(step, _steps):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.pretrain(MAKERS[name](), tmp_path / "cut", save_every=2, on_step=stop)
    assert (tmp_path / "cut" / loop.RESUME).is_file()
    done = []
    loop.pretrain(MAKERS[name](), tmp_path / "cut", save_every=2, on_step=lambda step, _: done.append(step))
    assert done == [3, 4, 5, 6], "it started again instead of resuming"
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "cut")]
    assert weights[0] == weights[1]
    assert not (tmp_path / "cut" / loop.RESUME).exists()
    assert read_json(tmp_path / "cut" / loop.FIGURES)["steps"] == STEPS


@pytest.mark.parametrize("name", MAKERS)
def test_every_weight_in_use_is_trained(name):
    """Products in bf16 must not keep using copies of the first step's weights."""
    job = MAKERS[name]()
    before = {n: p.detach().clone() for n, p in job.trained.named_parameters() if p.requires_grad}
    trained = {id(p) for optimizer in job.optimizers for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in job.trained.parameters() if p.requires_grad}
    for index in range(2):
        job.trained.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            job.step(index)
        loop.update(job, 1e-3)
    after = dict(job.trained.named_parameters())
    # Only CLIP's class token is read from the last layer, so some weights may get no gradient.
    moved = [n for n in before if not torch.equal(before[n], after[n])]
    assert len(moved) >= 0.9 * len(before), sorted(set(before) - set(moved))


def test_a_language_model_learns(tmp_path, quick_figures):
    loop.pretrain(_language(40), tmp_path, save_every=100, on_step=lambda *_: None)
    losses = [row["loss"] for row in read_json_lines(tmp_path / loop.LOG)]
    assert losses[-1] < 0.8 * losses[0]


def _said(job, text):
    """Return the text of an example with the labelled part in brackets."""
    tokens = [token for part in text.example.parts for token in zip(part.ids, part.supervised, strict=True)]
    return "".join(f"[{job.tokenizer.decode([i])}]" if learnt else job.tokenizer.decode([i]) for i, learnt in tokens)


def test_training_proceeds_from_lists_over_few_objects_to_everything():
    job = _language(200, 1024)  # a vocabulary in which words are single tokens
    again = []
    for listed in (text for index in range(6) for text in job.curriculum.texts(index)):
        given, said = _said(job, listed).removeprefix("<bos>").split("\n")
        words = given.split()
        assert 5 <= len(words) <= 9
        again.append(not said.startswith(" the"))
        if again[-1]:
            # In a repeated list, the first word is given and the others are labelled.
            assert said.replace("[", "").replace("]", "").split() == words
            assert said.startswith(words[0] + "[")
        else:
            pairs = re.findall(r" the (\w+)\[ (\w+)\]", said)
            assert sorted(words.index(first) for first, _ in pairs) == list(range(len(words) - 3))
            assert all(words.index(third) - words.index(first) == 3 for first, third in pairs)
    assert 0.3 < sum(again) / len(again) < 0.5
    early = [text for text in (_said(job, text) for text in job.curriculum.texts(8)) if "There is" in text]
    assert early
    assert all(text.split("\n")[0].count("There is") == 2 for text in early)
    assert not any(word in text for text in early for word in ("large", "small", "striped", "open", "left"))
    late = [_said(job, text) for index in range(150, 180) for text in job.curriculum.texts(index)]
    assert any("Answer with the option's letter" in text for text in late)
    assert any(not re.search(r"[.?]", text) for text in late), "lists still occur"


def test_only_described_facts_of_a_statement_are_labelled():
    """In "The ball is red." only the colour is labelled: which object comes next cannot be known."""
    job = _language(200, 1024)
    texts = [_said(job, text) for index in (7, 8, 9) for text in job.curriculum.texts(index)]
    for told, said in (text.split("\n") for text in texts if "There is" in text):
        learnt = re.findall(r"\[ ([a-z]+)\]", said)
        assert learnt
        assert all(word in told.replace(".", "").split() for word in learnt)


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_the_first_heads_are_initialised_to_look_back(size):
    def attention(looking_back):
        torch.manual_seed(0)
        model = GemmaForCausalLM._from_config(gemma_config(SIZES[size], 640), attn_implementation="eager")
        scaled_init(model)
        if looking_back:
            begin_looking_back(model, (1, 2))
        ids = torch.randint(300, 640, (4, 48), generator=torch.Generator().manual_seed(1))
        return model.model(input_ids=ids, output_attentions=True).attentions[0]

    for looking_back, least, most in ((True, 0.5, 1.0), (False, 0.0, 0.2)):
        weights = attention(looking_back)
        for head, distance in enumerate((1, 2)):
            there = weights[:, head].diagonal(offset=-distance, dim1=-2, dim2=-1)[:, 4:].mean()
            assert least < float(there) <= most


def test_an_expanded_model_computes_what_the_smaller_one_does():
    """Net2Net: a larger model starts with the smaller one's function, and all of its weights can learn."""
    torch.manual_seed(0)
    smaller = GemmaForCausalLM(gemma_config(SIZES["small"], 300))
    larger = expanded(smaller, SIZES["large"])
    ids = torch.randint(0, 300, (2, 40))
    torch.testing.assert_close(larger(ids).logits, smaller(ids).logits, rtol=1e-5, atol=1e-5)
    assert larger.num_parameters() > 2 * smaller.num_parameters()
    larger(ids, labels=ids).loss.backward()
    torch.optim.SGD(larger.parameters(), 0.1).step()
    larger.zero_grad()
    larger(ids, labels=ids).loss.backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in larger.parameters())
    with pytest.raises(ValueError, match="cannot be expanded"):
        expanded(smaller, Size(128, 6, 640, 4))


def test_an_expanded_model_continues_the_curriculum():
    """It repeats neither the lists nor the scenes that the smaller model has read."""
    tokenizer = _language().tokenizer
    plan = {"tokens": 500, "questions": 3}
    whole = Curriculum(tokenizer, Schedule(20, 1e-3, **plan), 0)
    rest = Curriculum(tokenizer, Schedule(5, 1e-3, **plan, before=15), 0)
    assert [t.example.sample.id for t in rest.texts(0)] == [t.example.sample.id for t in whole.texts(15)]


def test_an_expanded_model_waits_for_the_smaller_one(tmp_path, monkeypatch):
    """In one call the small model comes first; alone, it uses the shipped one; it does not start if that fails."""
    seen = []

    def pretend(name, folder, seed, share, smaller, threads):
        seen.append((name, smaller))
        if share < 0:
            raise RunError("cut")
        folder.mkdir(parents=True)
        write_json(folder / "figures.json", {"steps": 1})
        return {}

    monkeypatch.setattr(run, "_one", pretend)
    monkeypatch.setattr(run, "ProcessPoolExecutor", lambda jobs, mp_context: ThreadPoolExecutor(jobs))
    names = ["tiny-gemma-l", "tiny-gemma-s"]
    told = {"on_step": lambda *_: None, "jobs": 2}
    run.pretrain_all(names, tmp_path / "both", **told)
    run.pretrain_all(names[:1], tmp_path / "alone", **told)
    with pytest.raises(RunError, match="tiny-gemma-s"):
        run.pretrain_all(names, tmp_path / "failed", share=-1, **told)
    both = tmp_path / "both" / "tiny-gemma-s"
    assert seen == [
        ("tiny-gemma-s", None),
        ("tiny-gemma-l", both),
        ("tiny-gemma-l", shipped() / "tiny-gemma-s"),
        ("tiny-gemma-s", None),
    ]


def test_an_expanded_model_resumes_only_with_the_same_smaller_model(tmp_path, quick_figures):
    """Its tokenizer is read from the smaller one's folder: another one would assign its weights to other words."""

    def stop(step, _steps):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.pretrain(MAKERS["grown"](), tmp_path, save_every=2, on_step=stop)
    other = MAKERS["grown"]()
    assert other.origin == sha256_of_file(shipped() / "tiny-gemma-s" / "model.safetensors")
    other.origin = "another model's"
    with pytest.raises(RunError, match="expanded from other weights"):
        loop.pretrain(other, tmp_path, save_every=2, on_step=lambda *_: None)
    assert (tmp_path / loop.RESUME).is_file(), "nothing is lost by being refused"


def test_an_expanded_models_share_starts_after_the_smaller_ones_steps():
    smaller = shipped() / "tiny-gemma-s"
    job = JOBS["tiny-gemma-l"].make(0, 0.01, smaller)
    assert job.curriculum._schedule.before == read_json(smaller / loop.FIGURES)["steps"] == 12000
    assert (job.steps, job.curriculum._schedule.unplaced) == (16, 16)
    assert job.restart is None
    assert len(job.tokenizer) == job.model.config.vocab_size
    small = JOBS["tiny-gemma-s"].make(0, 0.01, None)
    assert (small.steps, small.restart) == (120, (100, 2.5e-3))


def test_a_loss_that_is_not_finite_stops(tmp_path):
    job = _language()
    job.step = lambda index: {"loss": float("nan")}
    with pytest.raises(RunError, match="step 0"):
        loop.pretrain(job, tmp_path, save_every=2, on_step=lambda *_: None)


def test_questions_share_the_description_and_do_not_see_each_other():
    job = _language()
    shown, rng = sample_scene(0, "t", 0), Random(1)
    pairs = [(asked.text, asked.answer) for asked in ask(shown, rng, 3)]
    told = description(shown, rng)
    together = job.curriculum.reading("t", told, pairs).example
    ids = [token for part in together.parts for token in part.ids]
    alone = job.tokenizer.decode(ids[: len(together.parts[0])] + together.parts[1].ids)
    assert alone == (
        f"<bos><start_of_turn>user\n{told}\n{pairs[0][0]}<end_of_turn>\n<start_of_turn>model\n{pairs[0][1]}"
        "<end_of_turn>\n"
    )
    # Exactly what the template writes for one question about a described scene.
    whole = job.curriculum.encoders["gemma"].conversation(
        conversation([(f"{told}\n{pairs[0][0]}", pairs[0][1])]), False
    )
    assert whole.ids == together.parts[0].ids + together.parts[1].ids


def test_symbolic_patches_are_placed_where_an_image_would_be():
    job = _language(200, 1024)
    shown, rng = sample_scene(0, "t", 0), Random(1)
    pairs = [(asked.text, asked.answer) for asked in ask(shown, rng, 3)]
    text = job.curriculum.questions_on_patches(shown, pairs, rng)
    of_a_image = Sample("t", conversation(pairs), "t.png")
    assert text.example.parts == job.curriculum.encoders["gemma"].example(of_a_image, independent=True).parts
    assert text.example.parts[0].ids.count(job.curriculum.image_token) == len(text.patch_words) == SHAPE.grid**2


def test_symbolic_patches_describe_their_contents():
    job = _language(200, 1024)
    for shown in sample_scenes(0, "t", 30):
        cells = [
            [job.tokenizer.convert_ids_to_tokens(token) for token in cell]
            for cell in symbolic_patch_captions(shown, job.tokenizer, Random(0), kept=1.0)
        ]
        nearest = {place: obj for obj in shown.objects for place in covered(obj)}
        for place, words in enumerate(cells):
            if place not in nearest:
                assert words == [f"▁{shown.backdrop}", f"▁{shown.time}"]
                continue
            obj = nearest[place]
            assert [f"▁{word}" for word in (obj.class_name, obj.colour, obj.size)] == words[:3]
            # Position and orientation are distinguished.
            assert ("▁left" in words) == ("left" in obj.place)
            if obj.class_name in ("bird", "fish", "car"):
                assert ("left" in words, "right" in words) == (obj.state == "left", obj.state == "right")


def test_late_symbolic_patches_give_positions_only_by_their_own():
    """Like image tokens: an object's position is known only by which of them it lies in."""
    places = {"▁top", "▁bottom", "▁left", "▁right", "▁middle"}
    job = _language(200, 1024, unplaced=50, restarted=5e-4)

    def told(index):
        cells = [cell for text in job.curriculum.texts(index) for cell in text.patch_words]
        return {word for cell in cells for word in job.tokenizer.convert_ids_to_tokens(cell)}

    assert places & set().union(*(told(index) for index in range(145, 150)))
    late = set().union(*(told(index) for index in range(150, 160)))
    assert not places & late
    assert {"▁ball", "▁red"} <= late
    asked = job.curriculum.questions_on_patches(sample_scene(0, "t", 0), [("Where is it?", "left")], Random(0))
    assert not places & {word for ids in asked.patch_words for word in job.tokenizer.convert_ids_to_tokens(ids)}
    rates = [loop._rate(job, index) for index in range(200)]
    assert max(rates[:150]) == 1e-3
    assert rates[149] < 2e-5
    assert max(rates[150:]) == 5e-4
    assert rates[199] < 1e-5


@torch.no_grad()
def test_a_symbolic_patch_is_the_sum_of_its_words():
    job = _language(200, 1024)
    embedding, image = job.model.model.embed_tokens, job.curriculum.image_token
    texts = [text for text in job.curriculum.texts(150) if text.patch_words][:2]
    texts.insert(1, next(text for text in job.curriculum.texts(150) if not text.patch_words))
    row = pack([text.example for text in texts], ())
    exact = embedded(embedding, row.ids, texts, image, None)
    places = (row.ids == image).nonzero()[:, 0].tolist()
    cells = [cell for text in texts for cell in text.patch_words]
    assert len(places) == len(cells) == 2 * SHAPE.grid**2
    for place, cell in zip(places, cells, strict=True):
        torch.testing.assert_close(exact[place], embedding(torch.tensor(cell)).sum(0) / len(cell) ** 0.5)
    words = row.ids != image
    assert torch.equal(exact[words], embedding(row.ids)[words])

    def noisy():
        return embedded(embedding, row.ids, texts, image, torch.Generator().manual_seed(3))

    assert torch.equal(noisy(), noisy())
    assert torch.equal(noisy()[words], exact[words])
    difference = (noisy() - exact)[~words]
    assert 0.2 < float(difference.std() / exact[~words].std()) < 0.4


def test_symbolic_patches_start_once_sentences_are_learnt():
    job = _language(200, 1024)
    assert not any(text.patch_words for index in range(20) for text in job.curriculum.texts(index))
    late = [text for index in range(100, 130) for text in job.curriculum.texts(index)]
    on_patches = [text for text in late if text.patch_words]
    assert 0.5 < len(on_patches) / len(late) < 0.75
    # Symbolic patches are input only, never labelled.
    assert all(text.example.parts[0].ids.count(job.curriculum.image_token) == len(text.patch_words) for text in late)
    captions = [text for text in on_patches if len(text.example.parts) == 1]
    assert 0.1 < len(captions) / len(on_patches) < 0.35
    assert all(re.fullmatch(r"<bos>(<image>)+(\[[^]]+\])+", _said(job, text)) for text in captions)


def test_names():
    assert set(JOBS) == set(BACKBONES)
    with pytest.raises(RequestError, match="Did you mean world:tiny-clip"):
        locate("tiny-klip")


#: Those without a configuration hold an aligned connector.
SHIPPED = sorted(folder.name for folder in shipped().iterdir() if (folder / "config.json").is_file())


def test_every_shipped_backbone_has_a_name():
    assert "tiny-clip" in SHIPPED
    assert set(SHIPPED) <= set(BACKBONES)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_backbones_are_ordinary_folders(name):
    folder = shipped() / name
    if "gemma" in name:
        AutoModelForCausalLM.from_pretrained(folder)
        AutoTokenizer.from_pretrained(folder)
    else:
        AutoModel.from_pretrained(folder)
    assert (folder / loop.FIGURES).is_file()
    assert (folder / loop.LOG).is_file()


def test_the_shipped_clip_separates_classes_and_colours():
    tower = AutoModel.from_pretrained(shipped() / "tiny-clip").eval()
    found = probe(lambda images: patches_of(tower, as_pixels(images, Clip.statistics)), 0, 400, 100)
    assert found["of_patches"]["kind"] > 95
    assert found["of_their_mean"]["kind"] > 90
    assert found["of_their_mean"]["colour"] > 97


def test_the_shipped_siglip_shows_kinds_and_colours():
    tower = AutoModel.from_pretrained(shipped() / "tiny-siglip").eval()
    found = probe(lambda images: patches_of(tower, as_pixels(images, Siglip.statistics), prefix=0), 0, 400, 100)
    assert found["of_patches"]["kind"] > 90
    assert found["of_their_mean"]["colour"] > 95


def test_all_backbones_together_stay_small():
    total = sum(path.stat().st_size for path in shipped().rglob("*") if path.is_file())
    assert total <= 25 * 2**20
