"""Following a chat template: what is followed is what it renders; what cannot be followed says so."""

import jinja2.ext
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from olivine.model import own_template as module
from olivine.model.own_template import OwnTemplate
from olivine.model.template_trace import Untraceable, trace
from olivine.testing.hostile_text import hostile_conversations
from olivine.testing.tokenizers import chat_tokenizer

LOOP = "{%% for message in messages %%}[{{ message.role }}]%s{%% endfor %%}"
#: Everything that is followed, by a template's text around contents.
FOLLOWED = (
    "{{ message.content }}",
    "{{ message['content'] | trim }}",
    "{{ '<' + message.content + '>' }}",
    "{{ '<' + message.content.lstrip('\\n') + '>' }}",
    "{% set content = message.content.rstrip() %}{{ content }}",
    "{% if message.content is string %}{{ message.content }}{% else %}{{ message.content[0].text }}{% endif %}",
    "{% if message.content.startswith('a') %}A:{% endif %}{{ message.content }}",
    "{% if 'b' in message.content.strip() %}B:{% endif %}{{ message.content }}",
    "{% if message.content %}C:{% endif %}{{ message.content }}",
    "{% if message.content == 'a' %}D:{% endif %}{{ message.content }}",
    "{% if message.content in ['a', 'b'] %}E:{% endif %}{{ message.content }}",
)
#: Everything else that a template could do with contents.
REFUSED = (
    "{{ message.content | upper }}",
    "{{ message.content.upper() }}",
    "{{ message.content | length }}{{ message.content }}",
    "{{ message.content | tojson }}",
    "{{ message | tojson }}",
    "{{ message.content | replace('a', 'b') }}",
    "{{ message.content | default('x') }}",
    "{{ '<' ~ message.content }}",
    "{{ '%s' % message.content }}",
    "{{ '{}'.format(message.content) }}",
    "{{ message.content.split('a')[-1] }}",
    "{{ message.content[:3] }}",
    "{% for letter in message.content %}{{ letter }}{% endfor %}",
    "{% if message.content in 'abc' %}x{% endif %}{{ message.content }}",
    "{% if message.content < 'b' %}x{% endif %}{{ message.content }}",
    "{% if message.content == messages[0].content %}x{% endif %}{{ message.content }}",
    "{% if {'a': 1}[message.content] %}x{% endif %}{{ message.content }}",
    "{% if namespace(a=1)[message.content] %}x{% endif %}{{ message.content }}",
    "{% if message.content is eq('a') %}x{% endif %}{{ message.content }}",
    "{% set text %}{{ message.content }}{% endset %}{{ text | upper }}",
    "{% macro say(text) %}{{ text }}{% endmacro %}{{ say(message.content) | upper }}",
    "{% filter upper %}{{ message.content }}{% endfilter %}",
    "{{ (message.content + 'x').strip() }}",
    "{{ (message.content + 'x') | trim }}",
    "{{ message.content }}{{ message.content }}",
    "no contents",
)
TEXTS = ("a", "b", " a ", "", "\n\nab \t", "<b>", "\ue0000\ue001", "c\n")
ROLES = ("user", "assistant")


def rendered(source, contents):
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    messages = [{"role": role, "content": text} for role, text in zip(ROLES, contents, strict=True)]
    return environment.from_string(source).render(messages=messages)


@pytest.mark.parametrize("inside", FOLLOWED)
def test_what_is_followed_is_what_the_template_renders(inside):
    source = LOOP % inside
    followed = 0
    for first in TEXTS:
        found = trace(source, ROLES, (first, "b"))
        for second in TEXTS:
            kept = found.contents((first, second))
            if kept is not None:
                followed += 1
                joined = found.parts[0] + "".join(text + part for text, part in zip(kept, found.parts[1:], strict=True))
                assert joined == rendered(source, (first, second))
    assert followed >= len(TEXTS)


@pytest.mark.parametrize("inside", REFUSED)
def test_what_cannot_be_followed_is_refused(inside):
    with pytest.raises(Untraceable):
        trace(LOOP % inside, ROLES, ("a", "b"))


def test_contents_with_other_answers_are_not_taken_for_the_same():
    found = trace(LOOP % "{% if 'x' in message.content %}!{% endif %}{{ message.content | trim }}", ROLES, ("a", "x"))
    assert found.contents((" b ", "xy")) == ["b", "xy"]
    assert found.contents(("b", "y")) is None
    assert found.contents(("x", "x")) is None


@pytest.mark.parametrize("kind", ["chatml", "llama3"])
def test_a_followed_template_gives_the_pieces_of_a_rendered_one(kind, monkeypatch):
    tokenizer = chat_tokenizer(kind)
    tokenizer.chat_template = (
        "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
        "{% if '</think>' in message.content %}{{ message.content.split('</think>')[-1] }}"
        "{% else %}{{ message.content | trim }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    followed = OwnTemplate(tokenizer)
    conversations = list(hostile_conversations(200))
    pieces = [followed(conversation, False) for conversation in conversations]
    assert any(one is not None for traces in followed._traces.values() for one in traces)
    monkeypatch.setattr(module, "_MOST_TRACES", 0)
    always_rendered = OwnTemplate(tokenizer)
    assert pieces == [always_rendered(conversation, False) for conversation in conversations]
    assert not any(always_rendered._traces.values())
