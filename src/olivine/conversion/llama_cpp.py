"""An exported pair of GGUF files answered by llama.cpp itself, through `xllamacpp`'s server in this process."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from olivine.conversion.export_samples import ProofSample
from olivine.conversion.proof import MAX_NEW_TOKENS, Side
from olivine.errors import RequestError, RunError

#: How many first tokens are compared.
_TOP = 20


def llama_cpp_library() -> Any:
    """Return `xllamacpp`.

    Raises:
        RequestError: it is not installed.
    """
    try:
        import xllamacpp
    except ImportError:
        raise RequestError(
            "--to gguf: the proof runs llama.cpp, which needs the extra gguf: pip install 'olivine[gguf]'."
        ) from None
    return xllamacpp


def llama_side(language: Path, projector: Path, samples: Sequence[ProofSample], *, context: int) -> Side:
    """Ask llama.cpp on the CPU, by chat messages as its users do.

    Attention without its fp16 shortcut, keys and values in fp32: what differs is then the files' and the graph's doing.

    Args:
        language: the language model's file.
        projector: the mmproj file.
        samples: the questions.
        context: tokens that a question with its answer may take.

    Raises:
        RequestError: xllamacpp is not installed.
        RunError: llama.cpp refuses the files or a question.
    """
    xllamacpp = llama_cpp_library()
    server = _server(xllamacpp, language, projector, context)
    answers, lengths, top = [], [], []
    for sample in samples:
        said = _ask(server, sample)
        choice = said["choices"][0]
        answers.append(choice["message"]["content"].strip())
        lengths.append(said["usage"]["prompt_tokens"])
        top.append(_first_tokens(choice["logprobs"]["content"]))
    return Side(f"llama.cpp (xllamacpp {xllamacpp.__version__})", answers, lengths, top=top)


def _server(library: Any, language: Path, projector: Path, context: int) -> Any:
    parameters = library.CommonParams()
    parameters.model.path, parameters.mmproj.path = str(language), str(projector)
    parameters.n_ctx, parameters.n_parallel = context, 1
    parameters.cpuparams.n_threads = 1
    parameters.flash_attn_type = library.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.cache_type_k = parameters.cache_type_v = library.ggml_type.GGML_TYPE_F32
    parameters.mmproj_use_gpu, parameters.n_gpu_layers = False, 0
    parameters.warmup, parameters.use_jinja, parameters.verbosity = False, True, 0
    try:
        return library.Server(parameters)
    except RuntimeError as error:
        raise RunError(f"{language.parent}: llama.cpp cannot load the exported files ({error}).") from None


def _first_tokens(content: Any) -> dict[int, float]:
    """Return the most probable first tokens; none where the first is part of a character.

    llama.cpp writes such a token into the next one's entry.
    """
    if not content or content[0]["token"].startswith("\ufffd"):
        return {}
    return {token["id"]: token["logprob"] for token in content[0]["top_logprobs"]}


def _ask(server: Any, sample: ProofSample) -> Any:
    stored = io.BytesIO()
    sample.image.save(stored, "PNG")
    url = "data:image/png;base64," + base64.b64encode(stored.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": sample.question}]
    said = server.handle_chat_completions(
        {
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": MAX_NEW_TOKENS,
            "logprobs": True,
            "top_logprobs": _TOP,
        }
    )
    said = json.loads(said) if isinstance(said, str) else said
    if "choices" not in said:
        raise RunError(f"llama.cpp could not answer {sample.question!r}: {json.dumps(said)[:300]}")
    return said
