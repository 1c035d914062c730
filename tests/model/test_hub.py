"""The hub gets one request; its answer, or its silence, is reported in one message."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from olivine.errors import RequestError
from olivine.model import hub
from olivine.model.build import skeleton
from olivine.model.size import model_size
from olivine.model.tokenizers import load_tokenizer
from olivine.recipe import ModelRecipe

RECIPE = ModelRecipe.model_validate(
    {"vision": {"from": "nobody/tower"}, "language": {"from": "nobody/language"}, "connector": {}}
)


class Hub(BaseHTTPRequestHandler):
    status, asked = 503, ()

    def do_GET(self):
        type(self).asked = (*self.asked, self.path)
        body = json.dumps({"error": "no"}).encode()
        self.send_response(self.status)
        if self.status == 403:
            self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "_listings", {})
    monkeypatch.setattr(hub, "_unreachable", {})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def server(monkeypatch):
    answering = type("Answering", (Hub,), {"asked": ()})
    listening = ThreadingHTTPServer(("127.0.0.1", 0), answering)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{listening.server_port}")
    yield answering
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_a_failing_hub_is_asked_once_for_all_modules(server):
    start = time.monotonic()
    for use in (lambda: skeleton(RECIPE), lambda: model_size(RECIPE), lambda: load_tokenizer("nobody/other", "key")):
        with pytest.raises(RequestError, match=r"tried once.*hf download nobody/.*--local-dir"):
            use()
    assert [path for path in server.asked if "/models/" in path] == ["/api/models/nobody/tower"]
    assert time.monotonic() - start < 5


def test_an_unreachable_hub_is_reported_at_once(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(RequestError, match=r"model.vision.from: 'nobody/tower'.*127.0.0.1:9.*hf download"):
        skeleton(RECIPE)
    assert time.monotonic() - start < 5


def test_a_name_unknown_to_the_hub(server):
    server.status = 404
    with pytest.raises(RequestError, match=r"hub has no model of that name|could not be fetched"):
        skeleton(RECIPE)


def test_a_gated_model_says_how_to_get_access(server):
    server.status = 403
    with pytest.raises(RequestError, match=r"gated.*hf auth login"):
        skeleton(RECIPE)


@pytest.mark.parametrize("source", ["a/b/c", "two words", "x" * 200])
def test_a_source_that_is_neither_folder_nor_id(source, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RequestError, match=r"key: .*neither a local folder nor a hub id"):
        hub.local_folder(source, "key", hub.CONFIGURATION)


@pytest.mark.parametrize(("source", "message"), [("./nowhere", "not found"), ("config.json", "is a file")])
def test_paths_that_are_no_folders(source, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RequestError, match=message):
        hub.local_folder(source, "key", hub.CONFIGURATION)


def test_downloaded_files_are_used_when_the_hub_is_unreachable(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    cached = tmp_path / "cache" / "models--some--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("a" * 40)
    snapshot = cached / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    found = hub.local_folder("some/model", "key", hub.CONFIGURATION)
    assert (found / "config.json").is_file()
