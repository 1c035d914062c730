"""An encoder's tokens as text, and the saved template's result in plain transformers for the same conversation."""

from itertools import groupby

from olivine.data.template import PieceKind
from olivine.records import Role


def messages_of(conversation):
    return [{"role": turn.role.value, "content": turn.text} for turn in conversation]


def jinja_text(tokenizer, jinja, conversation):
    prompt = conversation[-1].role is Role.USER
    return tokenizer.apply_chat_template(
        messages_of(conversation), chat_template=jinja, tokenize=False, add_generation_prompt=prompt
    )


def jinja_ids(tokenizer, jinja, conversation):
    """Return ids in two steps: render the text, then tokenise it."""
    return list(tokenizer(jinja_text(tokenizer, jinja, conversation)).input_ids)


def jinja_mask(tokenizer, jinja, conversation):
    """Return (ids, transformers' assistant mask), with the beginning-of-sequence token that the tokenizer would add."""
    found = tokenizer.apply_chat_template(
        messages_of(conversation),
        chat_template=jinja,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ids, mask = list(found["input_ids"]), [bool(flag) for flag in found["assistant_masks"]]
    added = tokenizer("a").input_ids[: -len(tokenizer("a", add_special_tokens=False).input_ids)]
    return [*added, *ids], [*[False] * len(added), *mask]


def token_lies_across_a_border(encoder, tokenizer, jinja, conversation):
    """Return whether the tokenizer, reading the whole text, makes a token across a reply's border.

    A marker may strip the white space after the reply that it ends.
    """
    text = jinja_text(tokenizer, jinja, conversation)
    edges, end, before = [], 0, False
    for piece in encoder.template.render(conversation, False):
        name = _name(tokenizer, piece)
        left_out = name is None or (end == 0 and name == tokenizer.bos_token and not text.startswith(name))
        if piece.kind is PieceKind.BEGINNING or left_out:
            continue
        edges += [(end, before)] if piece.supervised != before else []
        before = piece.supervised
        end += len(name)
    assert end == len(text)
    read = tokenizer(text, return_offsets_mapping=True)
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return any(
        start < edge < stop and not (closes and token in special)
        for token, (start, stop) in zip(read["input_ids"], read["offset_mapping"], strict=True)
        for edge, closes in edges
    )


def supervised_replies(tokenizer, tokens):
    """Return each supervised span as text, by the tokenizer's own decoder."""
    pairs = groupby(zip(tokens.ids, tokens.supervised, strict=True), key=lambda pair: pair[1])
    runs = [[token for token, _ in run] for flag, run in pairs if flag]
    return [tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False) for ids in runs]


def expected_replies(encoder, tokenizer, conversation):
    """Return the replies with their ends, after the tokenizer's normaliser and decoder."""
    pieces = encoder.template.render(conversation, False)
    runs = [list(run) for flag, run in groupby(pieces, key=lambda piece: piece.supervised) if flag]
    return [_written_by(tokenizer, "".join(_name(tokenizer, piece) for piece in run)) for run in runs]


def _name(tokenizer, piece):
    if piece.kind is not PieceKind.MARKER:
        return piece.text
    return {"<bos>": tokenizer.bos_token, "<eos>": tokenizer.eos_token}.get(piece.text, piece.text)


def _written_by(tokenizer, text):
    """Return a text after the tokenizer's normaliser, its metaspace, and the decoder's stripped prefix space."""
    backend = tokenizer.backend_tokenizer
    text = backend.normalizer.normalize_str(text) if backend.normalizer is not None else text
    if "▁" in "".join(tokenizer.tokenize("a b")):
        text = text.replace("▁", " ")
    return text.removeprefix(" ") if "Strip" in str(backend.decoder) else text


def spells_a_special_token(tokenizer, conversation):
    """Return whether a text spells a special token: plain transformers reads it as one, the encoder does not."""
    names = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return any(name in turn.text for turn in conversation for name in names)
