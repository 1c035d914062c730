"""YAML read strictly: what other readers silently misread, and hostile files, give one line with line and column."""

import os
import time

import pytest

from olivine.errors import RequestError
from olivine.recipe import load
from olivine.strict_yaml import MAX_BYTES, MAX_DEPTH, parse_yaml, read_yaml

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)
MERGE_BOMB = "a: &a {k0: v}\n" + "".join(
    f"m{n}: &m{n} {{<<: [*{m}, *{m}], k{n}: *{m}}}\n" for n, m in enumerate(["a", *(f"m{n}" for n in range(30))])
)

MISTAKES = {
    "a key twice": ("seed: 1\nname: x\nseed: 2\n", ["line 3", "'seed' is given twice, first at line 1"]),
    "a nested key twice": ("a:\n  b: 1\n  'b': 2\n", ["line 3", "'b' is given twice, first at line 2"]),
    "a key twice in a list": ("a:\n- {x: 1,\n   x: 2}\n", ["line 3", "'x' is given twice"]),
    "keys that Python takes for one": ("1: a\nyes: b\n", ["line 2", "is given twice"]),
    "an alias inside itself": ("a: &a {b: *a}\n", ["line 1", "*a is inside what it refers to"]),
    "a merge with itself": ("a: &a\n  <<: *a\n", ["line 2", "is inside"]),
    "an alias bomb": (BOMB, ["more than 200,000 values once its aliases are expanded"]),
    "a merge bomb": (MERGE_BOMB, ["more than 200,000 values"]),
    "an alias of nothing": ("a: *nothing\n", ["line 1", "alias"]),
    "deep brackets": ("name: " + "[" * 5000 + "]" * 5000, ["line 1", f"more than {MAX_DEPTH} levels"]),
    "deep indentation": ("\n".join(" " * n + "a:" for n in range(2000)), ["line 65", "levels deep"]),
    "a null byte": ("name: a\0b", ["line 1", "U+0000"]),
    "an escaped null byte": ('name: "a\\0b"', ["line 1", "U+0000"]),
    "a terminal's escape": ('\nname: "a\\e[31m"', ["line 2", "U+001B"]),
    "half a character": ('name: "\\ud800"', ["line 1"]),
    "an octal number": ("seed: 010", ["line 1", "010 is not a decimal number"]),
    "a number to base sixty": ("seed: 1:30", ["line 1", "1:30 is not a decimal number"]),
    "a number too long": ("seed: " + "9" * 5000, ["digits"]),
    "a day that there is not": ("name: 2024-13-45", ["month"]),
    "a Python object": ("name: !!python/object/apply:os.system [ls]", ["line 1", "constructor for the tag"]),
    "a tag that hides an escape": ("name: !%1b[31m x", ["line 1"]),
    "two documents": ("a: 1\n---\nb: 2\n", ["line 2", "another document"]),
    "a tab for indentation": ("a:\n\tb: 1", ["line 2", "token"]),
    "a bracket left open": ("name: {", ["not valid YAML"]),
    "a list as key": ("? [a, b]\n: 1", ["line 1", "unhashable"]),
    "broken base64": ("a: !!binary abc", ["line 1", "base64"]),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_one_line_with_line_and_column(kind):
    text, words = MISTAKES[kind]
    began = time.monotonic()
    with pytest.raises(RequestError) as error:
        parse_yaml(text, "recipe.yaml")
    said = str(error.value)
    assert said.startswith("recipe.yaml: not valid YAML")
    assert "\n" not in said
    assert "\x1b" not in said
    for word in words:
        assert word in said
    assert time.monotonic() - began < 2


def test_valid_yaml_is_read():
    text = "a: &a {x: 1, y: 0}\nb:\n  <<: *a\n  x: 2\nc: '010'\nd: 0\ne: -3\nf: 1.0e-3\ng: é\nh: |\n  two\n  lines\n"
    assert parse_yaml(text, "x") == {
        "a": {"x": 1, "y": 0},
        "b": {"x": 2, "y": 0},
        "c": "010",
        "d": 0,
        "e": -3,
        "f": 0.001,
        "g": "é",
        "h": "two\nlines\n",
    }
    assert parse_yaml("# nothing\n", "x") is None


def make_directory(path):
    path.mkdir()


NO_FILES = {
    "missing": (lambda path: None, "recipe not found"),
    "a directory": (make_directory, "this is a directory; expected a recipe"),
    "a pipe": (os.mkfifo, "not a regular file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "a circle of links": (lambda path: path.symlink_to(path), "cannot be read"),
    "an image": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe"), "not UTF-8 text"),
    "UTF-16": (lambda path: path.write_text("name: x", encoding="utf-16"), "not UTF-8 text"),
    "far too large": (lambda path: path.write_bytes(b"#" * (MAX_BYTES + 1)), "Is it another file?"),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_a_file_that_is_no_yaml_is_named(tmp_path, kind):
    make, says = NO_FILES[kind]
    path = tmp_path / "recipe.yaml"
    make(path)
    with pytest.raises(RequestError) as error:
        read_yaml(path, "recipe")
    assert says in str(error.value)
    assert "recipe.yaml" in str(error.value)


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "a.yaml").write_text("name: x", encoding="utf-8-sig")
    assert read_yaml(tmp_path / "a.yaml", "recipe") == {"name": "x"}


@pytest.mark.parametrize(("text", "says"), [("", "the file is empty"), ("- a\n", "this is a list"), ("x", "is a str")])
def test_an_empty_recipe_or_one_that_is_no_mapping(tmp_path, text, says):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(RequestError, match=says):
        load(tmp_path / "a.yaml")


def test_a_base_recipe_is_read_as_strictly(tmp_path):
    (tmp_path / "base.yaml").write_text("seed: 1\nseed: 2\n")
    (tmp_path / "a.yaml").write_text("base: base.yaml\n")
    with pytest.raises(RequestError, match=r"base\.yaml.*'seed' is given twice"):
        load(tmp_path / "a.yaml")
