"""What LLaVA models with Gemma were trained under, by the version of transformers that their folder names.

Read in transformers 4.38 to 5.23; how it is repaired is in `assemble`.
"""

from typing import Any

from packaging.version import InvalidVersion, Version

from olivine.conversion.published import ImageScale
from olivine.errors import RequestError

#: Since this version token embeddings alone are multiplied by sqrt(hidden), image features by nothing.
SCALES_TOKENS_ALONE = Version("5.4.0")
#: Model types whose whole input was multiplied by it before.
SCALED = ("gemma", "gemma2")
EXACT, TANH = "gelu", "gelu_pytorch_tanh"


def version_of(values: dict[str, Any], key: str) -> Version | None:
    """Return the version of transformers that wrote a configuration; None if it does not say.

    Raises:
        RequestError: it is no version.
    """
    written = values.get("transformers_version")
    if written is None:
        return None
    try:
        return Version(str(written))
    except InvalidVersion:
        raise RequestError(f"{key}: transformers_version is {written!r}, which is no version.") from None


def image_scale(version: Version | None, asked: ImageScale | None, key: str) -> ImageScale:
    """Return what Gemma's image features were multiplied by in training.

    Raises:
        RequestError: neither folder nor user say.
    """
    if asked is not None:
        return asked
    if version is None:
        raise RequestError(
            f"{key}: a LLaVA model with Gemma, whose config.json does not say which transformers wrote it "
            "(transformers_version). Image features were multiplied by sqrt(hidden) in training before 5.4, by nothing "
            "since: give --image-scale sqrt-hidden or --image-scale one."
        )
    return "sqrt-hidden" if version < SCALES_TOKENS_ALONE else "one"


def activation(text: dict[str, Any], version: Version | None) -> tuple[str, bool]:
    """Return Gemma's activation in training, and whether the configuration leaves no doubt.

    transformers before 4.39 took `hidden_act`; from 4.39 to 4.45 `hidden_activation`, or tanh without one; from 4.52 to
    4.57 `hidden_act`; 5 rewrites "gelu" to the tanh form. `hidden_activation` was written by no version before 4.39,
    and `gelu_python` means the exact form in each.

    Args:
        text: the language model's configuration as it is in the file.
        version: that wrote it.
    """
    act, newer = text.get("hidden_act", EXACT), text.get("hidden_activation")
    if act == "gelu_python":
        return EXACT, True
    if version is None:
        return (newer or act), False
    if version < Version("4.39.0"):  # release candidates and .dev0 of 4.39 included, as Intel's was
        return act, True
    if version < Version("4.46"):
        return (newer or TANH), True
    if version < Version("4.52"):
        return (newer or TANH), False
    if version < Version("5"):
        return act, True
    return (TANH if act == EXACT else act), True
