"""`olivine chat`, `olivine ask` and `olivine serve` as they are typed."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading

import httpx2
import pytest
from rich.console import Console

from olivine.console import PlainConsole
from olivine.errors import RequestError
from olivine.model.checkpoint import save
from olivine.model.generate import answer_one
from olivine.serving.limits import Limits
from olivine.serving.local import LocalModel
from olivine.serving.served_model import ServedModel
from olivine.serving.server import access_for, listen
from olivine.serving.terminal_chat import TerminalChat
from olivine.testing import write_images


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """A saved model and an image."""
    folder = tmp_path_factory.mktemp("model")
    save(tiny, folder / "tiny")
    write_images(folder, 2)
    return folder


@pytest.fixture
def talk(tiny):
    """Talk in a pipe: the lines, what was answered, what was said besides."""
    with LocalModel(ServedModel("tiny", tiny, Limits()), 6) as local:

        def talk(lines, console=None):
            out, log = io.StringIO(), io.StringIO()
            TerminalChat(local, io.StringIO(lines), out, console or PlainConsole(file=log, width=30)).run()
            return out.getvalue(), log.getvalue()

        yield talk


def test_a_pipe_gets_an_answer_a_line_and_nothing_else(tiny, talk):
    out, log = talk("is it red?\n\n/reset\nwhat color\n")
    from olivine.printable import printable

    expected = [answer_one(tiny, text, None, max_new_tokens=6) for text in ("is it red?", "what color")]
    assert out == "".join(printable(text) + "\n" for text in expected)
    assert "starts again" in log


def test_images_blind_and_history(tiny, talk, folder):
    path = folder / "0.png"
    seen, blind = (answer_one(tiny, "what is it?", shown, max_new_tokens=6) for shown in (path, None))
    out, log = talk(f"/image {path}\nwhat is it?\n/blind\nwhat is it?\n/blind\nwhat is it?\nwhat is it?\n")
    lines = out.split("\n")
    assert lines[:3] == [seen, blind, seen]
    assert "without the image" in log
    assert "unknown command /nothing" in talk("/nothing\n")[1]
    assert "/image FILE" in talk("/help\n")[1]
    assert talk("/quit\nis it red?\n")[0] == ""


def test_a_missing_image_ends_a_pipe(talk):
    with pytest.raises(RequestError, match="file not found"):
        talk("/image nowhere.png\nis it red?\n")


def test_what_a_model_writes_cannot_move_the_cursor(tiny, talk, monkeypatch):
    from olivine.model.vlm import VisionLanguageModel

    monkeypatch.setattr(VisionLanguageModel, "decode", lambda self, ids: "\x1b[2J<b>" * len(ids))
    out, _ = talk("is it red?\n")
    assert "\x1b" not in out
    assert "\\x1b[2J<b>" in out


def test_a_narrow_terminal_is_enough(talk):
    log = io.StringIO()
    talk("/help\n", Console(file=log, width=20))
    assert max(map(len, log.getvalue().splitlines())) <= 20


def test_ask_prints_the_answer_and_its_probability(run, tiny, folder):
    answer = answer_one(tiny, "is it red?", folder / "0.png", max_new_tokens=6)
    code, out, _ = run("ask", folder / "tiny", folder / "0.png", "is it red?", "--max-tokens", 6, "--json")
    found = json.loads(out)
    assert (code, found["answer"]) == (0, answer)
    assert 0 < found["probability"] <= 1
    code, out, _ = run("ask", folder / "tiny", "-", "is it red?", "--max-tokens", 6)
    assert code == 0
    assert re.search(r"^probability 0\.\d{3}", out, re.MULTILINE)
    code, _, err = run("ask", folder / "tiny", folder / "none.png", "is it red?")
    assert code == 2
    assert "not found" in err


def test_only_loopback_is_open_to_all(run, folder, monkeypatch):
    monkeypatch.delenv("OLIVINE_API_KEY", raising=False)
    code, _, err = run("serve", folder / "tiny", "--host", "0.0.0.0", "--port", 0)
    assert code == 2
    assert "OLIVINE_API_KEY" in err
    monkeypatch.setenv("OLIVINE_API_KEY", "secret")
    assert access_for("0.0.0.0").token == "secret"
    with listen("127.0.0.1", 0) as taken:
        code, _, err = run("serve", folder / "tiny", "--port", taken.getsockname()[1])
    assert code == 2
    assert "cannot listen" in err


def test_models_of_one_name_must_be_named(run, folder):
    code, _, err = run("serve", folder / "tiny", folder / "tiny", "--port", 0)
    assert code == 2
    assert "first=PATH" in err


@pytest.mark.skipif(os.name != "posix", reason="signals are sent")
def test_sigterm_finishes_what_runs_and_exits_with_0(folder):
    command = [sys.executable, "-m", "olivine", "serve", f"a={folder / 'tiny'}", "--port", "0", "--max-tokens", "1500"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        lines = iter(server.stderr)
        url = next(found[1] for line in lines if (found := re.search(r"API: +(\S+)", line)))
        statuses = []

        def ask(**body):
            body = {"model": "a", "messages": [{"role": "user", "content": "is it red?"}], **body}
            with httpx2.Client(timeout=60, trust_env=False) as client:
                return client.post(f"{url}/chat/completions", json=body)

        assert ask(max_tokens=1).status_code == 200
        long = {"max_tokens": 1500, "temperature": 2, "seed": 1, "n": 8}
        running = threading.Thread(target=lambda: statuses.append(ask(**long)))
        running.start()
        until_running(url)
        server.send_signal(signal.SIGTERM)
        running.join(60)
        assert server.wait(60) == 0
        rest = "".join(lines)
    assert statuses[0].status_code == 200
    assert len(statuses[0].json()["choices"]) == 8
    assert rest.strip().endswith("stopped")
    assert "Traceback" not in rest


def until_running(url):
    metrics = url.removesuffix("/v1") + "/metrics"
    for _ in range(2000):
        if re.search(r"^olivine_running_answers [1-9]", httpx2.get(metrics).text, re.MULTILINE):
            return
    pytest.fail("nothing runs")
