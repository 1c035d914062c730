"""DINOv2 with registers (arXiv:2309.16588): a class token, then registers, then patches.

If the language model does not get the registers, the tower is wrapped: `joined`.
"""

from typing import Any

from olivine.model.towers.dinov2 import Dinov2


class Dinov2WithRegisters(Dinov2):
    """DINOv2 with four registers, as published."""

    model_type = "dinov2_with_registers"
    tiny = {**Dinov2.tiny, "model_type": "dinov2_with_registers", "num_register_tokens": 4}  # noqa: RUF012

    def registers(self, config: Any) -> int:
        """Return the configuration's number of registers."""
        count: int = config.num_register_tokens
        return count
