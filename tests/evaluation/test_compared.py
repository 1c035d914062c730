"""Models compared by the files that evaluations leave: what is paired, what is skipped, what is refused."""

import json

import numpy as np
import pytest

from olivine.errors import DataError, RequestError
from olivine.evaluation.compared import find_items, pair
from olivine.files import write_json, write_json_lines


def write_items(folder, right, *, benchmark="gqa", variant="official", first=0, of_cluster=4):
    rows = [
        {"question_id": f"q{first + n}", "cluster": f"i{(first + n) // of_cluster}", "correct": float(value)}
        for n, value in enumerate(right)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_json_lines(folder / "items.jsonl", rows)
    write_json(folder / "scores.json", {"benchmark": benchmark, "variant": variant, "control": None})
    return folder


def test_items_are_found_in_a_file_an_evaluation_and_a_run(tmp_path):
    one = write_items(tmp_path / "run" / "instruct" / "evaluation" / "gqa", [1, 0])
    write_items(tmp_path / "run" / "instruct" / "evaluation" / "pope", [1, 0], benchmark="pope")
    assert list(find_items(tmp_path / "run")) == ["gqa", "pope"]
    for path in (one / "items.jsonl", one):
        assert find_items(path)["gqa"].items == {"q0": ("i0", 1.0), "q1": ("i0", 0.0)}
    with pytest.raises(RequestError, match=r"no items.jsonl in it"):
        find_items(tmp_path)


def test_only_common_questions_are_paired_and_the_rest_is_said(tmp_path):
    first = find_items(write_items(tmp_path / "a", [1, 0, 1, 1]))
    second = find_items(write_items(tmp_path / "b", [0, 0, 1, 1], first=2))
    more = find_items(write_items(tmp_path / "c", [1], benchmark="pope"))
    found = pair([first, {**second, **more}], ["A", "B"])
    assert found.paired["gqa"].items.tolist() == [[100, 100], [0, 0]]
    assert found.paired["gqa"].clusters == ["i0", "i0"]
    assert any("2 questions of A are skipped" in note for note in found.notes)
    assert any("pope: only B has it" in note for note in found.notes)


def test_what_cannot_be_compared_is_refused(tmp_path):
    first = find_items(write_items(tmp_path / "a", [1, 0]))
    with pytest.raises(RequestError, match="different variants"):
        pair([first, find_items(write_items(tmp_path / "b", [1, 0], variant="lenient"))], ["A", "B"])
    with pytest.raises(RequestError, match="no question is common"):
        pair([first, find_items(write_items(tmp_path / "c", [1, 0], first=9))], ["A", "B"])
    with pytest.raises(RequestError, match="no benchmark is common"):
        pair([first, find_items(write_items(tmp_path / "d", [1, 0], benchmark="pope"))], ["A", "B"])
    with pytest.raises(DataError, match="is in cluster 'i1'"):
        pair([first, find_items(write_items(tmp_path / "e", [1, 0], of_cluster=1))], ["A", "B"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"question_id": "1", "cluster": "a"}, "line 1 is not a scored item"),
        ({"question_id": "1", "cluster": "a", "correct": 67.0}, "expected a number from 0 to 1"),
    ],
)
def test_a_line_that_is_no_scored_item_is_refused(tmp_path, line, said):
    (tmp_path / "items.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(DataError, match=said):
        find_items(tmp_path)


def test_the_command_prints_differences_and_json(tmp_path, run):
    random = np.random.default_rng(0)
    ease = np.repeat(random.uniform(0.2, 0.9, 60), 4)
    a, b = (write_items(tmp_path / name, random.random(240) < ease + more) for name, more in (("A", 0), ("B", 0.2)))
    code, out, err = run("compare", a, b)
    assert code == 0, err
    assert "gqa: 240 questions in 60 clusters" in out
    assert "B minus A" in out
    assert "tied within" in out
    code, out, err = run("compare", a, b, "--margin", 50, "--json")
    assert code == 0, err
    (found,) = json.loads(out)["comparisons"]
    assert found["low"] < found["difference"] < found["high"]
    assert (found["tied"], found["questions"], found["clusters"]) == (True, 240, 60)
    code, _, err = run("compare", a, a)
    assert code == 2
    assert "named twice" in err
    code, _, err = run("compare", a, b, "--margin", "-1")
    assert code == 2
    assert "--margin" in err
