"""Questions about two images: true of exactly one, asked in both orders, and read by the benchmark's reader."""

import re
from collections import Counter, defaultdict

import pytest
from PIL import Image

from olivine.data.llava_json import parse_item
from olivine.evaluation import benchmarks
from olivine.evaluation.run import controlled
from olivine.files import read_json, read_json_lines
from olivine.records import Answer
from olivine.world import two_images
from olivine.world.scene import BACKDROPS, CLASSES, Scene

ORDERS = ("first", "second")
PAIRS, ASKED = 30, 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two") / "data"
    two_images.write(folder, 5, PAIRS, ASKED)
    return folder


@pytest.fixture(scope="module")
def questions(folder):
    return benchmarks.get("exact-match").read(folder / "exact-match")


def holds(question, scene):
    """Whether a question's statement is true of a scene, from its words alone."""
    found = re.match(r"Which image shows an? (?:scene (?:by|at) (day|night)|(?:(\w+) )?(\w+)), the first or", question)
    assert found, question
    time, colour, noun = found.groups()
    if time:
        return scene.time == time
    if noun in BACKDROPS:
        return scene.backdrop == noun
    assert noun in CLASSES
    return any(obj.class_name == noun and colour in (None, obj.colour) for obj in scene.objects)


def scores(questions, replies):
    answers = [Answer(question.id, reply) for question, reply in zip(questions, replies, strict=True)]
    return benchmarks.get("exact-match").score(questions, answers)


def test_every_question_is_true_of_the_answered_image_only(folder, questions):
    rows = read_json_lines(folder / "exact-match" / "scenes.jsonl")
    scenes = {row["image"].removeprefix("images/"): Scene.from_dict(row["scene"]) for row in rows}
    assert len(scenes) == 2 * ASKED
    for question in questions:
        right = ORDERS.index(question.references[0])
        assert [holds(question.prompt, scenes[name]) for name in question.images] == [right == 0, right == 1]
    assert set(Counter(question.details["category"] for question in questions)) == set(two_images.TOPICS)


def test_replies_to_train_on_are_true_of_their_image_only(folder):
    from olivine.world.sampling import sample_scene

    items = read_json(folder / "instructions.json")
    replies = Counter()
    for item in items:
        number = int(item["id"].rpartition("-")[2])
        scenes = [sample_scene(5, "two-images", 2 * number + which) for which in range(2)]
        sample = parse_item(item, number)
        assert len(sample.images) == 2
        for asked, reply in zip(sample.conversation[::2], sample.conversation[1::2], strict=True):
            right = ORDERS.index(reply.text)
            assert [holds(asked.text.strip(), scene) for scene in scenes] == [right == 0, right == 1]
            replies[reply.text] += 1
        for name in sample.images:
            with Image.open(folder / "images" / name) as image:
                assert image.size == (96, 96)
    assert min(replies.values()) > 0.35 * sum(replies.values())


def test_whatever_is_answered_without_images_is_right_half_the_time(questions):
    """A reply that depends on the prompt alone: it is the same for both orders of a pair."""
    gold = [question.references[0] for question in questions]
    assert scores(questions, gold).metrics["accuracy"] == 100
    blind = controlled(questions, "blind")
    for reply in (lambda _: "first", lambda prompt: ORDERS[sum(map(ord, prompt)) % 2]):
        metrics = scores(questions, [reply(question.prompt) for question in blind]).metrics
        assert set(metrics.values()) == {50.0}


def test_a_cluster_is_a_pair_of_images_in_either_order(questions):
    clusters = defaultdict(set)
    for question in questions:
        clusters[question.cluster].add(question.images)
    assert len(clusters) == ASKED
    for orders in clusters.values():
        first, second = orders
        assert first == second[::-1]


def test_the_same_seed_gives_the_same_bytes_and_an_existing_folder_is_kept(folder, tmp_path):
    def contents(root):
        return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}

    two_images.write(tmp_path / "again", 5, PAIRS, ASKED)
    assert contents(tmp_path / "again") == contents(folder)
    two_images.write(tmp_path / "other", 6, PAIRS, ASKED)
    assert contents(tmp_path / "other") != contents(folder)
    before = (folder / "instructions.json").stat().st_mtime_ns
    two_images.write(folder, 5, PAIRS, ASKED)
    assert (folder / "instructions.json").stat().st_mtime_ns == before


def test_the_command_writes_them(run, tmp_path):
    code, _, err = run("world", "two-images", tmp_path / "data", "--pairs", 2, "--asked", 2)
    assert code == 0, err
    code, out, err = run(
        "data", "check", tmp_path / "data" / "instructions.json", "--images", tmp_path / "data" / "images"
    )
    assert code == 0, (out, err)
    code, out, _ = run("world", "two-images", "--help")
    assert code == 0
    assert "Example: olivine world two-images" in " ".join(out.split())
