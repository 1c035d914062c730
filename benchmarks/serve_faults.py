"""Requests with random faults against `olivine serve`: does it crash, does its memory grow, is every error named?

    python benchmarks/serve_faults.py MODEL [--quick] [--json]

The server is a process of its own. Resident memory is read after a tenth of the requests and at the end.
"""

import argparse
import base64
import io
import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image


def png(rng, side=48, mode="RGB"):
    made = io.BytesIO()
    channels = {"RGB": (3,), "L": (), "RGBA": (4,)}[mode]
    pixels = np.frombuffer(rng.randbytes(side * side * max(1, *channels, 1)), np.uint8)
    Image.fromarray(pixels.reshape(side, side, *channels), mode=None).save(made, "PNG")
    return made.getvalue()


def url(content, kind="image/png"):
    return f"data:{kind};base64," + base64.b64encode(content).decode()


def request(rng, model, images=None, **changes):
    images = [url(png(rng))] if images is None else images
    parts = [{"type": "image_url", "image_url": {"url": one}} for one in images]
    text = {"type": "text", "text": rng.choice(["What color is it?", "Is there a box?", "Say everything."])}
    message = {"role": "user", "content": [*parts, text]}
    return {"model": model, "messages": [message], "max_tokens": rng.choice([1, 4, 16]), **changes}


_HUGE: dict[str, bytes] = {}


def huge():
    """A file of some kilobytes that unpacks to 81 megapixels."""
    if "png" not in _HUGE:
        made = io.BytesIO()
        Image.new("1", (9000, 9000)).save(made, "PNG")
        _HUGE["png"] = made.getvalue()
    return _HUGE["png"]


def hostile(rng):
    content = bytearray(png(rng, mode=rng.choice(["RGB", "L", "RGBA"])))
    kind = rng.randrange(4)
    if kind == 0:
        return bytes(content[: rng.randrange(len(content))])
    if kind == 1:
        for _ in range(20):
            content[rng.randrange(len(content))] = rng.randrange(256)
        return bytes(content)
    if kind == 2:
        return rng.randbytes(rng.randrange(2000))
    return rng.choice([b"%!PS-Adobe\n(/etc/passwd) run", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"GIF89a", b""])


def damaged_json(rng, model):
    content = bytearray(json.dumps(request(rng, model)).encode())
    kind = rng.randrange(4)
    if kind == 0:
        return bytes(content[: rng.randrange(len(content))])
    if kind == 1:
        content[rng.randrange(60)] = rng.randrange(256)
        return bytes(content)
    if kind == 2:
        return rng.choice([b"[", b"{"]) * rng.randrange(1, 50_000)
    return rng.choice([b"null", b'"text"', b"[]", b"{}", b'{"model": 1e999}', b'{"model": NaN}', b"\xff\xfe\x00"])


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def head(length, *, path="/v1/chat/completions", kind="application/json"):
    lines = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n"
    return (lines + "Connection: close\r\n\r\n").encode()


def answer(connection):
    """Return the status of a response, and whether its body names what is wrong."""
    received = bytearray()
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except OSError:
        pass
    found = re.match(rb"HTTP/1.1 (\d+)", received)
    if found is None:
        return "no answer"
    status = found[1].decode()
    if status != "200":
        try:
            error = json.loads(received.partition(b"\r\n\r\n")[2])["error"]
            assert error["code"]
            assert error["message"]
        except (ValueError, KeyError, TypeError, AssertionError):
            return f"{status} without a reason"
    return status


def sent(port, content, **options):
    with connect(port) as connection:
        with suppress(OSError):  # refused before it was all sent
            connection.sendall(head(len(content), **options) + content)
        return answer(connection)


def one_request(rng, port, model):
    """Send one request; return its kind and what came of it."""
    kind = rng.choice(KINDS)
    if kind == "good":
        return kind, sent(port, json.dumps(request(rng, model)).encode())
    if kind == "good stream":
        return kind, sent(port, json.dumps(request(rng, model, stream=True, logprobs=True)).encode())
    if kind == "huge image":
        return kind, sent(port, json.dumps(request(rng, model, [url(huge())])).encode())
    if kind == "hostile image":
        return kind, sent(port, json.dumps(request(rng, model, [url(hostile(rng))])).encode())
    if kind == "path":
        path = rng.choice(["/etc/passwd", "file:///etc/passwd", "http://169.254.169.254/", "../../x.png", "data:,x"])
        return kind, sent(port, json.dumps(request(rng, model, [path])).encode())
    if kind == "wrong JSON":
        return kind, sent(port, damaged_json(rng, model))
    if kind == "wrong values":
        wrong = rng.choice([{"n": 99}, {"temperature": -1}, {"tools": [1]}, {"x": 1}, {"model": "no"}, {"stop": [1]}])
        return kind, sent(port, json.dumps(request(rng, model) | wrong).encode())
    if kind == "wrong type":
        return kind, sent(port, b"a=b", kind="application/x-www-form-urlencoded")
    if kind == "too large":
        with connect(port) as connection:
            connection.sendall(head(10**9))
            return kind, answer(connection)
    return kind, _rude(rng, port, model, kind)


def _rude(rng, port, model, kind):
    """Send a request and do not behave; return what came of it, "gone" where nobody waited."""
    content = json.dumps(request(rng, model, stream=kind == "slow reader", max_tokens=64)).encode()
    if kind == "no HTTP":
        with connect(port) as connection:
            connection.sendall(rng.randbytes(200) + b"\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1000)
        return "gone"
    with connect(port) as connection:
        if kind == "cut body":
            connection.sendall(head(len(content)) + content[: rng.randrange(len(content))])
        elif kind == "disconnect":
            connection.sendall(head(len(content)) + content)
            time.sleep(rng.random() * 0.01)
        else:
            connection.sendall(head(len(content)) + content)
            for _ in range(3):
                connection.recv(100)
                time.sleep(0.01)
    return "gone"


#: Small enough to be full after the first tenth: what grows after that is a leak, not the cache.
CACHE_MB = 16

KINDS = (
    *("good", "good stream", "huge image", "hostile image", "path", "wrong JSON", "wrong values", "wrong type"),
    *("too large", "cut body", "disconnect", "slow reader", "no HTTP"),
)


def resident(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024


def start(model, *options):
    """Start a server; return its process and port."""
    command = [sys.executable, "-m", "olivine", "serve", f"model={model}", "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        found = re.search(r"API: +http://127.0.0.1:(\d+)/v1", line)
        if found:
            port = int(found[1])
            wait_for(port)
            return process, port
    raise SystemExit("the server did not start")


def wait_for(port):
    for _ in range(600):
        try:
            with connect(port) as connection:
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                if b"200" in connection.recv(100):
                    return
        except OSError:
            pass
        time.sleep(0.1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--quick", action="store_true", help="300 requests instead of 10,000.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    total = 300 if options.quick else 10_000
    process, port = start(options.model, "--cache-mb", f"{CACHE_MB}")
    outcomes = defaultdict(Counter)
    began = time.monotonic()
    early = 0
    try:
        with ThreadPoolExecutor(8) as pool:

            def one(seed):
                return one_request(random.Random(seed), port, "model")

            for part in (range(total // 10), range(total // 10, total)):
                for kind, outcome in pool.map(one, part):
                    outcomes[kind][outcome] += 1
                early = early or resident(process.pid)
        alive = sent(port, json.dumps(request(random.Random(0), "model")).encode()) == "200"
        late = resident(process.pid)
    finally:
        process.terminate()
        code = process.wait(60)
    bad = {"no answer", *(o for kind in outcomes.values() for o in kind if o.startswith("5") or "without" in o)}
    rows = [{"kind": kind, "outcomes": dict(sorted(found.items()))} for kind, found in sorted(outcomes.items())]
    result = {
        "ratios": {"rss_end_over_early": round(late / early, 4)},
        "rows": rows,
        "requests": total,
        "crashes": int(not alive) + int(code != 0),
        "errors_without_reason_or_5xx": sum(found[o] for found in outcomes.values() for o in found if o in bad),
        "cache_mb": CACHE_MB,
        "rss_early_mb": round(early / 2**20, 1),
        "rss_end_mb": round(late / 2**20, 1),
        "seconds": round(time.monotonic() - began, 1),
        "exit_code_after_sigterm": code,
        "device": f"cpu, {os.cpu_count()} cores",
    }
    text = json.dumps(result, indent=None if options.json else 2)
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(text)


if __name__ == "__main__":
    main()
