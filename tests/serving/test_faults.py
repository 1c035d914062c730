"""Clients that behave badly: each is got rid of, and the others are answered."""

import json
import random
import socket
import threading
import time

import pytest
from serving_model import serving, user

from olivine.serving.limits import Limits


def body(**changes):
    return {"model": "tiny", "messages": [user("what?")], "max_tokens": 3, **changes}


def raw(served, content, *, length=None, wait=False):
    """Send a request, the body perhaps cut; return the open socket."""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content) if length is None else length}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=20)
    connection.sendall(head.encode() + content)
    return connection


def is_closed(connection):
    """Send one more byte and say whether the peer has closed the connection."""
    time.sleep(0.05)
    try:
        connection.sendall(b"a")
    except OSError:
        return True
    return False


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@pytest.fixture
def slowly(monkeypatch):
    """Answers that take long: as many tokens as are asked for, some milliseconds each."""
    from olivine.serving.batch import RunningBatch
    from olivine.serving.served_model import ServedModel

    step = RunningBatch.step

    def slow(self):
        time.sleep(0.005)
        return step(self)

    monkeypatch.setattr(RunningBatch, "step", slow)
    made = ServedModel.__post_init__

    def never_ending(self):
        made(self)
        self.stop_ids = frozenset()

    monkeypatch.setattr(ServedModel, "__post_init__", never_ending)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_place(tiny, slowly, stream):
    with serving({"tiny": tiny}, Limits(new_tokens=400)) as served:
        worker = served.service.worker
        connection = raw(served, json.dumps(body(max_tokens=400, stream=stream)).encode())
        until(lambda: worker.running == 1)
        connection.close()
        until(lambda: worker.running == 0, seconds=1.5)  # the answer would take two seconds
        assert served.post(body()).status_code == 200


def test_a_full_queue_says_so(tiny, slowly, monkeypatch):
    monkeypatch.setattr("olivine.serving.served_model.budgets", lambda _vlm: (1, 1))  # one at a time
    with serving({"tiny": tiny}, Limits(queue=2, new_tokens=400)) as served:
        worker = served.service.worker
        first = raw(served, json.dumps(body(max_tokens=400)).encode())
        until(lambda: worker.running == 1)
        others = [raw(served, json.dumps(body(max_tokens=400)).encode()) for _ in range(2)]
        until(lambda: worker.waiting == 2)
        response = served.post(body())
        assert (response.status_code, response.json()["error"]["code"]) == (429, "queue_full")
        assert response.headers["Retry-After"] == "1"
        for connection in (first, *others):
            connection.close()
        until(lambda: worker.running == 0 and worker.waiting == 0)
        assert served.post(body()).status_code == 200


def test_what_takes_too_long_is_ended(tiny, slowly):
    with serving({"tiny": tiny}, Limits(seconds=0.4, new_tokens=400)) as served:
        response = served.post(body(max_tokens=400))
        assert (response.status_code, response.json()["error"]["code"]) == (504, "time_limit")
        events = served.post(body(max_tokens=400, stream=True)).text.strip().split("\n\n")
        assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "time_limit"
        until(lambda: served.service.worker.running == 0)
        assert served.post(body()).status_code == 200


def test_cut_slow_and_silent_requests_are_closed(tiny):
    with serving({"tiny": tiny}, Limits(body_seconds=0.4)) as served:
        content = json.dumps(body()).encode()
        cut = raw(served, content[:20], length=len(content))
        cut.close()
        slow = raw(served, content[:20], length=len(content))
        assert b" 408 " in slow.recv(1000)
        silent = socket.create_connection(("127.0.0.1", served.port), timeout=20)
        assert silent.recv(1) == b""
        head = socket.create_connection(("127.0.0.1", served.port), timeout=20)
        head.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nX-Slow: ")
        until(lambda: is_closed(head), seconds=3)
        for connection in (slow, silent, head):
            connection.close()
        assert served.post(body()).status_code == 200


def test_a_client_that_reads_nothing_is_disconnected(tiny, slowly, monkeypatch):
    from olivine.serving import responses

    event = responses.event
    monkeypatch.setattr(responses, "event", lambda value: event({**value, "padding": "x" * 200_000}))
    with serving({"tiny": tiny}, Limits(stalled_seconds=0.3, new_tokens=400)) as served:
        connection = raw(served, json.dumps(body(max_tokens=400, stream=True)).encode())
        until(lambda: served.service.worker.running == 1)
        until(lambda: served.service.worker.running == 0, seconds=1.5)
        connection.close()
        assert served.post(body()).status_code == 200


def test_what_breaks_in_the_model_fails_its_requests_alone(tiny, monkeypatch):
    with serving({"tiny": tiny}) as served:
        prefiller = served.models["tiny"].prefiller
        run = prefiller.run

        def breaking(prompts):
            if any(len(prompt.ids) > 60 for prompt in prompts):
                raise RuntimeError("CUDA error: an illegal memory access\nwith more lines")
            return run(prompts)

        monkeypatch.setattr(prefiller, "run", breaking)
        statuses = {}

        def post(number):
            text = "is it red? " * (40 if number % 2 else 1)
            statuses[number] = served.post(body(messages=[user(text)])).status_code

        threads = [threading.Thread(target=post, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == {number: 500 if number % 2 else 200 for number in range(8)}


def test_random_faults_leave_a_server_that_answers(served):
    from serve_faults import one_request

    rng = random.Random(0)
    expected = served.post(body()).json()["choices"]
    found = {}
    for _ in range(150):
        kind, outcome = one_request(rng, served.port, "tiny")
        found.setdefault(kind, set()).add(outcome)
    assert len(found) >= 10, found
    assert not [kind for kind, outcomes in found.items() if outcomes & {"500", "no answer"}], found
    assert served.post(body()).json()["choices"] == expected
    until(lambda: served.service.worker.running == 0 and served.service.worker.waiting == 0)
