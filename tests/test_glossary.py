"""One word for one thing: words that the glossary replaces do not come back into code, docs and tests.

Only words that have no other sense here are listed; the rest (asked, shown, place, row) are a matter of judgement.
"""

import re
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: A pattern (any case) and the word to write instead.
WORDS = {
    r"pictur(?:e|es|ed)\b|PictureFolder|_pictures?\b": "image",
    r"\banew\b": "again, regenerate, restart",
    r"\buntold\b": "aliased, not estimable",
    r"\bresume[ -]?points?\b|\bResumePoints?\b": "training checkpoint",
    r"\brow_tokens\b|\bsum_each_row\b": "sequence_tokens, sum_each_sequence",
    r"\bpacked rows?\b|\brows? of (?:tokens|text)\b": "packed sequence",
    r"\bLossWatch\b": "loss-spike detector",
    r"\bwhat_is_wrong\b": "find_corruption",
    r"\bonly_process_in\b": "exclusive_lock",
    r"\b(?:go|goes|going|gone|went) on\b(?! (?:a|the) )": "resume, continue",
    r"\bpass(?:ed|es|ing) over\b": "ignore, skip",
    r"\btaken up\b|\btook up\b": "resume",
    r"\bh[au]ngs? on\b": "depend on",
    r"\bpart(?:s|ed|ing)? ways\b|\bpartings?\b": "disagree, disagreement",
    r"\brooms\b|\b_room\b": "packages, disk bytes",
    r"\bfront doors?\b": "entry point",
    r"\blikewise\b": "also, in the same way",
    r"\bso many\b(?! (?:that|as))": "this many",
    r"\bby (?:itself|themselves)\b": "automatically, alone",
    r"\bof one's own\b": "its own ...",
    r"\b(?:told|tells?|telling) cell by cell\b": "symbolic patch captions",
    r"\bbegin_calmly\b": "scaled_init",
    r"\bguessing (?:gets|would get|got)\b|\bguessing_gets\b": "majority-class baseline",
    r"\bwithout eyes\b": "blind baseline",
    r"\bfillers?\b": "padding sequence, dummy batch",
    r"\b(?:dealt|deals|dealing)\b(?! with)": "distribute",
    r"\btrunks?\b": "backbone",
    r"\bfootprints?\b": "activation memory",
    r"\bin lots of\b|\ba lot of (?:questions|images)\b": "chunk, micro-batch",
    r"\bgrown (?:from|out of)\b|\bgrown_from\b|\bgrown model\b": "expanded (Net2Net)",
    r"\bhurried\b": "quick",
    r"\bnot to be had\b": "unavailable",
    r"\basked again alone\b": "retried individually",
    r"\bshared out\b": "distributed",
    r"\bwhatever (?:model|tool|kind|way)\b|\bof whatever\b": "any",
    r"\bas far as there are\b": "where available",
    r"\bnames, by commas\b": "comma-separated",
    r"\bheld_up\b": "blocked_by",
    r"\bheld up\b": "blocked",
    r"\bmay_keep\b": "cacheable",
}
#: Files whose wording is data: the world's language and its benchmarks, what published files and other tools say.
DATA = {
    "src/olivine/world/questions.py": "the world's language",
    "src/olivine/world/language.py": "the world's language",
    "src/olivine/world/reasoning.py": "the world's language",
    "src/olivine/world/conversations.py": "the world's language",
    "src/olivine/world/training_data.py": "the world's language, and the key of a record on disk",
    "src/olivine/world/benchmarks/entailment.py": "the world's language",
    "src/olivine/world/benchmarks/mme.py": "MME's own wording",
    "src/olivine/world/benchmarks/mmvet.py": "the world's language",
    "src/olivine/world/benchmarks/mmvp.py": "the world's language",
    "src/olivine/world/benchmarks/scienceqa.py": "the world's language",
    "src/olivine/world/pretraining/dinov2.py": "the key of a log on disk",
    "src/olivine/data/layouts.py": "keys of other people's files",
    "tests/world/scene_checker.py": "the world's language",
    "tests/world/test_world_benchmarks.py": "the world's language",
    "benchmarks/same_study.py": "an option of earlier code, which it runs too",
    "docs/world.md": "written by `olivine world page`: the world's questions",
    "docs/glossary.md": "its last column has the words of other tools",
}
#: How many are left in a file, at most, with the reason. A count may only fall.
LEFT: dict[str, int] = {
    "src/olivine/ablation/step_identity.py": 1,  # the first name of a renamed field, under which it is hashed
    "tests/ablation/test_plan.py": 1,  # the same
}
SUFFIXES = (".py", ".md", ".yaml", ".toml", ".html", ".css", ".js", ".txt")


def listed(root: Path) -> list[Path]:
    """The files that are read: code, docs, README, tests and benchmarks, but no data, no pretrained folders."""
    found = [root / "README.md", root / "CONTRIBUTING.md", root / "CHANGELOG.md", root / "Makefile"]
    for folder in ("src", "docs", "tests", "benchmarks"):
        found += sorted(path for path in (root / folder).rglob("*") if path.suffix in SUFFIXES)
    skipped = ("pretrained", "results", "__pycache__")
    return [
        path
        for path in found
        if path.is_file()
        and path != Path(__file__)
        and not any(part in skipped for part in path.parts)
        and not any(part.endswith(".egg-info") for part in path.parts)
    ]


def replaced_words(root: Path) -> list[tuple[str, int, str, str]]:
    """(file, line, what stands there, what to write) of every word that the glossary replaces."""
    pattern = re.compile("|".join(f"({word})" for word in WORDS), re.IGNORECASE)
    instead = list(WORDS.values())
    found = []
    for path in listed(root):
        name = path.relative_to(root).as_posix()
        if name in DATA:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            found += [(name, number, hit[0], instead[hit.lastindex - 1]) for hit in pattern.finditer(line)]
    return found


def test_replaced_words_do_not_come_back():
    found = replaced_words(ROOT)
    counts = Counter(name for name, *_ in found)
    sys.stdout.write(f"{len(found)} words that the glossary replaces are left, in {len(counts)} files\n")
    lower = {name: counts[name] for name, ceiling in LEFT.items() if counts[name] < ceiling}
    sys.stdout.write(f"LEFT can be lowered to: {lower}\n")
    over = {name for name, count in counts.items() if count > LEFT.get(name, 0)}
    lines = [f'{name}:{number}: "{word}"; write: {instead}' for name, number, word, instead in found if name in over]
    assert not lines, "words that the glossary replaces:\n" + "\n".join(lines)


@pytest.mark.parametrize("name", DATA)
def test_files_listed_as_data_exist(name):
    # The world's own files go with it: `make test-core` runs without them.
    if "world" in name and not (ROOT / "src/olivine/world").is_dir():
        pytest.skip("the embedded world is not installed")
    assert (ROOT / name).is_file()


@pytest.mark.parametrize(
    ("line", "caught"),
    [
        ("the picture is written anew", 2),
        ("a run goes on from its resume point", 2),
        ("so many that it fails; no room for more; it went on the list; it deals with that", 0),
        ("an image, resumed from its training checkpoint", 0),
        ("PictureFolder and row_tokens", 2),
    ],
)
def test_words_are_found_and_others_are_not(tmp_path, line, caught):
    (tmp_path / "README.md").write_text(f"{line}\n", encoding="utf-8")
    assert len(replaced_words(tmp_path)) == caught
