"""A model's chat template in the Jinja that llama.cpp runs: no marks of replies, images as llama.cpp writes them."""

import re

from olivine.errors import RequestError

_MACRO = re.compile(r"\{%- set shown = namespace.*?\{%- endmacro -%\}", re.DOTALL)
_MARKS = re.compile(r"\{%-? *(end)?generation *-?%\}")
#: llama.cpp writes a mark `<__media...__>` where an image stands: in the text, or as a part of its own. As in
#: training, images come before the text of a message, each on its own line.
_CONTENT = (
    "{%- macro content(message) -%}{%- if message['content'] is string -%}"
    "{{ message['content'] | replace('__>', NEW) }}{%- else -%}"
    "{%- for part in message['content'] -%}{%- if part['text'].startswith('<__media') -%}"
    "{{ part['text'] | replace('__>', NEW) }}{%- endif -%}{%- endfor -%}"
    "{%- for part in message['content'] -%}{%- if not part['text'].startswith('<__media') -%}{{ part['text'] }}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}{%- endmacro -%}"
)


def llama_template(saved: str) -> str:
    """Return what llama.cpp runs in place of a saved chat template.

    Raises:
        RequestError: the template is not one of Olivine's named ones.
    """
    found = _MACRO.search(saved)
    if found is None or "'<image>\\n'" not in found.group():
        raise RequestError(
            "--to gguf: the model's chat template is not one of Olivine's that put the image on a line before the text "
            "(gemma, vicuna, chatml, llama3, phi3), and llama.cpp's Jinja may not run it. Export --to transformers."
        )
    content = _CONTENT.replace("NEW", r"'__>\n'")
    return _MARKS.sub("", saved[: found.start()] + content + saved[found.end() :])
