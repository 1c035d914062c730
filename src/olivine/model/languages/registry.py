"""Which families of language models there are: the package's own, and those of installed packages.

The interface of a family is in `family`.
"""

from functools import cache
from typing import Any

from olivine.model.languages.family import LanguageFamily, unsupported
from olivine.model.languages.gemma import Gemma
from olivine.model.languages.gemma2 import Gemma2
from olivine.model.languages.gemma3 import Gemma3
from olivine.model.languages.llama import Llama
from olivine.model.languages.mistral import Mistral
from olivine.model.languages.phi3 import Phi3
from olivine.model.languages.qwen2 import Qwen2
from olivine.model.languages.qwen3 import Qwen3
from olivine.model.languages.smollm3 import SmolLM3
from olivine.registry import load, offered

#: Entry points of this group are named by their family's model type; their object is a subclass of `LanguageFamily`.
LANGUAGES = "olivine.languages"
_FAMILIES = (Gemma, Gemma2, Gemma3, Llama, Mistral, Phi3, Qwen2, Qwen3, SmolLM3)
_OWN = {model_type: family for family in _FAMILIES for model_type in family.model_types}
_LAYOUT = "its modules are laid out otherwise than Llama's, which training and answering go by"
#: Model types that are known but unsupported, with the reason.
_REFUSED = {
    **dict.fromkeys(("gpt_neox", "opt", "gpt2", "gpt_neo", "gptj", "bloom", "phi", "mpt", "falcon"), _LAYOUT),
    "gpt_oss": "its attention has sinks",
    "gemma3n_text": "its layers take embeddings of their own for each token, which images have none of",
    "llama4_text": "its attention goes by chunks",
}


def language_types() -> tuple[str, ...]:
    """Return every supported model type, the package's own first."""
    return (*_OWN, *(name for name in offered(LANGUAGES) if name not in _OWN))


def language_family(model_type: str, key: str = "model.language.from") -> LanguageFamily:
    """Return the family of a language model's configuration.

    Raises:
        RequestError: it is not supported; the message lists those that are.
    """
    if model_type in _OWN:
        return _OWN[model_type]()
    if model_type in offered(LANGUAGES):
        return _offered_family(model_type)
    raise unsupported(model_type, language_types(), key, _REFUSED.get(model_type))


def family_of(config: Any) -> LanguageFamily:
    """Return the family of a configuration that has been checked before."""
    return language_family(config.model_type)


@cache
def _offered_family(model_type: str) -> LanguageFamily:
    family: LanguageFamily = load(LANGUAGES, model_type)()
    return family
