"""What users read about a benchmark, out of its declaration and its class docstring: a line, a help text, a page.

The declarations themselves are in the benchmarks' files.
"""

import inspect
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from olivine.evaluation.benchmarks.base import Benchmark
from olivine.evaluation.benchmarks.declaration import Metric
from olivine.evaluation.benchmarks.options import options_of

_LLAVA_LINES = "LLaVA's answer lines: `question_id`, `text`"
_COPY = "a folder of Hugging Face parquet shards"

_OPENING = """\
# Benchmarks

Written by `olivine benchmarks --page docs/benchmarks.md` from what each benchmark declares in its own file;
`olivine score NAME --help` prints the same of one. How to evaluate and score is in [evaluation.md](evaluation.md).

`olivine score NAME --annotations PATH --answers PATH [--variant V] [--json]` reads a benchmark's own files, and answers
in one of the formats below; the format is detected from the content. The first variant is the default.
"""


def one_line(benchmark: type[Benchmark]) -> str:
    """Return a benchmark on one line: name, title, answers, headline metrics, cluster, variants."""
    declared = benchmark.declares
    return (
        f"{benchmark.name}: {declared.title}; {declared.reply}; {_headline(benchmark)}; cluster: {declared.cluster}; "
        f"variants: {', '.join(benchmark.variants)}"
    )


def as_json(benchmark: type[Benchmark]) -> dict[str, Any]:
    """Return a benchmark's declaration as a JSON object."""
    declared = benchmark.declares
    return {
        "name": benchmark.name,
        "title": declared.title,
        "variants": benchmark.variants,
        "prompts": benchmark.prompts,
        "options": list(options_of(benchmark)),
        "metrics": [
            {name: getattr(metric, name) for name in Metric.__dataclass_fields__} for metric in declared.metrics
        ],
        "cluster": declared.cluster,
        "reply": declared.reply,
        "kind": declared.kind,
        "files": _files(benchmark),
        "answers": _answers(benchmark),
    }


def describe(benchmark: type[Benchmark]) -> list[str]:
    """Return the lines of a benchmark's help: its docstring, metrics, variants, prompts, options and formats."""
    declared = benchmark.declares
    width = max(len(metric.name) for metric in declared.metrics)
    return [
        f"{benchmark.name}: {_docstring(benchmark)[0]}",
        "",
        *_docstring(benchmark)[1].splitlines(),
        "",
        "metrics (in --json: the official figure, before its factor):",
        *(f"  {metric.name:<{width}}  {_metric(metric)}" for metric in declared.metrics),
        f"answer: {declared.reply}",
        f"cluster: {declared.cluster}",
        f"kinds of question: {_kinds(benchmark)}",
        f"variants (the first is the default): {', '.join(benchmark.variants)}",
        f"prompts: {', '.join(benchmark.prompts)}",
        "options (--set KEY=VALUE):" + ("" if options_of(benchmark) else " none"),
        *(f"  {line}" for line in _options(benchmark)),
        "question files:",
        *(f"  {text}" for text in _files(benchmark)),
        "answer files:",
        *(f"  {text}" for text in _answers(benchmark)),
    ]


def page(benchmarks: Sequence[type[Benchmark]]) -> str:
    """Return the Markdown page of all benchmarks: a table, then a section each."""
    rows = [
        f"| [`{b.name}`](#{b.name}) | {b.declares.title} | {_headline(b)} | {b.declares.reply} | {b.declares.cluster} "
        f"| {', '.join(b.variants)} |"
        for b in benchmarks
    ]
    head = ["| name | benchmark | headline | answer | cluster | variants |", "|---|---|---|---|---|---|"]
    return "\n".join([_OPENING, *head, *rows, "", *("\n".join(_section(b)) for b in benchmarks)])


def _section(benchmark: type[Benchmark]) -> list[str]:
    declared = benchmark.declares
    first, rest = _docstring(benchmark)
    options = _options(benchmark)
    return [
        f"## {benchmark.name}",
        "",
        first,
        "",
        *([rest, ""] if rest else []),
        "| metric | what it is | official figure times | range | better | in studies | variants |",
        "|---|---|---|---|---|---|---|",
        *(_row(metric) for metric in declared.metrics),
        "",
        f"- Answer: {declared.reply}. Cluster: {declared.cluster}. Kinds of question: {_kinds(benchmark)}.",
        f"- Prompts: {', '.join(f'`{name}`' for name in benchmark.prompts)}.",
        f"- Question files: {'; '.join(_files(benchmark))}.",
        f"- Answer files: {'; '.join(_answers(benchmark))}.",
        *([f"- Options (`--set KEY=VALUE`): {'; '.join(options)}."] if options else []),
        "",
    ]


def _row(metric: Metric) -> str:
    cells = [
        f"`{metric.name}`",
        f"{metric.label}, {metric.unit}",
        f"{metric.scale:g}",
        _range(metric),
        "lower" if metric.lower_is_better else "higher",
        "yes" if metric.reported else "",
        ", ".join(metric.variants or ("all",)),
    ]
    return f"| {' | '.join(cells)} |"


def _metric(metric: Metric) -> str:
    notes = [f"{metric.label}, {metric.unit} ({_range(metric)})"]
    notes += [f"official figure times {metric.scale:g}"] if metric.scale != 1 else []
    notes += ["lower is better"] if metric.lower_is_better else []
    notes += [f"variants: {', '.join(metric.variants)}"] if metric.variants else []
    return "; ".join(notes)


def _range(metric: Metric) -> str:
    low, high = metric.range
    return f"{low:g} or more" if high is None else f"{low:g} to {high:g}"


def _headline(benchmark: type[Benchmark]) -> str:
    default = benchmark.variants[0]
    reported = [m for m in benchmark.declares.metrics if m.reported and m.covers(m.name, default)]
    return ", ".join(f"{metric.label} ({metric.unit})" for metric in reported)


def _kinds(benchmark: type[Benchmark]) -> str:
    kind = benchmark.declares.kind
    return "one" if kind is None else f"by `{kind}`"


def _files(benchmark: type[Benchmark]) -> list[str]:
    return [*benchmark.declares.files, *([_COPY] if benchmark.parquet is not None else [])]


def _answers(benchmark: type[Benchmark]) -> list[str]:
    return [_LLAVA_LINES, *benchmark.declares.answers]


def _docstring(benchmark: type[Benchmark]) -> tuple[str, str]:
    """Return a benchmark's docstring as its first paragraph, on one line, and the rest without its arguments."""
    text = (inspect.getdoc(benchmark) or "").partition("\n\nArgs:")[0]
    first, _, rest = text.partition("\n\n")
    return " ".join(first.split()), rest.strip()


def _options(benchmark: type[Benchmark]) -> list[str]:
    """Return each option with its type and what the class docstring says of it."""
    _, _, listed = (inspect.getdoc(benchmark) or "").partition("\n\nArgs:\n")
    about = dict(re.findall(r"^(\w+): (.*(?:\n +.*)*)", textwrap.dedent(listed), re.MULTILINE))
    return [
        f"{option.describe()}: {' '.join(about.get(name, '').split()).rstrip('.')}"
        for name, option in options_of(benchmark).items()
    ]
