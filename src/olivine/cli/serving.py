"""`olivine serve`, `olivine chat` and `olivine ask`.

The server itself and the terminal chat are in `serving`.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from olivine.cli.once import OnceTyper
from olivine.cli.terminal import Json, echo, log, selected_device
from olivine.errors import RequestError

app = OnceTyper()
_Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model folder or a run directory.")]
_Longest = Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer, in tokens.")]


@app.command()
def serve(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Model folders or run directories; NAME=PATH names one.")
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but loopback needs a token in OLIVINE_API_KEY.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch images from public http(s) URLs in requests.")
    ] = False,
    max_tokens: _Longest = 512,
    max_queue: Annotated[int, typer.Option(min=1, help="Requests that may wait (more: 429).")] = 256,
    max_seconds: Annotated[float, typer.Option(min=1, help="Seconds for a request (more: 504).")] = 120.0,
    max_body_mb: Annotated[float, typer.Option(min=0.01, help="Megabytes of a request (more: 413).")] = 32.0,
    max_pixels: Annotated[int, typer.Option(min=1, help="Pixels of an image (more: 422).")] = 40_000_000,
    cache_mb: Annotated[float, typer.Option(min=0, help="Megabytes kept of image features and prompts.")] = 256.0,
) -> None:
    """Serve models to OpenAI clients, and a page to try them on at the same address.

    Ctrl-C and SIGTERM finish the requests that run, then exit with code 0.

    Example: olivine serve runs/demo/quick
    """
    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]
    if missing:
        raise RequestError(f"olivine serve needs {', '.join(missing)}: pip install 'olivine[serve]'.")
    from olivine.serving.limits import Limits
    from olivine.serving.loading import load_models
    from olivine.serving.server import access_for, listen, make_server

    limits = Limits(
        body_bytes=int(max_body_mb * 2**20),
        image_pixels=max_pixels,
        seconds=max_seconds,
        queue=max_queue,
        new_tokens=max_tokens,
        cache_bytes=int(cache_mb * 2**20),
        fetch=allow_urls,
    )
    access = access_for(host)
    with listen(host, port) as bound:
        loaded = load_models(models, limits, selected_device())
        number = bound.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        log.print(f"models: {', '.join(model.name for model in loaded)}", highlight=False)
        log.print(f"page:   http://{shown}:{number}/", highlight=False)
        log.print(f"API:    http://{shown}:{number}/v1", highlight=False)
        make_server(loaded, limits, access).run(sockets=[bound])
    log.print("stopped", highlight=False)


@app.command()
def chat(
    model: _Model,
    image: Annotated[Path | None, typer.Option(help="An image to talk about.")] = None,
    max_tokens: _Longest = 256,
) -> None:
    """Talk to a model in the terminal; /help lists its commands. In a pipe, each line is a question.

    Example: olivine chat runs/demo/quick --image sign.png
    """
    from olivine.serving.local import LocalModel
    from olivine.serving.terminal_chat import TerminalChat

    with LocalModel.load(model, max_tokens, selected_device()) as local:
        talk = TerminalChat(local, sys.stdin, sys.stdout, log)
        if image is not None:
            talk.show(image)
        talk.run()


@app.command()
def ask(
    model: _Model,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image file, or - for no image.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask about it.")],
    max_tokens: _Longest = 256,
    as_json: Json = False,
) -> None:
    """Answer one question, and print the answer with its probability.

    Example: olivine ask runs/demo/quick sign.png "What color is the sign?"
    """
    from olivine.serving.local import LocalModel, Said

    with LocalModel.load(model, max_tokens, selected_device()) as local:
        opened = None if str(image) == "-" else local.image(image)
        reply = local.answer([Said("user", question, opened)])
        probability = reply.probability
        if as_json:
            echo(
                json.dumps(
                    {
                        "answer": reply.text,
                        "probability": probability,
                        "finish_reason": reply.finish,
                        "tokens": [{"text": one.text, "logprob": one.logprob} for one in reply.logprobs],
                    }
                )
            )
            return
        echo(reply.text)
        cut = "; cut at --max-tokens" if reply.finish == "length" else ""
        echo(f"probability {probability:.3f}{cut}")
