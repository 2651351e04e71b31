"""From a torch module to a ModelGraph. A user's code runs in a child process, never in ours."""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import io
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import safetensors.numpy
from safetensors import SafetensorError

from firmware_profiles.errors import PeerError, UserError
from models.graph import ModelGraph, decode, encode
from models.operators import SUGGESTIONS
from models.subnet import Array

if TYPE_CHECKING:
    import torch

CHILD_TIMEOUT_S = 300.0
_TRACED_BATCH = 2
_ROOT = Path(__file__).resolve().parent.parent

# What the exporter calls an operator that it cannot write -> the name our suggestions have.
_ATEN_NAMES = {
    "lstm": "LSTM",
    "gru": "GRU",
    "embedding": "Gather",
    "index": "Gather",
    "group_norm": "GroupNormalization",
    "layer_norm": "LayerNormalization",
}


def trace_module(
    module: torch.nn.Module, input_shape: tuple[int, ...], name: str, *, with_lines: bool = False
) -> tuple[ModelGraph, dict[str, Array]]:
    """Export a torch module and read it back as a ModelGraph.

    The module runs once, on random numbers, in training mode and as a copy: its own weights, mode and
    running statistics stay as they are. Dropout is left out. The TorchScript exporter is used because
    it keeps the names of weights and the user's lines of code, and its training mode merges no weights.

    Args:
        module: takes float32 [batch, *input_shape], gives class scores [batch, classes].
        input_shape: shape of one sample.
        name: of the model, `[a-z0-9-]{1,64}`.
        with_lines: note the user's line of code for each node, besides its module; the exporter then
            writes to the process' standard output, which is closed meanwhile: for a child process only.

    Returns:
        The validated graph; its weights and batch-norm statistics.

    Raises:
        UserError: the module does not take this input, gives out something else, or uses an operator
            outside the set.
    """
    import torch  # noqa: PLC0415 (heavy, and optional)

    from models.onnx_file import from_onnx  # noqa: PLC0415 (imports onnx, which is optional)

    if not isinstance(module, torch.nn.Module):
        raise UserError(
            f"a {type(module).__name__} is not a torch.nn.Module; give a module or what makes one"
        )
    copied = copy.deepcopy(module).cpu().float().train()
    _track_statistics(copied)
    inputs = torch.randn((_TRACED_BATCH, *input_shape), generator=torch.Generator().manual_seed(0))
    _check_output(copied, inputs)
    data = _export(copied, inputs, with_lines=with_lines)
    return from_onnx(data, name, trained=[key for key, _ in copied.named_parameters()])


def trace_reference(
    reference: str, input_shape: tuple[int, ...], name: str | None = None, timeout_s: float = CHILD_TIMEOUT_S
) -> tuple[ModelGraph, dict[str, Array]]:
    """Trace `pkg.mod:Name` or `./net.py:Name` in a child process.

    Name is a module, or something that makes one when called without arguments. What the code
    prints goes to our stderr; its result is checked as bytes of a peer are.

    Args:
        reference: where the network is, and its name.
        input_shape: shape of one sample.
        name: of the model; None makes it from the reference.
        timeout_s: seconds after which the child is ended.

    Raises:
        UserError: says what is wrong with the reference, the code or the network.
    """
    source, colon, attribute = reference.rpartition(":")
    if not (colon and source and attribute.isidentifier()):
        raise UserError(f"{reference!r} does not name a network; use pkg.mod:Name or ./net.py:Name")
    if not input_shape or min(input_shape) < 1:
        raise UserError(f"an input shape of {input_shape} is empty; use such as --input 1,28,28")
    request = {
        "source": source,
        "attribute": attribute,
        "input": input_shape,
        "name": name or slug(attribute),
    }
    with tempfile.TemporaryDirectory(prefix="edgetide-trace-") as folder:
        code = (
            "import sys; sys.path.insert(0, sys.argv[1]); from models.trace import child; child(sys.argv[2])"
        )
        Path(folder, "request.json").write_text(json.dumps(request), encoding="utf-8")
        try:
            ended = subprocess.run(
                [sys.executable, "-c", code, str(_ROOT), folder],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _has_fileno(sys.stderr) else subprocess.DEVNULL,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise UserError(
                f"tracing {reference} took over {timeout_s:.0f} s; does it train when imported?"
            ) from None
        return _answer(Path(folder), reference, ended.returncode)


def slug(name: str) -> str:
    """A class or file name as the name of a model: MyNet_2 becomes my-net-2."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-")[:64] or "model"


def child(folder: str) -> None:
    """What the child process does: read the request, run the user's code, leave graph and weights."""
    place = Path(folder)
    request = json.loads((place / "request.json").read_text(encoding="utf-8"))
    import models.onnx_file  # noqa: F401, PLC0415 (before the user's own `models` may take its name)

    try:
        module = _load(request["source"], request["attribute"])
        graph, weights = trace_module(module, tuple(request["input"]), request["name"], with_lines=True)
    except UserError as error:
        (place / "error.txt").write_text(str(error), encoding="utf-8")
        sys.exit(1)
    safetensors.numpy.save_file(weights, place / "weights.safetensors")
    (place / "graph.msgpack").write_bytes(encode(graph))


def _answer(folder: Path, reference: str, code: int) -> tuple[ModelGraph, dict[str, Array]]:
    try:
        if (folder / "error.txt").exists():
            raise UserError(f"{reference}: " + (folder / "error.txt").read_text(encoding="utf-8")[:4000])
        if code != 0:
            raise UserError(
                f"{reference} ended the process that traced it with code {code}; see what it printed above"
            )
        graph = decode((folder / "graph.msgpack").read_bytes())
        weights = safetensors.numpy.load_file(folder / "weights.safetensors")
    except (OSError, UnicodeDecodeError, SafetensorError, PeerError) as error:
        raise UserError(f"{reference} left no network behind: {error}") from None
    known = {**graph.parameters, **graph.statistics}
    for key, array in weights.items():
        if array.shape != known.get(key) or array.dtype.name != "float32":
            raise UserError(f"{reference} left a weight {key[:80]} that does not fit its graph")
    return graph, weights


def _load(source: str, attribute: str) -> torch.nn.Module:
    """Import the user's code, whose own package may be named like ours."""
    for key in [key for key in sys.modules if key.partition(".")[0] == "models"]:
        del sys.modules[key]
    try:
        code = _import_file(Path(source)) if source.endswith(".py") else _import_module(source)
    except UserError:
        raise
    except BaseException as error:
        raise UserError(
            f"importing it failed with {type(error).__name__}: {error}{_line_of(error)}"
        ) from error
    import torch  # noqa: PLC0415 (heavy, and optional; first the user's code, which may not even be there)

    if not hasattr(code, attribute):
        names = [
            key
            for key, item in vars(code).items()
            if isinstance(item, type) and issubclass(item, torch.nn.Module)
        ]
        raise UserError(
            f"{source} has no {attribute}; its networks are: {', '.join(sorted(names)) or 'none'}"
        )
    found = getattr(code, attribute)
    if not isinstance(found, torch.nn.Module):
        try:
            found = found()
        except BaseException as error:
            advice = (
                "; give a function that makes it without arguments" if isinstance(error, TypeError) else ""
            )
            raise UserError(
                f"{attribute}() failed with {type(error).__name__}: {error}{_line_of(error)}{advice}"
            ) from error
    return found


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file")
    code = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = code
    spec.loader.exec_module(code)
    return code


def _import_module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise UserError(
                f"there is no module {error.name} (looked in {Path.cwd()} and what is installed); "
                "run it from the folder that holds it, or give the path ./net.py:Name"
            ) from error
        raise


def _track_statistics(module: torch.nn.Module) -> None:
    """Batch norm without running statistics exports badly; ours are calibrated afterwards anyway."""
    import torch  # noqa: PLC0415 (heavy, and optional)

    for part in module.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm) and part.running_mean is None:  # noqa: SLF001
            part.track_running_stats = True
            part.register_buffer("running_mean", torch.zeros(part.num_features))
            part.register_buffer("running_var", torch.ones(part.num_features))
            part.register_buffer("num_batches_tracked", torch.tensor(0))


def _check_output(module: torch.nn.Module, inputs: torch.Tensor) -> None:
    import torch  # noqa: PLC0415 (heavy, and optional)

    state = copy.deepcopy(module.state_dict())
    try:
        with torch.no_grad():
            made = module(inputs)
    except Exception as error:  # whatever the user's code raises
        raise UserError(
            f"the network does not take samples of shape {tuple(inputs.shape[1:])}: "
            f"{type(error).__name__}: {error}{_line_of(error)}"
        ) from error
    finally:
        module.load_state_dict(state)
    if not isinstance(made, torch.Tensor) or made.ndim != 2 or made.shape[0] != inputs.shape[0]:
        shape = list(made.shape) if isinstance(made, torch.Tensor) else type(made).__name__
        raise UserError(
            f"the network gives out {shape} for a batch of {len(inputs)}; it must be [batch, classes]"
        )


def _export(module: torch.nn.Module, inputs: torch.Tensor, *, with_lines: bool) -> bytes:
    import torch  # noqa: PLC0415 (heavy, and optional)

    state = copy.deepcopy(module.state_dict())
    file = io.BytesIO()
    try:
        with (
            warnings.catch_warnings(),
            _quiet_loggers(),
            _silent_stdout() if with_lines else contextlib.nullcontext(),
        ):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                (inputs,),
                cast("Any", file),  # the TorchScript exporter writes to files, whatever the signature says
                dynamo=False,
                opset_version=17,
                training=torch.onnx.TrainingMode.TRAINING,
                do_constant_folding=False,
                input_names=["input"],
                output_names=["logits"],
                dynamic_axes={"input": {0: "batch"}},
                verbose=with_lines,  # puts the user's lines into the nodes
            )
    except Exception as error:  # whatever the exporter or the user's code raises
        raise UserError(_exporter_failure(error)) from error
    finally:
        module.load_state_dict(state)
    return _with_state(file.getvalue(), state)


def _with_state(data: bytes, state: dict[str, Any]) -> bytes:
    """Tracing ran the network once and so moved the running statistics; put the given ones back."""
    from models.onnx_file import replace_tensors  # noqa: PLC0415 (imports onnx, which is optional)

    moments = {
        key: value.numpy() for key, value in state.items() if key.endswith(("running_mean", "running_var"))
    }
    return replace_tensors(data, moments)


def _exporter_failure(error: Exception) -> str:
    found = re.search(r"aten::(\w+)", str(error))
    if not found:
        return f"the exporter failed with {type(error).__name__}: {str(error)[:500]}{_line_of(error)}"
    ours = _ATEN_NAMES.get(found[1], found[1].title().replace("_", ""))
    advice = SUGGESTIONS.get(ours, "`edgetide models check --help` names the operators that are")
    return f"the operator {found[1]} (torch) is not supported; {advice}"


def _line_of(error: BaseException) -> str:
    """The last line of the user's own in a traceback."""
    traceback, found = error.__traceback__, ""
    while traceback is not None:
        path = traceback.tb_frame.f_code.co_filename
        if "/torch/" not in path and "importlib" not in path and Path(path) != Path(__file__):
            found = f" ({Path(path).name}:{traceback.tb_lineno})"
        traceback = traceback.tb_next
    return found


@contextlib.contextmanager
def _quiet_loggers() -> Any:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _silent_stdout() -> Any:
    """The exporter prints from C++, so that only the descriptor itself can be turned away."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _has_fileno(stream: Any) -> bool:
    try:
        stream.fileno()
    except (AttributeError, OSError, ValueError):
        return False
    return True
