"""The judge's client against a local server that answers, hangs, refuses and sends invalid replies."""

import hashlib
import json
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from scripted_endpoint import Endpoint, completion, cut, drop, hang, raw, refuse, reply, send

from olivine import cli
from olivine.errors import RequestError, RunError
from olivine.evaluation.benchmarks.hallusionbench import HallusionBench
from olivine.evaluation.benchmarks.mmvet import MMVet
from olivine.evaluation.benchmarks.mmvp import MMVP
from olivine.evaluation.judge import KEY_VARIABLE, Judge, JudgeReply, JudgeRequest
from olivine.files import write_json
from olivine.records import Answer

KEY = "sk-not-a-real-key"


def judge(endpoint: Endpoint, cache: Path, **more: Any) -> Judge:
    return Judge(endpoint.url, "gpt-4-0613", cache, **{"timeout": 10, "back_off": 0.001, "retries": 3} | more)


def test_request_and_reply(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.script = [reply("0.5")]
    request = JudgeRequest("grade this", system="be fair", temperature=0.5, max_tokens=3)
    assert judge(endpoint, tmp_path).ask(request) == JudgeReply("0.5", "judge-0613")
    assert endpoint.paths == ["/v1/chat/completions"]
    assert endpoint.bodies == [
        {
            "model": "gpt-4-0613",
            "messages": [{"role": "system", "content": "be fair"}, {"role": "user", "content": "grade this"}],
            "temperature": 0.5,
            "max_tokens": 3,
        }
    ]
    assert "Authorization" not in endpoint.headers[0]


@pytest.mark.parametrize("suffix", ["", "/", "/chat/completions", "/chat/completions/"])
def test_the_path_is_completed(endpoint: Endpoint, tmp_path: Path, suffix: str) -> None:
    Judge(endpoint.url + suffix, "m", tmp_path).ask(JudgeRequest("x"))
    assert endpoint.paths == ["/v1/chat/completions"]


@pytest.mark.parametrize(
    "trouble",
    [
        hang,
        drop,
        cut,
        refuse(429),
        refuse(500),
        refuse(503),
        raw(b"<html>busy</html>"),
        raw(b""),
        raw(b"[1, 2]"),
        raw(b'{"error": {"message": "overloaded"}}'),
        raw(b'{"choices": []}'),
        reply(None),
        reply(["not", "text"]),
    ],
    ids=["hang", "drop", "cut", "429", "500", "503", "html", "nothing", "list", "error", "no-choices", "null", "parts"],
)
def test_transient_failures_are_retried(
    endpoint: Endpoint, tmp_path: Path, trouble: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    endpoint.script = [trouble, trouble, reply("0.7")]
    assert judge(endpoint, tmp_path, timeout=0.3 if trouble is hang else 10).ask(JudgeRequest("x")).text == "0.7"
    assert len(endpoint.bodies) == 3


def test_after_all_retries_the_last_failure_is_reported(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.script = [refuse(500)] * 3 + [refuse(503, "down for maintenance")]
    with pytest.raises(RunError, match=r"in 4 tries \(last: HTTP 503: down for maintenance\)"):
        judge(endpoint, tmp_path).ask(JudgeRequest("x"))
    assert len(endpoint.bodies) == 4
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404])
def test_permanent_failures_are_not_retried(endpoint: Endpoint, tmp_path: Path, status: int) -> None:
    endpoint.script = [refuse(status, "nope", Location=endpoint.url + "/elsewhere")]
    with pytest.raises(RunError, match=f"refused: HTTP {status}: nope.*{KEY_VARIABLE}"):
        judge(endpoint, tmp_path).ask(JudgeRequest("x"))
    assert len(endpoint.bodies) == 1


def test_pauses_double_and_heed_retry_after(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    asked = judge(endpoint, tmp_path, back_off=0.5)
    monkeypatch.setattr(asked._endpoint._stopping, "wait", pauses.append)
    endpoint.script = [refuse(500), refuse(500), refuse(429, Retry_After="9"), reply("1.0")]
    asked.ask(JudgeRequest("x"))
    first, second, third = pauses
    assert 0.5 <= first < 1.0
    assert second == pytest.approx(2 * first)
    assert third == 9.0


def test_a_rerun_costs_nothing(endpoint: Endpoint, tmp_path: Path) -> None:
    first = judge(endpoint, tmp_path).ask(JudgeRequest("x"))
    assert judge(endpoint, tmp_path).ask(JudgeRequest("x")) == first
    assert len(endpoint.bodies) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "y"},
        {"system": "s"},
        {"temperature": 0.5},
        {"max_tokens": 4},
        {"run": 1},
        {"attempt": 1},
    ],
)
def test_a_different_request_is_sent_again(endpoint: Endpoint, tmp_path: Path, other: dict[str, Any]) -> None:
    asked = judge(endpoint, tmp_path)
    asked.ask(JudgeRequest("x"))
    asked.ask(JudgeRequest(**{"prompt": "x"} | other))
    assert len(endpoint.bodies) == 2


def test_another_model_has_another_cache(endpoint: Endpoint, tmp_path: Path) -> None:
    for model in ("one", "two"):
        Judge(endpoint.url, model, tmp_path).ask(JudgeRequest("x"))
    assert len(endpoint.bodies) == 2


@pytest.mark.parametrize("broken", ["{", "[]", '{"reply": {"text": 5}}'])
def test_a_broken_cache_file_is_rewritten(endpoint: Endpoint, tmp_path: Path, broken: str) -> None:
    asked = judge(endpoint, tmp_path)
    asked.ask(JudgeRequest("x"))
    (file,) = tmp_path.rglob("*.json")
    file.write_text(broken)
    for _ in range(2):
        assert asked.ask(JudgeRequest("x")).text == "1.0"
    assert len(endpoint.bodies) == 2


def test_each_keeps_the_order_and_the_concurrency_limit(endpoint: Endpoint, tmp_path: Path) -> None:
    def echo(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.02)
        send(handler, 200, completion("1.0"))

    endpoint.script = [echo] * 12
    asked = judge(endpoint, tmp_path, concurrency=3)
    replies = asked.each(lambda n: (n, asked.ask(JudgeRequest(f"question {n}")).text), range(12))
    assert replies == [(n, "1.0") for n in range(12)]
    assert 1 < endpoint.most_together <= 3


def test_each_stops_at_the_first_failure_and_can_be_used_again(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.script = [refuse(401), *[refuse(500, Retry_After="50")] * 3]
    asked = judge(endpoint, tmp_path, concurrency=2)
    start = time.monotonic()
    with pytest.raises(RunError, match="401"):
        asked.each(lambda n: asked.ask(JudgeRequest(f"question {n}")), range(50))
    assert time.monotonic() - start < 10  # nothing waits the fifty seconds
    assert len(endpoint.bodies) < 10
    endpoint.script = [refuse(500)]
    assert asked.each(lambda n: asked.ask(JudgeRequest(f"again {n}")).text, [1]) == ["1.0"]


def test_the_key_is_sent_and_printed_nowhere(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, f" {KEY}\n")
    asked = judge(endpoint, tmp_path)
    asked.ask(JudgeRequest("x"))
    assert endpoint.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in "".join(file.read_text() for file in tmp_path.rglob("*.json"))
    assert KEY not in json.dumps(asked.about("x"))
    endpoint.script = [refuse(401, f"bad key {KEY}")]
    with pytest.raises(RunError) as caught:
        asked.ask(JudgeRequest("y"))
    assert KEY not in str(caught.value)
    assert "bad key ***" in str(caught.value)


def test_an_invalid_key_is_not_printed_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, f"{KEY}\nX-Other: 1")
    with pytest.raises(RequestError, match="printable ASCII") as caught:
        Judge("http://127.0.0.1", "m", tmp_path)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://host/v1", "host/v1", "", "http://", "http://[::1", "http://host:port/", "data:,x"],
)
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(RequestError, match="judge url"):
        Judge(url, "m", tmp_path)


@pytest.mark.parametrize("proxy", ["ftp://me:secret@proxy:1", "http://me:secret@proxy:port"])
def test_an_unusable_proxy_is_refused_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(RequestError, match="HTTP_PROXY") as caught:
        Judge("http://host/v1", "m", tmp_path)
    assert "secret" not in str(caught.value)


def test_a_proxy_of_the_environment_is_used(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", endpoint.url.removesuffix("/v1"))
    assert Judge("http://judge.invalid/v1", "m", tmp_path, retries=0).ask(JudgeRequest("x")).text == "1.0"
    assert endpoint.paths == ["http://judge.invalid/v1/chat/completions"]


def drip(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    for _ in range(12):
        handler.wfile.write(b" ")
        time.sleep(0.1)


def test_a_reply_that_trickles_in_is_given_up(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.script = [drip]
    with pytest.raises(RunError, match=r"incomplete after 0\.3 seconds"):
        judge(endpoint, tmp_path, timeout=0.3, retries=0).ask(JudgeRequest("x"))


def test_a_password_in_the_address_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="does not belong there") as caught:
        Judge("https://user:secret@host/v1", "m", tmp_path)
    assert "secret" not in str(caught.value)


def test_about_names_the_judge_and_the_prompts_hash(tmp_path: Path) -> None:
    about = Judge("http://host/v1", "gpt-4-0613", tmp_path).about("abc")
    assert about == {
        "judge": "gpt-4-0613",
        "judge_prompt_sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }


def test_mmvet_over_the_wire(endpoint: Endpoint, tmp_path: Path) -> None:
    rows = {
        f"v1_{n}": {"imagename": f"{n}.png", "question": f"What {n}?", "answer": "a<AND>b", "capability": ["rec"]}
        for n in range(3)
    }
    write_json(tmp_path / "mm-vet.json", rows)
    endpoint.script = [refuse(429), hang, reply("0.5"), raw(b"nonsense"), reply("0.5 of it"), reply("0.5")]
    benchmark = MMVet(judge=judge(endpoint, tmp_path / "cache", concurrency=1, timeout=0.3))
    questions = benchmark.read(tmp_path)
    answers = [Answer(question.id, "a") for question in questions]
    first = benchmark.score(questions, answers)
    assert first.metrics["total"] == 50.0
    asked = len(endpoint.bodies)
    assert asked == 6
    assert benchmark.score(questions, answers) == first
    assert len(endpoint.bodies) == asked


def mmvp_file(folder: Path) -> Path:
    rows = [f"{n},Left or right?,(a) Left (b) Right,({'ab'[n % 2]})" for n in range(1, 5)]
    (folder / "Questions.csv").write_text("Index,Question,Options,Correct Answer\n" + "\n".join(rows) + "\n")
    return folder / "Questions.csv"


def test_mmvp_over_the_wire(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.script = [
        refuse(500),
        hang,
        reply("Yes"),
        reply("yes"),
        raw(b"nonsense"),
        reply("Yes, it is."),
        reply("no"),
    ]
    benchmark = MMVP(judge=judge(endpoint, tmp_path / "cache", concurrency=1, timeout=0.3))
    questions = benchmark.read(mmvp_file(tmp_path))
    answers = [Answer(question.id, f"It points that way. {question.id}") for question in questions]
    first = benchmark.score(questions, answers)
    assert first.variant == "judge"
    assert [item.correct for item in first.items] == [1, 1, 0, 0]  # only the bare word counts as yes
    assert first.metrics == {"pair": 0.5, "single": 0.5}
    assert len(endpoint.bodies) == 7
    asked = endpoint.bodies[-1]
    assert asked["temperature"] == 0.2
    assert [message["role"] for message in asked["messages"]] == ["system", "user"]
    for piece in ("Left or right? (a) Left (b) Right", "Correct option: (a)", "It points that way. 4"):
        assert piece in asked["messages"][1]["content"]
    assert benchmark.score(questions, answers) == first
    assert len(endpoint.bodies) == 7
    assert benchmark.score(questions, answers, "letter").variant == "letter"
    assert benchmark.judged_by("letter") == {}
    assert len(endpoint.bodies) == 7, "a variant that needs no judge asks none"


def test_an_unanswered_question_is_wrong_and_the_judge_is_not_asked(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.script = [reply("yes")] * 3
    benchmark = MMVP(judge=judge(endpoint, tmp_path / "cache"))
    questions = benchmark.read(mmvp_file(tmp_path))
    score = benchmark.score(questions, [Answer(question.id, "x") for question in questions[1:]])
    assert [item.correct for item in score.items] == [0, 1, 1, 1]
    assert score.missing == ("1",)
    assert len(endpoint.bodies) == 3


def test_hallusionbench_over_the_wire(endpoint: Endpoint, tmp_path: Path) -> None:
    row = {"category": "VD", "subcategory": "map", "set_id": "0", "figure_id": "1", "visual_input": "1"}
    row |= {
        "question": "Is it red?",
        "gt_answer": "1",
        "gt_answer_details": "It is red.",
        "filename": "./VD/map/0_1.png",
    }
    write_json(tmp_path / "HallusionBench.json", [row | {"question_id": str(n)} for n in range(3)])
    endpoint.script = [refuse(429), reply("Correct."), drop, reply("incorrect"), reply(None), reply("unclear")]
    wording = tmp_path / "wording.txt"
    wording.write_text("Say correct, incorrect or unclear.")
    benchmark = HallusionBench(judge=judge(endpoint, tmp_path / "cache", concurrency=1), judge_prompt=wording)
    questions = benchmark.read(tmp_path)
    answers = [Answer(question.id, f"Red. {question.id}") for question in questions]
    first = benchmark.score(questions, answers)
    assert first.variant == "judge"
    assert [item.correct for item in first.items] == [1, 0, 0]
    system, user = endpoint.bodies[-1]["messages"]
    assert system == {"role": "system", "content": "Say correct, incorrect or unclear."}
    assert "Is it red?" in user["content"]
    assert "Reference answer: It is red." in user["content"]
    assert benchmark.score(questions, answers) == first
    assert len(endpoint.bodies) == 6
    assert benchmark.judged_by("judge") == {
        "judge": "gpt-4-0613",
        "judge_prompt_sha256": hashlib.sha256(wording.read_bytes()).hexdigest(),
    }


def test_a_judge_that_refuses_ends_the_scoring_with_the_question_named(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.script = [refuse(401, "bad key")]
    benchmark = MMVP(judge=judge(endpoint, tmp_path / "cache", concurrency=1))
    questions = benchmark.read(mmvp_file(tmp_path))
    with pytest.raises(RunError, match=r"mmvp: the answer to '1' could not be judged.*bad key"):
        benchmark.score(questions, [Answer(question.id, "x") for question in questions])


def test_judged_on_the_command_line_and_replayed_without_the_judge(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.script = [reply("yes")] * 4
    lines = tmp_path / "answers.jsonl"
    lines.write_text("".join(json.dumps({"question_id": n, "text": f"x{n}"}) + "\n" for n in range(1, 5)))
    command = ["score", "mmvp", "--annotations", str(mmvp_file(tmp_path)), "--answers", str(lines), "--json"]
    monkeypatch.setattr(sys, "argv", ["olivine", *command, "--judge-url", endpoint.url, "--judge-model", "gpt-4-0314"])
    said = []
    for _ in range(2):
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert not stopped.value.code
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1]
    assert said[0]["variant"] == "judge"
    assert said[0]["metrics"] == {"pair": 1.0, "single": 1.0}
    assert said[0]["judge"] == "gpt-4-0314"
    assert len(said[0]["judge_prompt_sha256"]) == 64
    assert len(endpoint.bodies) == 4, "the second scoring is a replay"
