"""A vision-language model with everything needed to use it: tokenizer, image transform, template; and how it is run.

Building one from a recipe is in `build`, saving and loading in `checkpoint`.
"""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from olivine.data.encoding import TemplateEncoder
from olivine.data.images import ImageTransform
from olivine.data.packing import PackedSequence
from olivine.data.pieces import ChatTemplate
from olivine.errors import RunError
from olivine.model.encoders import chat_template, template_encoder
from olivine.model.languages.traits import LanguageTraits, language_traits
from olivine.model.packed_masks import PackedMasks
from olivine.model.pixels import normalise_on
from olivine.model.tower_layers import hidden_state, hidden_states
from olivine.recipe import ModuleName


@dataclass(slots=True)
class VisionLanguageModel:
    """A `LlavaForConditionalGeneration` and its companions.

    Image features are `hidden_states[layer]` of the tower without the class token, through the connector, and enter
    the language model unscaled. Gemma multiplies its *token* embeddings by sqrt(hidden) and image features by
    nothing: the convention of transformers 5.4 and later, which the saved checkpoint therefore keeps to.
    (transformers before 5.4, under which LLaVA-Gemma was trained, scaled both.)
    """

    model: Any
    tokenizer: Any
    transform: ImageTransform
    template: str
    image_tokens: int

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.model.parameters()).device

    @property
    def connector(self) -> nn.Module:
        """The connector (LLaVA's projector)."""
        connector: nn.Module = self.model.model.multi_modal_projector
        return connector

    @property
    def tower(self) -> nn.Module:
        """The vision tower."""
        tower: nn.Module = self.model.model.vision_tower
        return tower

    @property
    def language(self) -> Any:
        """The language model's backbone, without its head."""
        return self.model.model.language_model

    @property
    def layers(self) -> list[nn.Module]:
        """The language model's blocks, in order."""
        return list(self.language.layers)

    def checkpoint_activations(self, parts: Sequence[ModuleName]) -> None:
        """Keep only each block's input for the backward pass, in the language model and, if it trains, the tower.

        transformers checks a block's own `training` flag for this. Only that flag is set, not those of its submodules:
        dropout, if there is any, stays unchanged.
        """
        options = {"use_reentrant": False}
        _enable_checkpointing(self.language, options)
        blocks = self.layers
        if "vision" in parts:
            _enable_checkpointing(self.tower, options)
            blocks += [block for block in self.tower.modules() if hasattr(block, "gradient_checkpointing")]
        for block in blocks:
            block.training = True

    def part(self, name: ModuleName) -> dict[str, nn.Parameter]:
        """Return the parameters of one module by their names in the whole model; a tied head counts once."""
        if name == "language":
            selected: tuple[str, ...] = ("model.language_model.", "lm_head.")
        else:
            selected = ({"vision": "model.vision_tower.", "connector": "model.multi_modal_projector."}[name],)
        return {n: p for n, p in self.model.named_parameters() if n.startswith(selected)}

    def cast(self, dtype: torch.dtype, parts: Sequence[ModuleName] = ("vision", "connector", "language")) -> None:
        """Cast the weights of modules to another dtype, and nothing else."""
        for name in parts:
            cast(self.part(name).values(), dtype)

    def chat_template(self, name: str | None = None) -> ChatTemplate:
        """Return the model's chat template, or a named one.

        Raises:
            RequestError: the tokenizer's own is requested, and it has none that can be trained on.
        """
        return chat_template(self.tokenizer, name or self.template)

    def encoder(self, template: str | None = None) -> TemplateEncoder:
        """Return an encoder that tokenises conversations for this model, in its own template or a named one.

        The template's markers are special tokens of the model's tokenizer from then on.

        Raises:
            RequestError: the tokenizer cannot write the template.
        """
        chosen, image_token_id = self.chat_template(template), self.model.config.image_token_id
        return template_encoder(chosen, self.tokenizer, image_token_id=image_token_id, image_tokens=self.image_tokens)

    def stop_ids(self, encoder: TemplateEncoder) -> tuple[int, ...]:
        """Return every token that ends a reply: the template's, the tokenizer's and the generation settings'."""
        return tuple(sorted({*encoder.stop_ids, *stop_ids_of(self.model.generation_config)}))

    @property
    def traits(self) -> LanguageTraits:
        """What is particular in the language model's attention and head."""
        return language_traits(self.language.config)

    def check_length(self, tokens: int) -> None:
        """Refuse a sample longer than the range in which the language model's rotary frequencies are constant.

        Raises:
            RunError: it is too long.
        """
        longest = self.traits.longest
        if longest is not None and tokens > longest:
            raise RunError(
                f"a sample has {tokens:,} tokens, but this {self.language.config.model_type} changes its rotary "
                f"frequencies beyond {longest:,} (longrope), which packed sequences cannot do. Set max_length to "
                f"{longest} at most."
            )

    def patch_features(self, pixels: Tensor) -> Tensor:
        """Return the tower's patch features `[images, patches, tower width]` of images `[images, 3, size, size]`.

        Images are cast to the tower's dtype; gradients flow if the tower's weights take any. Fitted images that are not
        yet normalised, `[images, size, size, 3]` uint8, are sent as bytes and normalised on the tower's device.
        """
        if pixels.dtype == torch.uint8:
            first = next(self.tower.parameters())
            pixels = normalise_on(pixels, self.transform, first.device, first.dtype)
        config = self.model.config
        return patch_features(
            self.tower, config.vision_feature_layer, pixels, strategy=config.vision_feature_select_strategy
        )

    def project(self, patches: Tensor) -> Tensor:
        """Return `[images, patches, tower width]` mapped through the connector, `[images, patches, hidden]`."""
        dtype = next(self.connector.parameters()).dtype
        projected: Tensor = self.connector(patches.to(dtype))
        return projected

    def embed(self, ids: Tensor, features: Tensor | None, token_positions: Tensor | None = None) -> Tensor:
        """Return token embeddings with image features at the placeholders' positions.

        Args:
            ids: `[batch, tokens]` int64.
            features: `[images, patches, hidden]`, in the order of their placeholders; None without images.
            token_positions: `[images * patches]` int64, the placeholders' indices among all `batch * tokens`, if known;
                None looks for them.

        Returns:
            `[batch, tokens, hidden]`.

        Raises:
            RunError: the numbers of features and placeholders differ.
        """
        embeddings: Tensor = self.model.get_input_embeddings()(ids)
        if features is None:
            return embeddings
        if token_positions is not None:
            rows = features.flatten(0, 1).to(embeddings.dtype)
            _check_as_many(len(rows), len(token_positions))
            return embeddings.flatten(0, 1).index_copy(0, token_positions, rows).view_as(embeddings)
        placeholders = ids == self.model.config.image_token_id
        _check_as_many(features.shape[0] * features.shape[1], int(placeholders.sum()))
        masked = placeholders.unsqueeze(-1).expand_as(embeddings)
        return embeddings.masked_scatter(masked, features.to(embeddings.dtype))

    def hidden_states(self, sequence: PackedSequence, features: Tensor | None) -> Tensor:
        """Run one packed sequence; call inside `attention.packed(vlm.language)`.

        Args:
            sequence: on the model's device.
            features: `[images, patches, hidden]` in the order of the sequence's placeholders; None without images.

        Returns:
            `[tokens, hidden]` before the head.
        """
        return self.run(sequence, self.embed(sequence.ids[None], features, sequence.image_positions))

    def run(self, sequence: PackedSequence, embedded: Tensor) -> Tensor:
        """Return `hidden_states` from `[1, tokens, hidden]`, which `embed` made of the sequence's ids and images."""
        traits = self.traits
        self.check_length(sequence.spans.longest_key)
        # A kernel without padding needs no masks, and a compiled block must not get objects that it does not use.
        windowed = traits.masked(bool(sequence.groups))
        outputs = self.language(
            inputs_embeds=embedded,
            position_ids=sequence.positions[None],
            attention_mask=None,
            use_cache=False,
            packed_groups=sequence.groups,
            packed_spans=sequence.spans,
            **({"packed_masks": PackedMasks(sequence.positions)} if windowed else {}),
        )
        states: Tensor = outputs.last_hidden_state
        return states[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the head's logits `[..., vocabulary]` of `[..., hidden]`, as plain transformers' LLaVA computes them.

        Gemma 2's final cap is not applied: it keeps their order, and the saved model has none.
        """
        scores: Tensor = self.model.lm_head(hidden)
        return scores

    def decode(self, ids: Sequence[int]) -> str:
        """Return token ids as text, without special tokens."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


def patch_features(tower: Any, layer: int | Sequence[int], pixels: Tensor, *, strategy: str = "default") -> Tensor:
    """Return the hidden states of a tower that the connector gets: `[images, tokens, width]`.

    Args:
        layer: which hidden states; those of several layers are joined channel by channel.
        pixels: `[images, 3, size, size]`, cast to the tower's dtype and sent to its device.
        strategy: "default" drops the first token, as transformers' LLaVA does; "full" none.
    """
    first = next(tower.parameters())
    sent = pixels.to(first.device, non_blocking=True).to(first.dtype)
    # Already in half precision: autocast would cast norms' weights and states back and forth in every layer.
    half_and_frozen = first.dtype != torch.float32 and not any(p.requires_grad for p in tower.parameters())
    with torch.autocast(first.device.type, enabled=False) if half_and_frozen else nullcontext():
        features = hidden_state(tower, layer, sent) if isinstance(layer, int) else hidden_states(tower, layer, sent)
    return features if strategy == "full" else features[:, 1:]


def _check_as_many(features: int, positions: int) -> None:
    """Raise unless there are as many features as positions: features would move to other images or be dropped."""
    if features != positions:
        raise RunError(
            f"{features} image features for {positions} image-token positions: the model and what made its prompts "
            "disagree on how many tokens an image takes. Use the tokenizer and processor saved with the model."
        )


def stop_ids_of(settings: Any) -> list[int]:
    """Return the tokens that end a reply by a transformers generation configuration: none, one or several."""
    ids = settings.eos_token_id
    if ids is None:
        return []
    return [int(one) for one in ids] if isinstance(ids, list | tuple) else [int(ids)]


def cast(parameters: Iterable[nn.Parameter], dtype: torch.dtype) -> None:
    """Cast weights to another dtype, and nothing else: rotary frequencies and scales must stay exact."""
    for parameter in parameters:
        parameter.data = parameter.data.to(dtype)


def _enable_checkpointing(model: Any, options: dict[str, Any]) -> None:
    """Enable checkpointing under transformers 5.23's name for it, or the earlier one."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(options)
