"""The named chat templates in Jinja, for plain transformers and for servers that load a saved folder as it does.

Each writes what `named_templates` renders, and marks the supervised text with `{% generation %}`.
"""

from olivine.data.named_templates import VICUNA_SYSTEM

#: In Jinja, `<image>` within a text must be written differently: it is not an image there, but transformers would take
#: it for one. No identical spelling is tokenised as text, so the text has one space more than in training.
TEXT = " | replace('<image>', '<image >')"


def content_macro(image: str, inside: str = "<image>") -> str:
    """Return a macro `content(message)`: the only image, written as `image`, then the text; several in place.

    With several images in the conversation, `shown.images`, each is written as `inside`: parts keep their order, each
    on its own line, as `layouts` reads them from a file.
    """
    return (
        "{%- set shown = namespace(images=0) -%}"
        "{%- for message in messages if message['content'] is not string -%}"
        "{%- for part in message['content'] if part['type'] == 'image' -%}"
        "{%- set shown.images = shown.images + 1 -%}{%- endfor -%}{%- endfor -%}"
        "{%- macro content(message) -%}{%- if message['content'] is string -%}{{ message['content']"
        + TEXT
        + " }}{%- elif shown.images > 1 -%}"
        "{%- for part in message['content'] if part['type'] in ['image', 'text'] -%}"
        "{{ '' if loop.first else '\\n' }}{{ '"
        + inside
        + "' if part['type'] == 'image' else part['text']"
        + TEXT
        + " }}{%- endfor -%}"
        "{%- else -%}"
        "{%- for part in message['content'] if part['type'] == 'image' -%}{{ '" + image + "' }}{%- endfor -%}"
        "{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text']" + TEXT + " }}{%- endfor -%}"
        "{%- endif -%}{%- endmacro -%}"
    )


_CONTENT = content_macro(r"<image>\n")
#: Roles that these templates lack are refused, not ignored.
ROLES = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{ raise_exception('Unsupported role: ' + message['role']) }}{%- endif -%}"
    "{%- if message['role'] == 'system' and not loop.first -%}"
    "{{ raise_exception('A system message must be the first') }}{%- endif -%}"
    "{%- endfor -%}"
)


def _generation(expression: str) -> str:
    return "{%- generation -%}{{ " + expression + " }}{%- endgeneration -%}"


GEMMA = (
    _CONTENT + ROLES + "{%- set system = content(messages[0]) + '\n\n' if messages[0]['role'] == 'system' else '' -%}"
    "{%- set turns = messages[1:] if messages[0]['role'] == 'system' else messages -%}"
    "{%- for message in turns -%}"
    "{%- if message['role'] == 'assistant' -%}{{ '<start_of_turn>model\n' }}"
    + _generation("content(message) + '<end_of_turn>'")
    + "{{ '\n' }}"
    "{%- else -%}{{ '<start_of_turn>user\n' + (system if loop.first else '') + content(message) + '<end_of_turn>\n' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)

_VICUNA = (
    ROLES + "{%- if messages[0]['role'] == 'system' -%}{{ content(messages[0]) + ' ' }}"
    "{%- else -%}{{ '" + VICUNA_SYSTEM.replace("'", "\\'") + " ' }}{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{{ 'USER: ' + content(message) + ' ASSISTANT:' }}"
    "{%- elif message['role'] == 'assistant' -%}" + _generation("' ' + content(message) + '</s>'") + "{%- endif -%}"
    "{%- endfor -%}"
)
VICUNA = _CONTENT + _VICUNA
#: Behind an image a space, as LLaVA's own code has it.
LLAVA_V1 = content_macro(r"<image> \n", "<image> ") + _VICUNA

#: The image alone, without the newline: what the user said, and the system, are omitted.
PLAIN = (
    "{%- for message in messages -%}{%- if message['content'] is not string -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{ '<image>' }}"
    "{%- elif message['role'] == 'assistant' -%}" + _generation("(part['text']" + TEXT + ") + '\n'") + "{%- endif -%}"
    "{%- endfor -%}{%- elif message['role'] == 'assistant' -%}"
    + _generation("(message['content']" + TEXT + ") + '\n'")
    + "{%- endif -%}"
    "{%- endfor -%}"
)

CHATML = (
    _CONTENT + ROLES + "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}{{ '<|im_start|>assistant\n' }}"
    + _generation("content(message) + '<|im_end|>'")
    + "{{ '\n' }}"
    "{%- else -%}{{ '<|im_start|>' + message['role'] + '\n' + content(message) + '<|im_end|>\n' }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)

LLAMA3 = (
    _CONTENT + ROLES + "{%- for message in messages -%}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{%- if message['role'] == 'assistant' -%}"
    + _generation("content(message) + '<|eot_id|>'")
    + "{%- else -%}{{ content(message) + '<|eot_id|>' }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif -%}"
)

PHI3 = (
    _CONTENT + ROLES + "{%- for message in messages -%}"
    "{{ '<|' + message['role'] + '|>\n' }}"
    "{%- if message['role'] == 'assistant' -%}" + _generation("content(message) + '<|end|>'") + "{{ '\n' }}"
    "{%- else -%}{{ content(message) + '<|end|>\n' }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>\n' }}{%- endif -%}"
)

PRISMATIC_BASE = (
    content_macro("")
    + ROLES
    + "{%- for message in messages if message['content'] is not string and shown.images == 1 -%}"
    "{%- for part in message['content'] if part['type'] == 'image' -%}{{ '<image>' }}{%- endfor -%}"
    "{%- endfor -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ raise_exception('System role not supported') }}"
    "{%- elif message['role'] == 'user' -%}{{ 'In: ' + content(message) + '\nOut:' }}"
    "{%- else -%}" + _generation("' ' + content(message) + eos_token") + "{%- endif -%}"
    "{%- endfor -%}"
)
