"""What a Gemma was trained under, by the version that wrote its configuration."""

import pytest
from packaging.version import Version

from olivine.conversion.gemma_time import activation, image_scale

EXACT, TANH = "gelu", "gelu_pytorch_tanh"


@pytest.mark.parametrize(
    ("version", "text", "expected", "sure"),
    [
        ("4.38.2", {"hidden_act": "gelu"}, EXACT, True),
        ("4.39.0.dev0", {"hidden_act": "gelu"}, EXACT, True),  # Intel's own
        ("4.39.0", {"hidden_act": "gelu"}, TANH, True),
        ("4.41.2", {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu"}, EXACT, True),
        ("4.45.2", {"hidden_act": "gelu", "hidden_activation": None}, TANH, True),
        ("4.48.0", {"hidden_act": "gelu"}, TANH, False),
        ("4.57.1", {"hidden_act": "gelu"}, EXACT, True),
        ("5.3.0", {"hidden_act": "gelu"}, TANH, True),
        ("5.23.0", {"hidden_act": "gelu_python"}, EXACT, True),
        (None, {"hidden_act": "gelu"}, EXACT, False),
    ],
)
def test_activation(version, text, expected, sure):
    assert activation(text, version and Version(version)) == (expected, sure)


@pytest.mark.parametrize(("version", "expected"), [("5.3.0", "sqrt-hidden"), ("5.4.0", "one"), ("5.23.0", "one")])
def test_image_scale(version, expected):
    assert image_scale(Version(version), None, "FOLDER") == expected
    assert image_scale(Version(version), "one", "FOLDER") == "one"
