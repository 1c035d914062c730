"""The final answer in a model's reply: without its thinking, its closing tokens and its markup.

Our own rule, for the variants named `lenient`. What the answer says is read elsewhere.
"""

import re
import unicodedata

#: Tags between which models write their thinking, closed or not.
_THINKING = r"think|thinking|thought|thoughts|reasoning|reason|analysis|scratchpad"
_CLOSING = re.compile(rf"</(?:{_THINKING})>|◁/think▷|<\|/?end_of_thought\|>", re.IGNORECASE)
_OPENING = re.compile(rf"<(?:{_THINKING})>|◁think▷|<\|begin_of_thought\|>", re.IGNORECASE)
#: Where a model's turn ends; what follows is no answer.
_END = re.compile(
    r"</s>|<eos>|<end_of_turn>|<end_of_utterance>|<pad>|\[EOS\]"
    r"|<\|(?:im_end|im_start|endoftext|end_of_text|eot_id|end|eom_id|return|assistant|user)\|>"
)
_START = re.compile(r"\s*(?:<s>|<bos>|<\|im_start\|>\s*assistant|<start_of_turn>\s*model|<\|assistant\|>)\s*")
_TAGGED = re.compile(r"<(?:answer|final_answer|final|output|response)>", re.IGNORECASE)
_TAG_END = re.compile(r"</(?:answer|final_answer|final|output|response)>", re.IGNORECASE)
#: This many of a reply's last boxes are tried; one that never closes is read to the end for nothing.
_MOST_BOXES = 20
_TEX = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}")
_MARKUP = re.compile(
    r"\*\*|__|`+|(?<!\w)[*_](?=\S)|(?<=\S)[*_](?!\w)|^[ \t]*#+[ \t]+|^[ \t]*>[ \t]+|^[ \t]*[-•][ \t]+", re.MULTILINE
)
#: Runs of white space are shortened: they mean nothing, and patterns try every way to part them.
_BLANKS = re.compile(r"[^\S\n]+")
_LINES = re.compile(r"\s*\n\s*")
_STRAIGHT = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "。": ". ", "．": ".", "、": ",", "\u00a0": " "})


def unwrapped(reply: str) -> str:
    """Return the final answer in a reply, empty if the reply never leaves its thinking.

    Thinking goes up to its last closing tag, also where the opening one is missing (templates put it in the prompt); an
    opening tag that is never closed leaves nothing, because the answer was cut off. Of what is left counts the text in
    the last `<answer>`, or else in the last `\\boxed{}`; closing tokens and what follows them, bold, italics, code
    marks, headings and quotes go. Full-width letters and marks become plain ones, runs of white space one space or line
    end.
    """
    text = _without_thinking(reply)
    start = _START.match(text)
    text = _END.split(text[start.end() :] if start else text, maxsplit=1)[0]
    tagged = list(_TAGGED.finditer(text))
    if tagged:
        text = _TAG_END.split(text[tagged[-1].end() :], maxsplit=1)[0]
    text = unicodedata.normalize("NFKC", text).translate(_STRAIGHT)
    boxed = _last_boxed(text)
    text = text if boxed is None else boxed
    while _TEX.search(text):
        text = _TEX.sub(r"\1", text)
    text = text.replace("$", "") if boxed is not None or re.fullmatch(r"\s*\$[^$]*\$\W*", text) else text
    text = _MARKUP.sub("", text).strip().strip("\"'").strip()
    return _LINES.sub("\n", _BLANKS.sub(" ", text))


def _without_thinking(reply: str) -> str:
    closings = list(_CLOSING.finditer(reply))
    text = reply[closings[-1].end() :] if closings else reply
    opening = _OPENING.search(text)
    return text if opening is None else text[: opening.start()]


def _last_boxed(text: str) -> str | None:
    """Return what stands in the last `\\boxed{...}`, whose braces may nest; None if there is none that closes."""
    for found in reversed(list(re.finditer(r"\\f?boxed\s*\{", text))[-_MOST_BOXES:]):
        depth = 1
        for position in range(found.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[found.end() : position]
    return None
