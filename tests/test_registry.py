"""Named sources come from any installed package; the embedded world's are found the same way."""

import sys

import pytest

from olivine.errors import RequestError
from olivine.registry import SOURCES, load, locate, offered


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Put packages that offer named sources on the path, as pip would."""

    def install(name, entries, code=""):
        (tmp_path / f"{name}.py").write_text(code)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{SOURCES}]\n" + "\n".join(entries) + "\n")
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
        offered.cache_clear()
        load.cache_clear()

    yield install
    offered.cache_clear()
    load.cache_clear()
    sys.modules.pop("parts_elsewhere", None)


@pytest.mark.parametrize(
    "source",
    [
        "google/gemma-2b-it",
        "openai/clip-vit-large-patch14-336",
        "./folder",
        "C:\\models\\clip",
        "/a/b:c",
        "https://x/y",
    ],
)
def test_folders_and_hub_ids_are_unchanged(source):
    assert locate(source) == source


def test_a_package_outside_offers_a_scheme(installed, tmp_path):
    installed("parts_elsewhere", ["lab = parts_elsewhere:find"], "def find(name):\n    return f'/models/{name}'\n")
    assert locate("lab:clip-b") == "/models/clip-b"


def test_an_unknown_scheme_names_the_nearest(installed):
    installed("parts_elsewhere", ["labs = parts_elsewhere:find"])
    with pytest.raises(RequestError, match=r"'lab:\.\.\.'.*Did you mean 'labs'"):
        locate("lab:clip-b")


def test_a_package_that_cannot_be_imported_is_named(installed):
    installed("parts_elsewhere", ["lab = parts_elsewhere:missing"])
    with pytest.raises(RequestError, match="parts_elsewhere:missing, which cannot be imported"):
        locate("lab:clip-b")


def test_two_packages_with_one_name_are_refused(installed):
    installed("parts_elsewhere", ["lab = parts_elsewhere:find"])
    installed("parts_again", ["lab = parts_again:find"])
    with pytest.raises(RequestError, match=r"2 packages provide 'lab' \(parts_again:find, parts_elsewhere:find\)"):
        load(SOURCES, "lab")
