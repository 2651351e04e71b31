"""Networks of the zoo as a device gets them: for a board that has no package onnx and no coordinator yet.

They lie here as `<name>.bundle`; `python -m models.zoo.ship` writes them anew.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from models.bundle import Bundle, TrainingSettings, decode, encode
from models.zoo import FOLDER, load_model, shipped_table

SHIPPED_BUNDLES = ("cnn-28",)


def shipped_bundle(name: str) -> Bundle | None:
    """The network with its training graph and its table; None if it does not ship as a bundle."""
    if name not in SHIPPED_BUNDLES:
        return None
    bundle = decode(_path(name).read_bytes())
    table = shipped_table(name)
    return bundle if table is None else msgspec.structs.replace(bundle, table=table)


def write_bundles() -> None:
    """Write the files; it needs the package onnx."""
    from models.gradients.build import build_artifacts  # noqa: PLC0415 (imports onnx, which is optional)
    from models.table import uniform_table  # noqa: PLC0415 (only where files are written)
    from models.widths import plan_widths  # noqa: PLC0415 (as above)

    settings = TrainingSettings()
    for name in SHIPPED_BUNDLES:
        graph, _ = load_model(name)
        plan = plan_widths(graph)
        bundle = Bundle(
            graph=graph,
            plan=plan,
            table=uniform_table(graph, plan, settings.batch_size, (1.0,)),
            settings=settings,
            artifacts=build_artifacts(graph, settings.loss),
        )
        _path(name).write_bytes(encode(bundle))


def _path(name: str) -> Path:
    return FOLDER / f"{name}.bundle"
