"""A tokenizer's own chat template as saved: its text unchanged, supervised parts marked, images inserted.

`own_template` finds out what is supervised.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from olivine.data.saved_templates import ROLES, content_macro

_OPENS, _CLOSES = "{# the tokenizer's own template #}", "{# end of the tokenizer's own template #}"
_MARK = "\ue000"
#: A template's own generation marks would be counted inside the macro, where they have no meaning.
_MARKED = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")


def saved_jinja(source: str, settings: Mapping[str, Any], end: str, *, drop_bos: bool) -> str:
    """Return a Jinja template that writes what `source` writes, with `{% generation %}` around what is supervised.

    Args:
        source: the tokenizer's own template.
        settings: variables that it is rendered with.
        end: what it writes to end a reply.
        drop_bos: omit a beginning of sequence at the front, which the tokenizer adds.
    """
    own = _MARKED.sub(lambda m: f"{{%{m[1]} {'endif' if m[2] else 'if true'} {m[3]}%}}", source)
    given = "".join(f"{{% set {name} = {json.dumps(value)} %}}\n" for name, value in settings.items())
    skip = "bos_token | length if bos_token and whole.text.startswith(bos_token) else 0" if drop_bos else "0"
    return (
        content_macro(r"<image>\n")
        + ROLES
        # The text between the two comments is the tokenizer's own, unchanged.
        + "{% macro own(messages, add_generation_prompt) %}\n"
        + f"{given}{_OPENS}\n{own.removesuffix(chr(10))}{_CLOSES}{{% endmacro %}}\n"
        + "{%- set whole = namespace(messages=[], blank=[], kept=[], at=0) -%}"
        "{%- for message in messages -%}"
        "{%- set whole.messages = whole.messages + [{'role': message['role'], 'content': content(message)}] -%}"
        "{%- set whole.blank = whole.blank + [{'role': message['role'], 'content': '" + _MARK + "'}] -%}"
        "{%- endfor -%}"
        "{%- set whole.text = own(whole.messages, add_generation_prompt | default(false)) -%}"
        "{%- set parts = own(whole.blank, add_generation_prompt | default(false)).split('" + _MARK + "') -%}"
        "{%- set end = " + _literal(end) + " -%}"
        f"{{%- set skip = {skip} -%}}" + _FIND + _WRITE
    )


#: Each turn's text as the template wrote it; `whole.at` ends at the text's end only if all were found.
_FIND = (
    "{%- set whole.at = parts[0] | length -%}"
    "{%- for message in whole.messages if parts | length == messages | length + 1 -%}"
    "{%- set part = parts[loop.index] -%}{%- set text = message['content'] -%}"
    "{%- set found = namespace(text=none) -%}"
    "{%- for kept in [text, text.strip(), text.lstrip(), text.rstrip(), text.lstrip('\\n'), text.strip('\\n')] -%}"
    "{%- if found.text is none and whole.text[whole.at:].startswith(kept + part)"
    " and (message['role'] != 'assistant' or part.startswith(end)) -%}"
    "{%- set found.text = kept -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if found.text is not none -%}"
    "{%- set whole.kept = whole.kept + [found.text] -%}"
    "{%- set whole.at = whole.at + (found.text + part) | length -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
)
#: What cannot be marked is written unchanged.
_WRITE = (
    "{%- if whole.at != whole.text | length or whole.kept | length != messages | length -%}{{ whole.text[skip:] }}"
    "{%- else -%}{{ parts[0][skip:] }}"
    "{%- for message in whole.messages -%}"
    "{%- set part = parts[loop.index] -%}{%- set text = whole.kept[loop.index0] -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{ text + end }}{%- endgeneration -%}{{ part[end | length:] }}"
    "{%- else -%}{{ text + part }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
)


def unwrapped(source: str) -> str:
    """Return the tokenizer's own template out of a saved one; any other unchanged."""
    _, opened, rest = source.partition(_OPENS + "\n")
    own, closed, _ = rest.rpartition(_CLOSES)
    return own if opened and closed else source


def _literal(text: str) -> str:
    """Return a Jinja string literal."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
