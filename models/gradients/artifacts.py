"""What a device gets to train with an ONNX runtime: graphs made ahead, so that it needs no ONNX package."""

from __future__ import annotations

import msgspec


class Artifacts(msgspec.Struct, frozen=True, kw_only=True):
    """ONNX files of one graph and one loss (opset 17, IR version 8).

    Their inputs are the graph's own input, every parameter under its own name with dynamic dimensions, and
    the targets as "@labels", "@values", "@teacher_logits", "@teacher_features".

    Attributes:
        training: gives "@loss" (scalar), "@gradient/<parameter>", and the statistics under their names.
        evaluation: takes the statistics too and no targets; gives "@logits" and "@features".
        loss: forward pass and loss without gradients; gives "@loss" and the statistics under their names.
            In the form that onnxruntime-training derives gradients from (`models.gradients.loss_graph`).
    """

    training: bytes
    evaluation: bytes
    loss: bytes
