"""A server of a tiny model on a real socket, in a thread of the test's own process."""

import base64
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

import httpx2
import torch

from olivine.serving.access import Access
from olivine.serving.limits import Limits
from olivine.serving.served_model import ServedModel
from olivine.serving.server import listen, make_server
from olivine.testing import tiny_vlm

LOCAL = Access(hosts=frozenset({"127.0.0.1"}))


@dataclass
class Served:
    url: str
    port: int
    service: object
    models: dict

    def post(self, body, **options):
        with httpx2.Client(timeout=60, trust_env=False) as client:
            return client.post(f"{self.url}/v1/chat/completions", json=body, **options)


@contextmanager
def serving(models, limits=None, access=LOCAL):
    limits = limits or Limits()
    served = [ServedModel(name, vlm, limits) for name, vlm in models.items()]
    bound = listen("127.0.0.1", 0)
    port = bound.getsockname()[1]
    server = make_server(served, limits, access)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        service = server.config.app.state.service
        yield Served(f"http://127.0.0.1:{port}", port, service, {model.name: model for model in served})
    finally:
        server.should_exit = True
        thread.join(60)
        bound.close()
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def tiny():
    return tiny_vlm()


@pytest.fixture(scope="session")
def served(tiny):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with serving({"tiny": tiny, "other": tiny_vlm(seed=1)}) as running:
        yield running
    torch.set_num_threads(before)


def data_url(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def user(text, *urls):
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}
