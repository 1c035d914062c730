"""Small byte-level tokenizers in the manner of Qwen, Llama 3 and Phi-3, with markers and a chat template of their own.

Those in Gemma's and Llama 2's manner are in the package itself.
"""

from typing import Any, Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

#: GPT-4's splitting, which Qwen and Llama 3 take with small changes.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_MARKERS = {
    "chatml": ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    "llama3": ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "phi3": ("<s>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|endoftext|>"),
}
_WORDS = ("user\n", "assistant\n", "system\n", "what color is the red shape?", "is there a circle in the image?\n\n")
#: Written for these tests, as short as the family's markers allow; the third trims, as Gemma's and Llama 3's do.
_TEMPLATES = {
    "chatml": (
        "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
        "{% if message.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{{ message.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{% endif %}\n"
    ),
    "llama3": (
        "{{ bos_token }}{% for message in messages %}"
        "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim + '<|eot_id|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "phi3": (
        "{% for message in messages %}{{ '<|' + message.role + '|>\n' }}{% generation %}{{ message.content }}"
        "{% endgeneration %}{{ '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
}


def chat_tokenizer(kind: Literal["chatml", "llama3", "phi3"]) -> Any:
    """Return a small byte-level tokenizer.

    "chatml" has no beginning of sequence and normalises to NFC, as Qwen's; "llama3" adds one; the markers of "phi3"
    take the white space behind them away.
    """
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    if kind == "chatml":
        inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=512, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator(list(_WORDS) * 9, trainer)
    markers = _MARKERS[kind]
    inner.add_special_tokens([AddedToken(name, special=True, rstrip=kind == "phi3") for name in markers])
    first = markers[0]
    if kind == "llama3":
        inner.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, inner.token_to_id(first))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=first if kind != "chatml" else None,
        eos_token={"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "phi3": "<|endoftext|>"}[kind],
        chat_template=_TEMPLATES[kind],
    )
