"""Text from data sets and models reaches tables and pages as text: no formula, no control character, no markup."""

import csv
import io

import pytest

from olivine.ablation.report import _environment
from olivine.ablation.results import _csv

HOSTILE = [
    "=cmd|'/C calc'!A0",
    "@SUM(1)",
    "+1+1",
    "-1+1",
    "\x1b[31mred",
    "\u202eRTL",
    "<script>alert(1)</script>",
    "a,b\n",
]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_table_holds_it_as_text(text):
    (row,) = csv.reader(io.StringIO(_csv([[text, -1.5, "-1.5", ""]])))
    assert row[1:] == ["-1.5", "-1.5", ""]
    assert row[0][0] not in "=+-@"
    assert not {"\x1b", "\u202e"} & set(row[0])


@pytest.mark.parametrize("name", ["a.html", "a.md"])
@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_page_shows_it_as_text(text, name):
    environment = _environment()
    source = "{{ text }}|{{ text | cellmd }}" if name == "a.md" else "<p>{{ text }}</p>"
    made = environment.from_string(source).render(text=text)
    assert not {"\x1b", "\u202e"} & set(made)
    if name == "a.html":
        assert "<script" not in made
        assert "&amp;lt;" not in made
