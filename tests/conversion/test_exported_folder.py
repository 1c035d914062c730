"""What people do with an exported folder gives the same answers: batches, `pipeline`, and transformers' own server."""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from urllib.request import Request, urlopen

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from olivine.conversion.export_samples import drawn_samples
from olivine.conversion.export_transformers import write_folder
from olivine.model.generate import answer_one
from olivine.testing import tiny_vlm

SAMPLES = drawn_samples(4)
TOKENS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    output = tmp_path_factory.mktemp("exported") / "model"
    vlm = tiny_vlm(folder=output.parent / "tokenizer")
    write_folder(vlm, output, before_5_4=False)
    expected = [answer_one(vlm, s.question, s.image, max_new_tokens=TOKENS) for s in SAMPLES]
    assert len(set(expected)) > 1
    return output, expected


def messages(sample):
    content = [{"type": "image", "image": sample.image}, {"type": "text", "text": sample.question}]
    return [{"role": "user", "content": content}]


@torch.no_grad()
def test_a_batch_answers_as_single_questions_do(folder):
    output, expected = folder
    processor, model = AutoProcessor.from_pretrained(output), AutoModelForImageTextToText.from_pretrained(output)
    prompts = [processor.apply_chat_template(messages(s), add_generation_prompt=True) for s in SAMPLES]
    inputs = processor(images=[s.image for s in SAMPLES], text=prompts, padding=True, return_tensors="pt")
    made = model.generate(**inputs, do_sample=False, max_new_tokens=TOKENS)[:, inputs["input_ids"].shape[1] :]
    texts = processor.tokenizer.batch_decode(made, skip_special_tokens=True)
    assert [text.strip() for text in texts] == expected


def test_the_pipeline_answers_alike(folder):
    output, expected = folder
    ask = pipeline("image-text-to-text", model=str(output), device="cpu")
    made = [ask(text=messages(s), max_new_tokens=TOKENS, do_sample=False, return_full_text=False) for s in SAMPLES]
    assert [one[0]["generated_text"].strip() for one in made] == expected


@pytest.mark.skipif(find_spec("fastapi") is None, reason="transformers serve needs fastapi and uvicorn")
def test_transformers_serve_answers_alike_and_takes_a_system_message(folder):
    output, expected = folder
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(output)]
    command += ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        _wait(port)
        answers = []
        for system in (None, "Answer briefly."):
            answers += [_answer(url, _request(output, sample, system)) for sample in SAMPLES]
        assert answers[: len(SAMPLES)] == expected
    finally:
        server.terminate()
        server.wait()


def _answer(url, asked):
    request = Request(url, json.dumps(asked).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=120) as reply:  # an HTTP error raises
        return json.loads(reply.read())["choices"][0]["message"]["content"].strip()


def _request(output, sample, system):
    stored = io.BytesIO()
    sample.image.save(stored, "PNG")
    url = "data:image/png;base64," + base64.b64encode(stored.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": sample.question}]
    asked = [{"role": "system", "content": system}] if system else []
    asked.append({"role": "user", "content": content})
    return {"model": str(output), "messages": asked, "max_tokens": TOKENS, "temperature": 0}


def _wait(port):
    for _ in range(240):
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError("transformers serve did not start")
