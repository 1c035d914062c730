"""Judges as their endpoints differ: thinking, refusing, filtering, other names of settings and of the key's header."""

import json
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from scripted_endpoint import Endpoint, refuse, reply, send

from olivine.errors import RunError
from olivine.evaluation.chat_completion import Usage
from olivine.evaluation.judge import KEY_VARIABLE, Judge, JudgeRequest

KEY = "sk-not-a-real-key"


def judge(endpoint: Endpoint, cache: Path, **more: Any) -> Judge:
    return Judge(endpoint.url, "m", cache, **{"timeout": 10, "back_off": 0.001, "retries": 0} | more)


def choice(text: str | None, finish: str = "stop", usage: Any = None, **message: Any) -> Callable[..., None]:
    body = {"model": "m-1", "choices": [{"finish_reason": finish, "message": {"content": text, **message}}]}
    return lambda handler: send(handler, 200, json.dumps(body | ({"usage": usage} if usage else {})).encode())


def unsupported(setting: str, **error: Any) -> Callable[..., None]:
    said = {"message": f"Unsupported value: '{setting}' is not supported with this model.", **error}
    return refuse(400, json.dumps({"error": said}))


@pytest.mark.parametrize("named", [{"param": "max_tokens"}, {}])
def test_an_endpoint_that_knows_another_name_of_the_budget_is_sent_that(
    endpoint: Endpoint, tmp_path: Path, named: dict[str, str]
) -> None:
    endpoint.script = [unsupported("max_tokens", **named)]
    asked = judge(endpoint, tmp_path)
    for question in "xy":
        assert asked.ask(JudgeRequest(question, max_tokens=3)).text == "1.0"
    sent = [(body.get("max_tokens"), body.get("max_completion_tokens")) for body in endpoint.bodies]
    assert sent == [(3, None), (None, 3), (None, 3)]


def test_an_endpoint_without_temperature_is_sent_none_and_scores_say_so(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.script = [unsupported("temperature", param="temperature")]
    asked = judge(endpoint, tmp_path)
    assert "judge_temperature" not in asked.about("p")
    asked.ask(JudgeRequest("x"))
    assert "temperature" not in endpoint.bodies[1]
    assert asked.about("p")["judge_temperature"] == "the endpoint's own, since it accepts no other"


@pytest.mark.parametrize(
    "first", [choice(None, "length"), choice("<think>\nThe answer", "length"), choice("", "length")]
)
def test_a_judge_that_thinks_is_given_a_longer_budget(
    endpoint: Endpoint, tmp_path: Path, first: Callable[..., None]
) -> None:
    endpoint.script = [first, choice("<think>\nThe answer matches.\n</think>\n\n1.0")]
    assert judge(endpoint, tmp_path).ask(JudgeRequest("x", max_tokens=3)).text == "1.0"
    assert [body["max_tokens"] for body in endpoint.bodies] == [3, 4096]


@pytest.mark.parametrize(
    "refusal",
    [
        refuse(400, json.dumps({"error": {"message": "policy", "code": "content_filter", "status": 400}})),
        choice(None, refusal="I cannot help with that."),
        choice(None, "content_filter"),
    ],
    ids=["filter", "refusal", "finish"],
)
def test_a_refused_item_is_ungraded_and_others_are_graded(
    endpoint: Endpoint, tmp_path: Path, refusal: Callable[..., None]
) -> None:
    endpoint.script = [refusal]
    asked = judge(endpoint, tmp_path, concurrency=1)
    verdicts = asked.each(lambda text: asked.verdict([JudgeRequest(text), JudgeRequest(text, attempt=1)], float), "ab")
    assert [verdict.value for verdict in verdicts] == [None, 1.0]
    assert verdicts[0].reason
    assert len(endpoint.bodies) == 2, "a refusal is not asked for again"


def number(text: str) -> float | None:
    return float(text) if text.replace(".", "").isdecimal() else None


def test_an_unreadable_reply_is_asked_again_and_never_kept(endpoint: Endpoint, tmp_path: Path) -> None:
    requests = [JudgeRequest("x", attempt=attempt) for attempt in range(3)]
    endpoint.script = [reply("hm"), reply("well"), reply("no idea")]
    asked = judge(endpoint, tmp_path)
    verdict = asked.verdict(requests, number)
    assert verdict.value is None
    assert verdict.reason == "the judge's replies could not be read (last: 'no idea')"
    assert not list(tmp_path.rglob("*.json"))
    endpoint.script = [reply("hm"), reply("0.5")]
    assert asked.verdict(requests, number).value == 0.5
    assert len(list(tmp_path.rglob("*.json"))) == 1
    endpoint.script = [reply("hm")]
    assert asked.verdict(requests, number).value == 0.5, "the kept reply answers the second request"


def test_usage_and_cost_are_summed_and_replays_cost_nothing(endpoint: Endpoint, tmp_path: Path) -> None:
    usage = {"prompt_tokens": 700, "completion_tokens": 3, "cost": 0.25}
    endpoint.script = [choice("1.0", usage=usage), choice("1.0", usage=usage), choice("1.0")]
    asked = judge(endpoint, tmp_path)
    for text in ("x", "y", "x", "z"):
        asked.ask(JudgeRequest(text))
    assert asked.usage == Usage(3, 1400, 6, 0.5)
    assert str(asked.usage) == "3 requests, 1,400 tokens in, 6 out, cost 0.5000"


def test_the_key_is_sent_as_azure_expects_it_too_and_an_echo_of_it_is_not_kept(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    endpoint.script = [reply(f"1.0 and your key is {KEY}")]
    said = judge(endpoint, tmp_path).ask(JudgeRequest("x"))
    assert endpoint.headers[0]["api-key"] == KEY
    assert said.text == "1.0 and your key is ***"
    assert KEY not in "".join(file.read_text() for file in tmp_path.rglob("*.json"))


def drip_headers(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
    for number in range(12):
        handler.wfile.write(f"X-{number}: 1\r\n".encode())
        time.sleep(0.1)


def test_a_reply_whose_headers_trickle_in_is_given_up(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.script = [drip_headers]
    began = time.monotonic()
    with pytest.raises(RunError, match=r"incomplete after 0\.3 seconds"):
        judge(endpoint, tmp_path, timeout=0.3).ask(JudgeRequest("x"))
    assert time.monotonic() - began < 1.1


def test_a_check_finds_a_wrong_key_before_anything_is_asked(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.script = [reply("ready"), refuse(401, "wrong key")]
    asked = judge(endpoint, tmp_path)
    asked.check()
    with pytest.raises(RunError, match="wrong key"):
        asked.check()
    assert not list(tmp_path.rglob("*.json"))
