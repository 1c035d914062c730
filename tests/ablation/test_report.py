"""From finished steps to tables and a page: known effects are found, the same answers give the same bytes, and a
model's text stays text."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from fabricated import AXES, read_csv, write_finished

from olivine.ablation.agreement import compare
from olivine.ablation.averaged import average_columns
from olivine.ablation.disagreements import disagreements
from olivine.ablation.latex import escaped as latex_escaped
from olivine.ablation.published import table
from olivine.ablation.report import _markdown_cell, headlines, plain, report_context, signed, write_report
from olivine.ablation.results import collect, effects_csv, results_csv
from olivine.errors import RunError
from olivine.printable import printable

HOSTILE = (
    '<script>document.title="taken"</script><img src=x onerror=alert(1)> '
    + "Donaudampfschifffahrtsgesellschaft" * 6
    + " \u202eעברית العربية \u2066| **bold** `code`"
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path, plan = write_finished(tmp_path_factory.mktemp("finished"), images=60, wrong=HOSTILE)
    return path, plan, collect(plan)


def test_simulated_effects_are_found(finished):
    _, _, results = finished
    pope = next(o for o in results.outcomes if o.measure.name == "mean/accuracy")
    found = {effect.contrast.name: effect for effect in pope.effects}
    assert len(found) == 7
    assert found["align=no"].estimate.interval.holds(-15)
    assert found["vision=dinov2"].estimate.interval.holds(10)
    assert found["align=no"].p_holm <= 0.05
    assert all(effect.p_holm >= effect.p for effect in found.values())


def breakdown(results, name):
    (found,) = [part for part in report_context(results)["breakdowns"] if part["benchmark"] == name]
    return dict(found["rows"])


def test_a_breakdown_is_in_percent(finished):
    _, _, results = finished
    official = [run.scores["metrics"]["mean/f1"] for run in results.evaluations.of("pope").values()]
    assert max(official) <= 1
    shown = breakdown(results, "pope")["mean/f1, %"]
    assert sum(shown) / len(shown) == pytest.approx(100 * sum(official) / len(official))


def test_a_breakdown_says_how_many_answers_could_not_be_read(tmp_path):
    _, plan = write_finished(tmp_path, wrong=" ")
    results = collect(plan)
    unread = {}
    for name in plan.study.recipe.benchmarks:
        runs = list(results.evaluations.of(name).values())
        shown = breakdown(results, name)["answers that could not be read, %"]
        assert sum(shown) == pytest.approx(sum(100 * len(run.scores["unread"]) / len(run.questions) for run in runs))
        unread[name] = sum(shown)
    assert unread["pope"] == 0
    assert max(unread.values()) > 0, "blank answers to open questions"


def test_the_family_is_the_whole_study(finished):
    _, _, results = finished
    mains = [e for o in results.headlines for e in o.effects if e.contrast.order == 1]
    assert len(mains) == 9
    smallest = min(mains, key=lambda effect: effect.p)
    assert smallest.p_holm == pytest.approx(min(1, 9 * smallest.p))


def test_a_headline_says_what_a_change_does(finished):
    _, _, results = finished
    lines = {line["phrase"]: line for line in headlines(results)}
    assert set(lines) == {
        "The large language model instead of the small one",
        "DINOv2 instead of CLIP",
        "Skipping the connector's pretraining",
    }
    assert lines["Skipping the connector's pretraining"]["verdict"] == "lowers 3 of 3 benchmarks"


def test_the_same_answers_give_the_same_bytes(finished, tmp_path):
    _, plan, results = finished
    again = collect(plan)
    assert results_csv(collect(plan)) == results_csv(again)
    assert effects_csv(results) == effects_csv(again)
    _, elsewhere = write_finished(tmp_path, images=60, wrong=HOSTILE)
    assert results_csv(collect(elsewhere)) == results_csv(collect(plan))
    assert effects_csv(collect(elsewhere)) == effects_csv(results)


def test_results_hold_every_metric_of_every_evaluation(finished, tmp_path):
    _, plan, results = finished
    write_report(results, tmp_path)
    rows = read_csv(tmp_path / "results.csv")
    assert {row["benchmark"] for row in rows} == {"pope", "mme", "exact-match"}
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    kept = parquet.read_table(tmp_path / "results.parquet").to_pylist()
    assert [(r["benchmark"], r["metric"], r["value"]) for r in kept] == [
        (r["benchmark"], r["metric"], float(r["value"])) for r in rows
    ]
    one = [r for r in rows if r["metric"] == "accuracy/colour" and not r["control"]]
    assert len(one) == 8
    key = plan.evaluations[("large", "clip", "no"), 0, "exact-match", None]
    scores = json.loads((plan.steps[key].folder / "scores.json").read_text())
    (row,) = [r for r in one if (r["language"], r["vision"], r["align"]) == ("large", "clip", "no")]
    assert float(row["value"]) == pytest.approx(scores["metrics"]["accuracy/colour"], rel=1e-5)
    effects = read_csv(tmp_path / "effects.csv")
    assert len(effects) == 7 * len(results.outcomes)
    assert all(float(row["low"]) <= float(row["effect"]) <= float(row["high"]) for row in effects)


def test_seeds_are_shown_beside_questions(tmp_path):
    _, plan = write_finished(tmp_path, seeds=(0, 1, 2), images=12)
    results = collect(plan)
    effect = results.outcomes[0].effects[0]
    assert effect.estimate.seeds == 3
    assert effect.estimate.standard_errors.seeds is not None
    page = write_report(results, tmp_path / "out").read_text()
    assert "Intervals cover the variation between questions and between training runs" in page
    assert "unknown, not zero" not in page


def test_gallery_shows_every_configurations_answer(finished):
    _, _, results = finished
    found = disagreements(results)
    assert [(p.axis, p.level) for p in found] == [("language", "large"), ("vision", "dinov2"), ("align", "no")]
    for change in found:
        assert change.examples
        for example in change.examples:
            assert [right for *_, right in example.said].count(True) == 1
            assert example.image is not None
            assert example.image.startswith("data:image/png;base64,")
    assert disagreements(results) == found


class Tags(HTMLParser):
    """Collects what a browser would parse as elements and attributes."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        self.text.append(data)


def test_a_hostile_answer_is_text(finished, tmp_path):
    _, _, results = finished
    seen = Tags()
    seen.feed(write_report(results, tmp_path).read_text())
    assert "script" not in seen.tags
    assert not any(name.startswith("on") for name in seen.attributes)
    assert printable(HOSTILE) in "".join(seen.text)


def test_the_page_needs_nothing_from_outside(finished, tmp_path):
    _, _, results = finished
    page = write_report(results, tmp_path).read_text()
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", page)
    assert "url(" not in page
    assert "@import" not in page


def test_text_cannot_escape_from_a_markdown_cell():
    assert _markdown_cell("a | b\n*c* <script>") == "a \\| b \\*c\\* \\<script\\>"


def test_an_unfinished_study_reports_its_finished_steps(tmp_path):
    _, plan = write_finished(tmp_path, images=8)
    gone = plan.steps[plan.evaluations[("large", "dinov2", "no"), 0, "pope", None]]
    shutil.rmtree(gone.folder)
    results = collect(plan)
    assert results.unfinished == (gone.key,)
    pope = results.headlines[0]
    assert len(pope.scores) == 7
    names = [effect.contrast.name for effect in pope.effects]
    assert "align=no" in names
    assert "language=large × vision=dinov2 × align=no" not in names
    assert "Unfinished" in write_report(results, tmp_path / "out").read_text()


def test_a_study_without_finished_steps_says_so(tmp_path):
    _, plan = write_finished(tmp_path, images=8)
    shutil.rmtree(plan.study.directory)
    with pytest.raises(RunError, match="no evaluation is finished"):
        collect(plan)


def test_a_configuration_asked_other_questions_is_named_and_in_no_figure(tmp_path):
    _, plan = write_finished(tmp_path, images=8)
    step = plan.steps[plan.evaluations[("large", "clip", "no"), 0, "exact-match", None]]
    items = (step.folder / "items.jsonl").read_text().splitlines()
    (step.folder / "items.jsonl").write_text("\n".join(items[3:]) + "\n")
    results = collect(plan)
    exact = next(outcome for outcome in results.headlines if outcome.benchmark == "exact-match")
    assert ("large", "clip", "no") not in exact.scores
    assert len(exact.scores) == 7
    assert any("language=large, vision=clip, align=no was asked 21 questions" in note for note in results.notes)
    pope = next(outcome for outcome in results.headlines if outcome.benchmark == "pope")
    assert len(pope.scores) == 8


def test_one_odd_benchmark_leaves_the_others(tmp_path):
    _, plan = write_finished(tmp_path, images=8)
    for (_, _, name, control), key in plan.evaluations.items():
        if name == "mme" and control is None:
            (plan.steps[key].folder / "items.jsonl").write_text("not json\n")
    results = collect(plan)
    assert {outcome.benchmark for outcome in results.outcomes} == {"pope", "exact-match"}
    assert any("MME: no evaluation is finished" in note for note in results.notes)
    page = write_report(results, tmp_path / "out").read_text()
    assert "Missing:" in page
    assert "it cannot be read" in page


def test_a_missing_seed_costs_that_seed_and_no_effect(tmp_path):
    _, plan = write_finished(tmp_path, images=8, seeds=(0, 1, 2))
    gone = ("large", "dinov2", "no")
    shutil.rmtree(plan.steps[plan.evaluations[gone, 2, "pope", None]].folder)
    results = collect(plan)
    pope = results.headlines[0]
    assert len(pope.scores) == 8
    assert pope.scores[gone].seeds == 2
    assert pope.scores["small", "clip", "yes"].seeds == 3
    assert len(pope.effects) == 7
    assert {effect.estimate.seeds for effect in pope.effects} == {2}
    assert any("effects use seed 0, 1 alone" in note for note in results.notes)
    assert any(note.startswith("POPE: the score of") and "without seed 2" in note for note in results.notes)


def test_two_seeds_get_a_sentence(tmp_path):
    _, plan = write_finished(tmp_path, seeds=(0, 1), images=6)
    page = write_report(collect(plan), tmp_path / "out").read_text()
    assert "Two seeds say little about training runs" in page


def test_averages_cover_the_benchmarks_and_say_how_many(finished, tmp_path):
    results = finished[2]
    columns = {column.label: column for column in average_columns(results)}
    outcomes = {outcome.benchmark: outcome for outcome in results.headlines}
    assert {label: column.benchmarks for label, column in columns.items()} == {
        "mean": 2,
        "mean percentage of the range": 3,
        "mean z-score": 3,
    }
    for configuration, average in columns["mean"].values.items():
        pair = [outcomes[name].scores[configuration].value for name in ("pope", "exact-match")]
        assert average.value == pytest.approx(sum(pair) / 2)
        assert average.interval.low < average.value < average.interval.high
    assert sum(average.value for average in columns["mean z-score"].values.values()) == pytest.approx(0, abs=1e-9)
    assert "Averages over benchmarks" in write_report(results, tmp_path).read_text()


def test_latex_tables_hold_the_reports_figures(finished, tmp_path):
    results = finished[2]
    write_report(results, tmp_path, latex=True)
    text = (tmp_path / "tables.tex").read_text()
    score = results.headlines[0].scores["small", "clip", "yes"]
    low, high = score.interval.low, score.interval.high
    assert f"${score.value:.1f}$" in text
    assert f"$[{low:.1f}, {high:.1f}]$" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    rows = [line for line in text.splitlines() if line.startswith("small & clip & yes &")]
    assert len(rows) == 1
    assert rows[0].count(" & ") == 2 + len(results.headlines) + 3


@pytest.mark.parametrize("text", ["a_b & 50 % #1 {x}", "\\input{secret}", "$x^2$ ~"])
def test_text_cannot_become_a_latex_command(text):
    shown = latex_escaped(text)
    for command in (r"\textbackslash{}", r"\textasciicircum{}", r"\textasciitilde{}"):
        shown = shown.replace(command, "")
    for mark in "&%$#_{}":
        shown = shown.replace("\\" + mark, "")
    assert not set(shown) & set("&%$#_{}\\^~")


def test_a_study_is_compared_with_the_paper(finished):
    _, _, results = finished
    rows = compare(results, table("paper"))
    # POPE accuracy and F1; the small MME lacks the paper's perception and cognition.
    assert len(rows) == 6
    by = {(row.ours, row.label): row for row in rows}
    row = by["align=no", "POPE accuracy"]
    assert row.theirs == "align=no"
    assert row.published == pytest.approx(-7.325)
    assert row.same_sign
    assert by["language=large", "POPE accuracy"].theirs == "language=gemma-7b-it"
    assert not by["vision=dinov2", "POPE accuracy"].same_sign
    context = report_context(results, table("paper"))
    assert context["compared"] == rows


CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)

#: A page that loads the report in a frame of a given width, and puts its real width and title into its own title.
PROBE = """<!doctype html><iframe id=f style="width:{width}px;height:3000px;border:0" src="report.html"></iframe>
<pre id=out></pre><script>
onload = () => setTimeout(() => {{
  const page = document.getElementById('f').contentDocument;
  const root = page.documentElement;
  const out = [...page.querySelectorAll('body *')].filter(e => !e.closest('.wide, pre, svg')
    && e.getBoundingClientRect().right > {width} + 1).map(e => e.className || e.tagName);
  document.getElementById('out').textContent = JSON.stringify(
    {{scroll: root.scrollWidth, out, title: page.title, scripts: page.scripts.length}});
}}, 300);
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_nothing_overflows_and_nothing_runs(finished, tmp_path, width):
    _, _, results = finished
    write_report(results, tmp_path)
    (tmp_path / "probe.html").write_text(PROBE.format(width=width))
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    flags += ["--enable-logging=stderr", "--virtual-time-budget=5000", f"--window-size={width + 100},3000"]
    command = [CHROMIUM, *flags, f"--user-data-dir={tmp_path / 'profile'}", f"file://{tmp_path / 'probe.html'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    seen = json.loads(re.search(r"<pre id=\"out\">(.*?)</pre>", done.stdout, re.S)[1].replace("&gt;", ">"))
    assert seen.pop("scroll") <= width
    assert seen == {"out": [], "title": "drawn – Olivine", "scripts": 0}


def test_axes_are_the_papers():
    assert set(AXES) == set(table("paper").axes)


def test_values_that_round_to_zero_have_no_minus_sign():
    assert (signed(-0.04), plain(-0.04)) == ("+0.0", "0.0")
    assert (signed(-0.06), plain(-0.06)) == ("−0.1", "−0.1")
