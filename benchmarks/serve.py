"""Requests a second of `olivine serve`, beside `transformers serve` on the same CPU, model and requests.

    python benchmarks/serve.py MODEL GQA [--quick] [--json] [--out FILE]

MODEL is a model folder, GQA the questions and images of world-GQA (`olivine demo` writes both). Where `transformers
serve` does not start, its rows are missing and the result says so.
Every server is a process of its own with the same number of threads. First it is asked whether the answers are those of
the answering engine, one by one and 16 at a time.
"""

import argparse
import base64
import http.client
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from serve_faults import start

CLIENTS = (1, 4, 16)
LONGEST = 16


def questions_of(folder, count):
    from olivine.evaluation.benchmarks import get

    return list(islice(get("gqa").read(folder, None), count))


def request(model, question, image):
    url = "data:image/png;base64," + base64.b64encode(image).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question.prompt}]
    message = {"role": "user", "content": parts}
    return json.dumps({"model": model, "messages": [message], "max_tokens": LONGEST, "temperature": 0}).encode()


def asked_by(port, bodies, clients):
    """Send requests from this many clients, each with its own connection; return answers and seconds."""
    answers = [None] * len(bodies)

    def client(first):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        for number in range(first, len(bodies), clients):
            connection.request("POST", "/v1/chat/completions", bodies[number], {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
            if response.status != 200:
                raise SystemExit(f"{response.status}: {content[:300]!r}")
            answers[number] = json.loads(content)["choices"][0]["message"]["content"].strip()
        connection.close()

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    return answers, time.perf_counter() - began


def start_transformers(model, *options):
    port = 18000 + os.getpid() % 10_000
    program = "from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", program, "serve", str(model), "--device", "cpu"]
    process = subprocess.Popen(
        [*command, "--port", str(port), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(900):
        if process.poll() is not None:
            return None
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return process, port
        except OSError:
            pass
        time.sleep(0.1)
    process.terminate()
    return None


def stop(process):
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def measured(port, name, workloads, rounds):
    """Return for each workload and number of clients the requests a second, the best of some rounds."""
    rows, said = [], {}
    for workload, questions, images in workloads:
        bodies = [request(name, q, image) for q, image in zip(questions, images, strict=True)]
        asked_by(port, bodies[:16], 4)  # kernels and allocators are warm then
        for clients in CLIENTS:
            part = bodies if clients > 1 else bodies[: max(16, len(bodies) // 4)]
            taken = []
            for _ in range(rounds):
                answers, seconds = asked_by(port, part, clients)
                taken.append(len(part) / seconds)
            said[workload, clients] = answers
            rows.append(
                {"workload": workload, "clients": clients, "requests_per_second": round(statistics.median(taken), 2)}
            )
    return rows, said


def same_as_engine(model, folder, port, count):
    """Return how many answers differ from the engine's, one by one and 16 at a time."""
    from olivine.evaluation.benchmarks import get
    from olivine.evaluation.engine import AnsweringEngine
    from olivine.model.checkpoint import load
    from olivine.training.run import find_checkpoint

    questions = questions_of(folder, count)
    root = get("gqa").images(folder)
    engine = AnsweringEngine(load(find_checkpoint(model)), max_new_tokens=LONGEST)
    found = {answer.question_id: answer.text for answer in engine.answer(questions, root)}
    expected = [found[question.id] for question in questions]
    bodies = [request("model", q, image_bytes(root, q.image)) for q in questions]
    differing = {}
    for clients in (1, 16):
        answers, _ = asked_by(port, bodies, clients)
        differing[str(clients)] = sum(a != b for a, b in zip(answers, expected, strict=True))
    return {"questions": len(questions), "different_answers_by_clients": differing}


def image_bytes(root, name):
    from olivine.data.images import find_image

    return find_image(root, name).read_bytes()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("gqa", type=Path)
    parser.add_argument("--quick", action="store_true", help="Fewer requests.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    from olivine.evaluation.benchmarks import get
    from olivine.training.run import find_checkpoint

    model = find_checkpoint(options.model).absolute()
    count, rounds, compared = (48, 1, 50) if options.quick else (192, 3, 1000)
    root = get("gqa").images(options.gqa)
    questions = questions_of(options.gqa, 4000)
    by_image = list({q.image: q for q in questions}.values())[:count]
    one = image_bytes(root, questions[0].image)
    many = list({q.prompt: q for q in questions}.values())[:count]
    workloads = [
        ("one image, many questions", many, [one] * len(many)),
        ("many images, one question each", by_image, [image_bytes(root, q.image) for q in by_image]),
    ]
    result = {
        "ratios": {},
        "rows": [],
        "device": f"cpu, {os.cpu_count()} cores",
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
    }
    process, port = start(model)
    try:
        result["same_answers"] = same_as_engine(model, options.gqa, port, compared)
        ours, said = measured(port, "model", workloads, rounds)
    finally:
        stop(process)
    result["rows"] += [{"server": "olivine serve", **row} for row in ours]
    for name, extra in (("transformers serve", []), ("transformers serve, batching", ["--continuous-batching"])):
        started = start_transformers(model, *extra)
        if started is None:
            result["rows"].append({"server": name, "missing": "it did not start"})
            continue
        process, port = started
        try:
            theirs, other = measured(port, str(model), workloads, rounds)
        except (SystemExit, OSError, http.client.HTTPException) as error:
            result["rows"].append({"server": name, "missing": f"{error}"[:200]})
            continue
        finally:
            stop(process)
        result["rows"] += [{"server": name, **row} for row in theirs]
        for mine, row in zip(ours, theirs, strict=True):
            key = f"{name}: {row['workload']}, {row['clients']} clients"
            result["ratios"][key] = round(mine["requests_per_second"] / row["requests_per_second"], 2)
        agree = sum(a == b for key in said for a, b in zip(said[key], other[key], strict=True))
        result[f"answers equal to {name}"] = f"{agree} of {sum(map(len, said.values()))}"
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
