"""Text from data, models and endpoints is displayed and never interpreted: terminal, tables, pages."""

import io

import pytest
from rich.table import Table
from rich.text import Text

from olivine.console import PlainConsole
from olivine.printable import csv_cell, printable

CONTROLS = {
    "\x1b[31mred": "\\x1b[31mred",
    "a\x07b\x08c": "a\\x07b\\x08c",
    "a\rb": "a\\rb",
    "\x9b31m": "\\x9b31m",
    "\x7f": "\\x7f",
    "\x00": "\\x00",
    "\u202eabc": "\\u202eabc",
    "\u2066abc": "\\u2066abc",
    "a\u2028b": "a\\u2028b",
    "\ud83d": "\\ud83d",
    "\U000e0041": "\\U000e0041",
}


@pytest.mark.parametrize(("text", "escaped"), CONTROLS.items(), ids=map(ascii, CONTROLS))
def test_controls_are_written_out(text, escaped):
    assert printable(text) == escaped
    escaped.encode("utf-8")


@pytest.mark.parametrize("text", ["plain", "two\nlines\tand a tab", "é 中 🙂 \u200d \u05d0\u200f", "\\x1b as text"])
def test_text_for_people_stays_as_it_is(text):
    assert printable(text) == text


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "  =1", "|x", "%x"])
def test_formulas_are_neutralised_in_a_table(text):
    assert str(csv_cell(text)).startswith("'")


@pytest.mark.parametrize("text", ["-1.5", "+2", "1e-05", "-1e+06", "nan", "-inf", "accuracy/=x", "a-b", ""])
def test_numbers_and_plain_words_stay_as_they_are_in_a_table(text):
    assert csv_cell(text) == text


def test_other_values_of_a_table_are_unchanged():
    assert csv_cell(-3) == -3


HOSTILE = "[bold]b[/bold][/nope] :smile: \x1b[31mred\x1b]8;;http://x\x07"


def printed(*what, **options):
    file = io.StringIO()
    PlainConsole(file=file, soft_wrap=True, force_terminal=True, color_system="standard").print(*what, **options)
    return file.getvalue()


def _table(cell):
    table = Table(title=cell)
    table.add_column(cell)
    table.add_row(cell)
    return table


@pytest.mark.parametrize("what", [HOSTILE, Text(HOSTILE), _table(HOSTILE)], ids=["string", "text", "table"])
def test_a_console_shows_markup_and_controls_as_text(what):
    output = printed(what, highlight=False)
    assert "[bold]b[/bold][/nope] :smile: \\x1b[31mred\\x1b]8;;http://x" in output
    assert "\x07" not in output
    assert "\x1b]" not in output
    assert "\x1b[31m" not in output


def test_a_console_still_applies_its_own_colours():
    assert "\x1b[31merror:\x1b[0m why" in printed(Text("error:", "red"), "why", highlight=False)
