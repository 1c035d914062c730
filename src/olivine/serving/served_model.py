"""A model that is being served: its name, its prompts, its images, and the answers that it is writing.

Loading it is in `loading`; when it runs is decided in `worker`.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from olivine.data.encoding import TemplateEncoder
from olivine.data.image_files import decode_image, open_header
from olivine.errors import DataError
from olivine.evaluation.budgets import budgets
from olivine.model.vlm import VisionLanguageModel
from olivine.records import Conversation
from olivine.serving.batch import RunningBatch
from olivine.serving.bounded_cache import BoundedCache
from olivine.serving.limits import Limits
from olivine.serving.prefill import Prefiller, Prompt, PromptImage
from olivine.serving.problems import ApiError, invalid


@dataclass(slots=True, eq=False)
class ServedModel:
    """A model with all that serving it takes.

    Attributes:
        name: how requests name it.
        vlm: the model, in evaluation mode.
        limits: those of the server.
        created: when it was loaded, in seconds since 1970.
    """

    name: str
    vlm: VisionLanguageModel
    limits: Limits
    created: int = field(default_factory=lambda: int(time.time()))
    prefiller: Prefiller = field(init=False)
    batch: RunningBatch = field(init=False)
    stop_ids: frozenset[int] = field(init=False)
    #: Tokens in the cache at once, and tokens run at once before the first token of an answer.
    budgets: tuple[int, int] = field(init=False)
    _encoder: TemplateEncoder = field(init=False)
    _pixels: BoundedCache[NDArray[np.uint8]] = field(init=False)
    _lock: Lock = field(init=False, default_factory=Lock)

    def __post_init__(self) -> None:
        self.prefiller = Prefiller(self.vlm, self.limits.cache_bytes * 3 // 4)
        self.batch = RunningBatch(self.vlm)
        self._encoder = self.vlm.encoder()
        self.stop_ids = frozenset(self.vlm.stop_ids(self._encoder))
        self.budgets = budgets(self.vlm)
        # Fitted images, so that one is not decoded for every question about it.
        self._pixels = BoundedCache(self.limits.cache_bytes // 4)

    @property
    def context(self) -> int:
        """The most tokens of a prompt with its answer."""
        most = int(self.vlm.language.config.max_position_embeddings)
        longest = self.vlm.traits.longest
        return most if longest is None else min(most, longest)

    def image(self, content: bytes, where: str) -> PromptImage:
        """Return an image file as the tower sees it.

        Raises:
            ApiError: it cannot be decoded (400) or has too many pixels (422).
        """
        digest = hashlib.sha256(content).hexdigest()
        pixels = self._pixels.get(digest)
        if pixels is None:
            try:
                width, height = open_header(content, where).size
                if width * height > self.limits.image_pixels:
                    raise ApiError(
                        422,
                        "image_too_large",
                        f"image {where}: {width}x{height} pixels; at most {self.limits.image_pixels:,} are accepted. "
                        "Scale it down.",
                        param=where,
                    )
                pixels = self.vlm.transform.fitted_pixels(decode_image(content, where))
            except DataError as error:
                raise invalid(str(error), where, "invalid_image") from None
            self._pixels.put(digest, pixels, pixels.nbytes)
        return PromptImage(digest, pixels)

    def prompt(self, conversation: Conversation, images: Sequence[PromptImage], *, in_front: bool) -> Prompt:
        """Return a conversation up to where the model's reply begins.

        Args:
            conversation: ends with a user's turn.
            images: in the order of their positions.
            in_front: whether the only image precedes the first user's turn instead of standing in one.

        Raises:
            ApiError: the model's template has no place for a turn, or the prompt is too long (400).
        """
        try:
            with self._lock:  # an own template keeps what it has cut
                ids = tuple(self._encoder.conversation(conversation, in_front).ids)
        except DataError as error:
            raise invalid(f"messages: {error}", "messages", "unsupported_conversation") from None
        if len(ids) >= self.context:
            raise invalid(
                f"messages: {len(ids):,} tokens; this model's context is {self.context:,}, the answer included. "
                "Shorten the conversation.",
                "messages",
                "context_length_exceeded",
            )
        token = self._encoder.image_token_id
        prefix = max((at + 1 for at, one in enumerate(ids) if one == token), default=0) if images else 0
        return Prompt(ids, tuple(images), prefix)
