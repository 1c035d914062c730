"""With several threads, training gives the same bits every time, at every size: no sum depends on the threads' order.

PyTorch adds the gradient of an index with duplicates by atomic additions as soon as it moves more than 32,768 numbers
with several threads; sizes here are above that, with the two threads that `conftest` sets.
"""

import json

import pytest
import torch
from tiny_runs import QUIET, make_recipe, same, weights

from olivine.data.encoding import Example, Tokens
from olivine.data.packing import pack
from olivine.model.attention import packed, packed_attention
from olivine.model.loss import contrastive_loss, labelled_loss
from olivine.recipe import ModelRecipe
from olivine.records import Sample
from olivine.testing import llava_item, tiny_model_recipe, tiny_vlm, write_images
from olivine.training.objectives import LanguageObjective
from olivine.training.run import train
from repeated_bits import bits, different, no_shared_additions

#: Numbers beyond which PyTorch adds by index with several threads.
THRESHOLD = 32_768


@pytest.fixture(autouse=True)
def _two_threads():
    """Set two threads, whatever other tests have set: atomic additions occur only with several."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def _shared_prefix(prefix: int, continuations: int, length: int) -> Example:
    parts = [Tokens(list(range(prefix)), [False] * prefix)]
    parts += [Tokens([1] * length, [False] + [True] * (length - 1)) for _ in range(continuations)]
    return Example(Sample("s", (), None), tuple(parts))


def test_pytorch_itself_gives_different_bits():
    """The other tests would be needless if PyTorch gave the same bits here."""
    generator = torch.Generator().manual_seed(0)
    states, factors = torch.randn(400, 64, generator=generator), torch.randn(96, 128, 64, generator=generator)
    index = torch.randint(0, 50, (96, 128), generator=generator)

    def gradient(take):
        leaf = states.clone().requires_grad_()
        (take(leaf) * factors).sum().backward()
        return bits(leaf.grad)

    assert different(lambda: gradient(lambda leaf: leaf[index])) > 1
    assert different(lambda: gradient(lambda leaf: leaf.index_select(0, index.flatten()).view(96, 128, 64))) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_shared_keys(dtype):
    sequence = pack([_shared_prefix(64, 400, 12), _shared_prefix(100, 20, 9), _shared_prefix(33, 1, 40)], ())
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, len(sequence.ids), 32, generator=generator).to(dtype)
    key, value = torch.randn(2, 1, 2, len(sequence.ids), 32, generator=generator).to(dtype)
    assert max(group.keys.numel() for group in sequence.groups) * 2 * 32 > THRESHOLD

    def gradients():
        leaves = [state.clone().requires_grad_() for state in (query, key, value)]
        out, _ = packed_attention(None, *leaves, None, packed_groups=sequence.groups)
        (out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        return bits(*(leaf.grad.float() for leaf in leaves))

    assert different(gradients) == 1


def test_gradients_of_images_shared_by_samples():
    vlm = tiny_vlm()
    objective = LanguageObjective(vlm)
    patches = torch.randn(3, vlm.image_tokens, 32, generator=torch.Generator().manual_seed(0))
    sequence = pack([_shared_prefix(2, 1, 2)] * 400, [number % 3 for number in range(400)])
    factors = torch.randn(400, vlm.image_tokens, 32, generator=torch.Generator().manual_seed(1))
    assert factors.numel() > THRESHOLD

    def gradient():
        leaf = patches.clone().requires_grad_()
        (objective._features(sequence, sequence, None, leaf) * factors).sum().backward()
        return bits(leaf.grad)

    assert different(gradient) == 1


def test_gradients_of_the_loss_and_of_token_embeddings():
    generator = torch.Generator().manual_seed(0)
    embedding, head = torch.nn.Embedding(300, 64), torch.nn.Linear(64, 300, bias=False)
    ids, targets = (torch.randint(0, 300, (3000,), generator=generator) for _ in range(2))
    targets[::3] = -100

    def gradients():
        for module in (embedding, head):
            module.zero_grad()
        labelled_loss(embedding(ids), targets, head).backward()
        return bits(embedding.weight.grad, head.weight.grad)

    assert different(gradients) == 1


def test_gradients_of_the_contrastive_loss():
    image_folder, texts = torch.randn(2, 512, 128, generator=torch.Generator().manual_seed(0))
    captions = [str(number % 90) for number in range(512)]

    def gradients():
        leaves = [state.clone().requires_grad_() for state in (image_folder, texts)]
        contrastive_loss(*leaves, torch.tensor(9.0), captions).backward()
        return bits(*(leaf.grad for leaf in leaves))

    assert different(gradients) == 1


@pytest.fixture(scope="module")
def many_questions(tmp_path_factory):
    """Every image in three samples, with a dozen questions in each."""
    folder = tmp_path_factory.mktemp("many questions")
    names = write_images(folder / "images", 8, side=48)
    questions = [(f"is there a red circle? {turn}", ("yes", "no")[turn % 2]) for turn in range(12)]
    items = [llava_item(f"s{number}", questions, name) for number, name in enumerate(names * 3)]
    path = folder / "train.json"
    path.write_text(json.dumps(items), encoding="utf-8")
    return path


def _stages(folder, output, stages):
    model = tiny_model_recipe(image_size=48).model_dump(by_alias=True)
    model["vision"]["from"] |= {"image_size": 48, "hidden_size": 48}
    model["language"]["from"] |= {"hidden_size": 64, "head_dim": 32}
    base = {
        "train": ["connector", "language"],
        "batch": 24,
        "lr": 1e-3,
        "sequence_tokens": 4096,
        "steps": 2,
        "held_out": 0,
    }
    return make_recipe(folder, output, model=ModelRecipe.model_validate(model), stages=[{**base, **s} for s in stages])


STAGES = {
    "contrastive": [{"name": "look", "train": ["vision"], "objective": "contrastive"}],
    "connector": [{"name": "align", "train": ["connector"]}],
    "connector and language": [{"name": "instruct"}],
    "all parts": [{"name": "whole", "train": ["vision", "connector", "language"]}],
    "lora": [{"name": "lora", "train": ["connector", "language"], "lora": {"rank": 4}}],
}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_beyond_the_threshold_ends_in_the_same_bits(many_questions, tmp_path, name):
    if name == "lora":
        pytest.importorskip("peft")
    with no_shared_additions():
        first = weights(train(_stages(many_questions, tmp_path / "0", STAGES[name]), QUIET))
    again = weights(train(_stages(many_questions, tmp_path / "1", STAGES[name]), QUIET))
    assert same(first, again)


def test_hidden_states_beyond_the_threshold(vlm):
    """A model's answers are computed from them."""
    sequence = pack([_shared_prefix(64, 40, 12)], ())
    states = torch.randn(1, len(sequence.ids), 32, generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def hidden():
        with packed(vlm.language):
            return bits(vlm.run(sequence, states))

    assert different(hidden, 8) == 1
