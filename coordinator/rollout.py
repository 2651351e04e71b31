"""A policy, table or model file on its way to the running devices."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import safetensors.numpy

from coordinator.control import Request
from coordinator.node import CoordinatorNode
from coordinator.settings import Learning
from firmware_profiles.errors import EdgetideError, UserError
from firmware_profiles.policy import parse_policy
from models.bundle import encode as encode_bundle
from models.graph import digest as graph_digest
from models.table import dump_table, parse_table
from models.weights import check_against, check_finite

log = logging.getLogger(__name__)

MAX_BYTES = 512 * 2**20


def read_rollout(path: Path) -> Request:
    """Read a file and tell its kind: model (.safetensors), table or policy (YAML).

    Raises:
        UserError: it cannot be read, or is neither.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} has over {MAX_BYTES >> 20} MiB: that is no policy, table or model")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if path.suffix == ".safetensors":
        return Request("model", content)
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"{path}: roll out a policy or table (.yaml) or a model (.safetensors)")
    return Request("table" if b"edgetide-table/" in content else "policy", content)


def roll_out(node: CoordinatorNode, learning: Learning, request: Request) -> str:
    """Check content and hand it to the core; returns what was done, in words.

    Raises:
        EdgetideError: it does not fit; nothing was changed.
    """
    core = node.core
    graph, plan = learning.bundle.graph, learning.bundle.plan
    online = sum(device.online for device in core.devices.values())
    if request.kind == "policy":
        parse_policy(request.content.decode("utf-8", "replace"), "policy")
        node.perform(core.on_policy_rollout(node.blobs.put(request.content)))
        return f"policy sent to {online} devices; it takes effect at the next mini-batch"
    if request.kind == "table":
        table = parse_table(request.content, graph_digest(graph), plan)
        bundle = msgspec.structs.replace(core.bundle, table=table)
        # As `dump_table` writes it, so that its digest is the one that `edgetide dse show` tells.
        refs = node.blobs.put(encode_bundle(bundle)), node.blobs.put(dump_table(table).encode())
        node.perform(core.on_table_rollout(bundle, *refs))
        return (
            f"table of {len(table.entries)} vectors sent to {online} devices; it takes effect at the next "
            f"mini-batch (digest {refs[1].digest[:12]})"
        )
    if request.kind == "model":
        if learning.method.peers is not None:
            raise UserError(
                f"devices of strategy {learning.config.strategy} go on from weights of their own, whatever "
                "model the coordinator has: begin a new run to train another one"
            )
        try:
            weights = {name: value.copy() for name, value in safetensors.numpy.load(request.content).items()}
        except Exception as error:
            raise UserError(f"the model is not a readable safetensors file: {error}") from error
        weights = {name: value for name, value in weights.items() if name in graph.parameters}
        check_against(weights, graph.parameters)
        check_finite(weights)
        node.perform(core.on_model_rollout(weights))
        return f"model put in force as version {core.version}; {online} devices begin the round anew with it"
    raise UserError(f"{request.kind!r} cannot be rolled out: policy, table and model can")


def keep(state: Path, run: str, request: Request) -> None:
    """Remember a policy or table that is in force; a model is a version, which the database remembers."""
    if request.kind in ("policy", "table"):
        path = _kept_path(state, run, request.kind)
        unfinished = path.with_suffix(".unfinished")
        try:
            unfinished.write_bytes(request.content)
            unfinished.replace(path)
        except OSError as error:
            log.warning(
                "%s in force but lost at a restart: %s cannot be written: %s", request.kind, path, error
            )


def restore(state: Path, run: str, node: CoordinatorNode, learning: Learning) -> None:
    """Put what was rolled out in this run before a restart in force again."""
    for kind in ("table", "policy"):
        path = _kept_path(state, run, kind)
        try:
            if path.exists():
                roll_out(node, learning, Request(kind, path.read_bytes()))
        except (OSError, EdgetideError) as error:
            log.warning("%s rolled out before is left out: %s", path, error)


def _kept_path(state: Path, run: str, kind: str) -> Path:
    return state / f"{run}-{kind}.yaml"
