"""exact-match reads questions about several images, in any order one cluster, and refuses others."""

import json

import pytest

from olivine.errors import DataError
from olivine.evaluation import benchmarks


def read(folder, **values):
    row = {"question_id": 1, "text": "which?", "answer": "first", **values}
    (folder / "questions.jsonl").write_text(json.dumps(row) + "\n")
    (question,) = benchmarks.get("exact-match").read(folder)
    return question


def test_several_images_and_their_cluster(tmp_path):
    question = read(tmp_path, images=["b.png", "a.png"])
    assert (question.image, question.images, question.cluster) == (None, ("b.png", "a.png"), "a.png + b.png")
    assert read(tmp_path, images=["a.png", "b.png"]).cluster == question.cluster


def test_one_image_or_none_is_read_as_before(tmp_path):
    one, none = read(tmp_path, image="a.png"), read(tmp_path)
    assert (one.image, one.images, one.cluster) == ("a.png", (), "a.png")
    assert (none.image, none.images, none.cluster) == (None, (), "1")


@pytest.mark.parametrize(
    "images", ["a.png", [], ["a.png"], ["a.png", None], ["a.png", ""], [["a.png", "b.png"]], {}, 2]
)
def test_what_is_no_list_of_several_paths_is_refused(tmp_path, images):
    with pytest.raises(DataError, match=r"question 1: images is .*expected a list of two or more paths"):
        read(tmp_path, images=images)


def test_image_and_images_together_are_refused(tmp_path):
    with pytest.raises(DataError, match="question 1: has image and images"):
        read(tmp_path, image="a.png", images=["a.png", "b.png"])
