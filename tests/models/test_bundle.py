from __future__ import annotations

import os
import zlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_profiles.errors import PeerError, UserError
from models.bundle import MAX_ARTIFACT_BYTES, MAX_BYTES, Bundle, TrainingSettings, decode, digest, encode
from models.gradients.artifacts import Artifacts
from models.graph import ModelGraph, Node, validate
from models.losses import LossSettings
from models.optim.settings import OptimizerSettings
from models.subnet_settings import SubnetSettings
from models.table import uniform_table
from models.widths import plan_widths

ARTIFACTS = Artifacts(training=b"train" * 1000, evaluation=b"evaluate" * 100, loss=b"")


def small_bundle(learning_rate=0.05, artifacts=ARTIFACTS):
    attributes = {
        "kernel_shape": (3, 3),
        "strides": (1, 1),
        "pads": (1, 1, 1, 1),
        "dilations": (1, 1),
        "group": 1,
    }
    nodes = (
        Node("Conv", ("x", "a.weight"), "a", attributes),
        Node("Relu", ("a",), "b", {}),
        Node("GlobalAveragePool", ("b",), "d", {}),
        Node("Flatten", ("d",), "e", {}),
        Node("Gemm", ("e", "f.weight"), "y", {}),
    )
    parameters = {"a.weight": (4, 1, 3, 3), "f.weight": (3, 4)}
    graph = validate(ModelGraph("small", "x", (1, 5, 5), "y", nodes, parameters, {}, {}, {}))
    plan = plan_widths(graph)
    return Bundle(
        graph=graph,
        plan=plan,
        table=uniform_table(graph, plan, 32, (0.5,)),
        settings=TrainingSettings(optimizer=OptimizerSettings(learning_rate=learning_rate)),
        artifacts=artifacts,
    )


def changed(*path, value):
    """A good bundle with one value changed."""
    raw = msgspec.msgpack.decode(encode(small_bundle()))
    place = raw
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return msgspec.msgpack.encode(raw)


def test_a_bundle_reads_back_as_it_was_written():
    assert decode(encode(small_bundle())) == small_bundle()


def test_a_bundle_may_come_without_artifacts():
    bundle = small_bundle(artifacts=None)
    assert decode(encode(bundle)) == bundle


def test_artifacts_travel_compressed():
    num_bytes = sum(len(getattr(ARTIFACTS, name)) for name in Artifacts.__struct_fields__)
    assert len(encode(small_bundle())) < len(encode(small_bundle(artifacts=None))) + num_bytes / 10


def test_artifacts_no_device_would_read_are_refused_where_the_bundle_is_made():
    endless = Artifacts(training=bytes(MAX_ARTIFACT_BYTES + 1), evaluation=b"", loss=b"")
    with pytest.raises(UserError, match=f"training graph of model .* has {MAX_ARTIFACT_BYTES + 1} bytes"):
        encode(small_bundle(artifacts=endless))


def test_a_bundle_of_the_version_before_artifacts_is_refused_with_what_to_do():
    with pytest.raises(PeerError, match="run the same edgetide version"):
        decode(changed("schema", value=1))


def test_a_bundle_carries_its_loss():
    loss = LossSettings(name="distillation", temperature=2.5, label_weight=0.0)
    training = msgspec.structs.replace(small_bundle().settings, loss=loss)
    bundle = msgspec.structs.replace(small_bundle(), settings=training)
    assert decode(encode(bundle)).settings.loss == loss


def test_a_bundle_carries_its_method():
    subnets = SubnetSettings(choice="per-order", draw="rolling", ceilings=((3, 0.5),))
    training = msgspec.structs.replace(small_bundle().settings, subnets=subnets)
    bundle = msgspec.structs.replace(small_bundle(), settings=training)
    assert decode(encode(bundle)).settings.subnets == subnets


def test_a_bundle_that_masks_classes_in_a_network_without_a_last_gemm_is_refused():
    graph = small_bundle().graph
    pooled = validate(
        msgspec.structs.replace(
            graph, output_name="z", nodes=(*graph.nodes, Node("Relu", ("y",), "z", {})), shapes={}
        )
    )
    plan = plan_widths(pooled)
    bundle = Bundle(
        graph=pooled,
        plan=plan,
        table=uniform_table(pooled, plan, 32, (0.5,)),
        settings=TrainingSettings(subnets=SubnetSettings(mask_absent_classes=True)),
    )
    with pytest.raises(PeerError, match="ends in Relu"):
        decode(encode(bundle))


def test_equal_bundles_have_equal_digests_and_others_have_not():
    assert digest(small_bundle()) == digest(decode(encode(small_bundle())))
    assert digest(small_bundle()) != digest(small_bundle(learning_rate=0.1))


def test_what_a_newer_peer_adds_is_ignored():
    assert decode(changed("news", value=1)) == small_bundle()


HOSTILE = {
    "another schema": (("schema",), 99, "schema 99, this version reads 5"),
    "an unknown operator": (("graph", "nodes", 1, "op"), "Exec", "graph is refused: .*Exec"),
    "a width plan of another graph": (
        ("plan", "groups", 0, "num_channels"),
        5,
        "width plan is not that of its graph",
    ),
    "no plan": (("plan",), None, "not readable"),
    "a table of another graph": (("table", "graph_digest"), "b" * 64, "table is refused: .*another network"),
    "a vector too wide": (("table", "entries", 0, "vector"), [5], "keeps 5 channels of 4"),
    "a table without entries": (("table", "entries"), [], "not readable"),
    "artifacts that are not compressed": (
        ("artifacts", "training"),
        b"onnx",
        "training graph is not readable",
    ),
    "artifacts that are cut off": (
        ("artifacts", "evaluation"),
        zlib.compress(os.urandom(500))[:-9],
        "evaluation graph is cut off",
    ),
    "artifacts with something behind": (
        ("artifacts", "loss"),
        zlib.compress(b"a") + b"b",
        "something follows",
    ),
    "artifacts that are a bomb": (
        ("artifacts", "loss"),
        zlib.compress(bytes(MAX_ARTIFACT_BYTES + 1), 9),
        f"loss graph has over {MAX_ARTIFACT_BYTES} bytes",
    ),
    "artifacts that are a text": (("artifacts",), "onnx", "not readable"),
    "an unknown loss": (("settings", "loss", "name"), "hinge", "wants the loss 'hinge'"),
    "a loss as a mere name": (("settings", "loss"), "cross-entropy", "not readable"),
    "no temperature": (("settings", "loss", "temperature"), 0.0, "not readable"),
    "a temperature that is no number": (("settings", "loss", "temperature"), float("nan"), "not readable"),
    "an endless weight": (("settings", "loss", "feature_weight"), float("inf"), "not readable"),
    "an unknown setting of the loss": (("settings", "loss", "alpha"), 0.1, "not readable"),
    "an empty mini-batch": (("settings", "batch_size"), 0, "not readable"),
    "a learning rate that is no number": (
        ("settings", "optimizer", "learning_rate"),
        float("nan"),
        "not readable",
    ),
    "an unknown way to choose": (("settings", "subnets", "choice"), "best", "not readable"),
    "an unknown setting of the method": (("settings", "subnets", "rate"), 0.5, "not readable"),
    "self-distillation without a teacher": (
        ("settings", "subnets", "self_distillation"),
        0.5,
        "loss 'cross-entropy', which asks no teacher",
    ),
    "an unknown setting of the optimiser": (("settings", "optimizer", "lr"), 0.1, "not readable"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_bundle_is_refused(case):
    path, value, message = HOSTILE[case]
    with pytest.raises(PeerError, match=message):
        decode(changed(*path, value=value))


def test_a_bundle_that_is_too_large_is_refused_unread():
    with pytest.raises(PeerError, match="is the limit"):
        decode(b"\0" * (MAX_BYTES + 1))


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_a_mutated_bundle_is_refused_or_valid(data):
    mutated = bytearray(encode(small_bundle()))
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        mutated = mutated[: data.draw(st.integers(0, len(mutated)))]
    try:
        found = decode(bytes(mutated))
    except PeerError:
        return
    assert decode(encode(found)) == found
