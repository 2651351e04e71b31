"""Names of a training or evaluation graph's inputs and outputs; no model's own name has an "@"."""

from __future__ import annotations

LOSS = "@loss"
LOGITS = "@logits"
FEATURES = "@features"


def gradient_name(parameter: str) -> str:
    """The output that holds a parameter's gradient."""
    return f"@gradient/{parameter}"


def target_name(target: str) -> str:
    """The input that takes a target array."""
    return f"@{target}"
