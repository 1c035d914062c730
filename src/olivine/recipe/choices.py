"""Values that fields of several sections may have."""

from typing import Any, Literal

ModuleName = Literal["vision", "connector", "language"]
ImageFit = Literal["pad", "crop", "squash", "letterbox"]
Resample = Literal["bicubic", "bilinear"]
Registers = Literal["keep", "drop"]
#: Templates that a stage may name; the tokenizer's own ("chat") can only be set for the model.
StageTemplateName = Literal["gemma", "vicuna", "llava-v1", "plain", "chatml", "llama3", "phi3", "prismatic-base"]
TemplateName = Literal[StageTemplateName, "chat"]
OnError = Literal["stop", "skip"]
LossWeights = Literal["token", "sample", "sqrt"]
#: A local folder, a hub id, or a `transformers` configuration (with `model_type`) for a random start.
Source = str | dict[str, Any]
