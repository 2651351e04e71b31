"""What the documents say of keys, messages, limits and files is compared with the code.

A table below `<!-- struct: module.Name -->` lists the keys of a msgspec struct in their order, with type
and default as `row` writes them; one below `<!-- constants: module -->` lists values. Where a test
fails, it prints the row as it ought to be.
"""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import msgspec
import pytest
from msgspec import inspect

from coordinator.broker_access import READ, WRITE, mosquitto_rules
from coordinator.dashboard import metrics
from coordinator.strategies.names import STRATEGIES
from coordinator.twins import comparison, faults, groups, scenario, trace_kinds
from device_agent.wire import messages
from models.engines.choose import ENGINE_NAMES
from models.graph import OPERATORS
from models.losses import LOSSES
from models.zoo import ZOO

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
TEXTS = {path.name: path.read_text("utf-8") for path in DOCUMENTS}

KNOWN_PATTERNS = {
    r"^[a-z0-9-]{1,64}\Z": "id",
    r"^[a-z0-9-]{1,64}$": "id",
    r"^[0-9a-f]{64}\Z": "SHA-256 in hex",
    r"^[0-9a-f]{64}$": "SHA-256 in hex",
}

TRACES = {"Steps", "Ramp", "Walk", "Csv", "Vm", "Availability"}
"""A quantity over time in a scenario; any of these, a number, true or false, or null."""

FILES_OF_PEOPLE = {
    "firmware_profiles.policy.Policy",
    "firmware_profiles.profile.CoreWatts",
    "firmware_profiles.profile.FirmwareProfile",
    "firmware_profiles.profile.Source",
    "firmware_profiles.profile.Speed",
    "models.optim.settings.OptimizerSettings",
    "models.table.ParetoTable",
    "models.table.TableEntry",
}


def structs_of(module):
    """Names of the public msgspec structs that a module defines."""
    return {
        f"{module.__name__}.{name}"
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, msgspec.Struct)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }


MUST_BE_DOCUMENTED = FILES_OF_PEOPLE | set().union(
    *map(structs_of, (messages, scenario, groups, comparison, faults, trace_kinds))
)


# ---------------------------------------------------------------- a key as a table's row


def number(value):
    """A limit: 2^53 rather than 9007199254740992, 10^9 rather than 1000000000."""
    whole = int(abs(value))
    sign = "-" if value < 0 else ""
    if whole < 10**6:
        return f"{value:g}"
    if whole == 10 ** (len(str(whole)) - 1):
        return f"{sign}10^{len(str(whole)) - 1}"
    bits = whole.bit_length()
    return f"{sign}2^{bits} - 1" if whole == 2**bits - 1 else f"{sign}2^{bits - 1}"


def limits(kind):
    low = (
        number(kind.ge) if kind.ge is not None else f"above {number(kind.gt)}" if kind.gt is not None else ""
    )
    high = (
        f" to {number(kind.le)}"
        if kind.le is not None
        else f" to below {number(kind.lt)}"
        if kind.lt is not None
        else ""
    )
    return f" {low}{high}" if low or high else ""


def length(kind):
    if kind.max_length is None:
        return ""
    return f" of {kind.min_length or 0} to {number(kind.max_length)}"


def text_of(kind):
    return KNOWN_PATTERNS.get(kind.pattern or "") or f"text{length(kind)}"


def any_of(kind):
    parts = [describe(part) for part in kind.types]
    return "trace" if set(parts) >= TRACES else " or ".join(sorted(parts, key=lambda part: part == "null"))


DESCRIBE = {
    inspect.Metadata: lambda kind: (kind.extra_json_schema or {}).get("description") or describe(kind.type),
    inspect.UnionType: any_of,
    inspect.IntType: lambda kind: f"integer{limits(kind)}",
    inspect.FloatType: lambda kind: f"number{limits(kind)}",
    inspect.StrType: text_of,
    inspect.BytesType: lambda _kind: "bytes",
    inspect.BoolType: lambda _kind: "true or false",
    inspect.NoneType: lambda _kind: "null",
    inspect.LiteralType: lambda kind: ", ".join(map(str, kind.values)),
    inspect.VarTupleType: lambda kind: f"list{length(kind)}: {describe(kind.item_type)}",
    inspect.TupleType: lambda kind: f"[{', '.join(describe(item) for item in kind.item_types)}]",
    inspect.DictType: lambda kind: f"map from {describe(kind.key_type)} to {describe(kind.value_type)}",
    inspect.StructType: lambda kind: kind.cls.__name__,
}


def describe(kind):
    """A type in words."""
    return DESCRIBE[type(kind)](kind)


def default_of(field):
    if field.required:
        return "required"
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    return "{}" if isinstance(value, msgspec.Struct) else msgspec.json.encode(value).decode()


def row(field):
    """(key, type, default) as a table shows them."""
    return (f"`{field.encode_name}`", describe(field.type), default_of(field))


def rows_of(name):
    module, _, attribute = name.rpartition(".")
    struct = getattr(importlib.import_module(module), attribute)
    info = inspect.type_info(struct)
    return [row(field) for field in info.fields]


# ---------------------------------------------------------------- the tables of a document


def tables(kind):
    """(document, what the marker names, cells of each row) of every table below a marker."""
    for document, text in TEXTS.items():
        for found in re.finditer(rf"<!-- {kind}: (\S+) -->\n+((?:\|.*\n?)+)", text):
            lines = found[2].strip().splitlines()[2:]
            cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
            yield document, found[1], cells


STRUCT_TABLES = list(tables("struct"))
CONSTANT_TABLES = list(tables("constants"))


@pytest.mark.parametrize(
    ("document", "name", "cells"), STRUCT_TABLES, ids=[f"{table[0]}:{table[1]}" for table in STRUCT_TABLES]
)
def test_a_table_of_keys_says_what_the_code_says(document, name, cells):
    assert [tuple(row[:3]) for row in cells] == rows_of(name)
    assert all(len(row) == 4 and row[3] for row in cells), "a key without a meaning"


def test_every_message_and_every_key_of_a_file_is_documented():
    assert MUST_BE_DOCUMENTED - {name for _, name, _ in STRUCT_TABLES} == set()


@pytest.mark.parametrize(
    ("document", "name", "cells"),
    CONSTANT_TABLES,
    ids=[f"{table[0]}:{table[1]}" for table in CONSTANT_TABLES],
)
def test_a_table_of_limits_has_the_values_of_the_code(document, name, cells):
    module = importlib.import_module(name)
    for constant, value, _meaning in cells:
        assert value == f"{getattr(module, constant.strip('`')):,}", constant


# ---------------------------------------------------------------- names that must be said


def topic_leaves():
    """What stands behind the sender's id in each rule of the broker's access list."""
    for rule in (*WRITE, *READ):
        leaf = rule.split("/", 4)[4]
        yield leaf.replace("peer/%u", "peer/<id>").replace("peer/+", "peer/<id>").replace("down/#", "down")


@pytest.mark.parametrize("leaf", sorted({leaf for leaf in topic_leaves() if leaf != "#"}))
def test_every_topic_of_the_access_rules_is_in_the_protocol(leaf):
    assert f"/{leaf}`" in TEXTS["protocol.md"]


@pytest.mark.parametrize("name", ZOO)
def test_every_network_of_the_zoo_is_described(name):
    assert f"`{name}`" in TEXTS["models.md"]


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_is_listed(operator):
    assert f"`{operator}`" in TEXTS["models.md"]


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_every_loss_is_described_with_its_targets(loss):
    targets = ", ".join(f"`{name}`" for name in loss.targets)
    assert f"\n| `{loss.name}` | {targets} | " in TEXTS["models.md"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_is_described(strategy):
    assert f"`{strategy}`" in TEXTS["architecture.md"]


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_every_engine_is_named_in_the_readme(engine):
    assert f"`{engine}`" in TEXTS["README.md"]


@pytest.mark.parametrize("name", [f"edgetide_device_{name}" for _, name, _, _ in metrics._DEVICE])
def test_every_metric_is_listed(name):
    assert f"`{name}`" in TEXTS["running.md"]


# ---------------------------------------------------------------- what is named exists


def named_in_backticks():
    for document, text in TEXTS.items():
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        for name in re.findall(r"`([^`\n]+)`", prose):
            yield document, name


def modules_named():
    packages = "firmware_profiles|models|dse|device_agent|coordinator|benchmarks"
    for document, name in named_in_backticks():
        if re.fullmatch(rf"(?:{packages})(?:\.\w+)+(?:\(\))?", name):
            yield document, name.removesuffix("()")
        elif re.fullmatch(rf"(?:{packages})/[\w/]+\.py", name):
            yield document, name.removesuffix(".py").replace("/", ".")


@pytest.mark.parametrize(("document", "name"), sorted(set(modules_named())))
def test_a_module_or_function_that_is_named_exists(document, name):
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:cut])
        if path.is_dir() or path.with_suffix(".py").is_file():
            break
    else:
        pytest.fail(f"{document} names {name}, which is no module")
    if cut == len(parts):
        return
    value = importlib.import_module(".".join(parts[:cut]))
    for part in parts[cut:]:
        if part in getattr(value, "__dataclass_fields__", {}):
            return
        value = getattr(value, part)


def paths_named():
    pattern = r"(?:docs|examples|scripts|tests|benchmarks|firmware_profiles|models)/[\w./-]+"
    return sorted({named for named in named_in_backticks() if re.fullmatch(pattern, named[1])})


@pytest.mark.parametrize(("document", "name"), paths_named())
def test_a_path_that_is_named_exists(document, name):
    assert (ROOT / name).exists(), f"{document} names {name}"


# ---------------------------------------------------------------- what no document says


@pytest.mark.parametrize("document", TEXTS)
def test_no_document_names_a_package_host_or_a_path_of_one_machine(document):
    assert not re.search(r"pypi\.org|pythonhosted|download\.pytorch|/root/|/work/|/home/\w", TEXTS[document])


# ---------------------------------------------------------------- messages that are quoted


def sources():
    """Every text of the code, its f-strings' values left out, and the scripts."""
    for package in ("firmware_profiles", "models", "dse", "device_agent", "coordinator"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    yield "…".join(
                        "".join(part.value for part in group if isinstance(part, ast.Constant))
                        for group in split_at_values(node.values)
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
    yield (ROOT / "scripts/environment").read_text("utf-8")


def split_at_values(parts):
    group = []
    for part in parts:
        if isinstance(part, ast.FormattedValue):
            yield group
            group = []
        else:
            group.append(part)
    yield group


def quoted_messages():
    """What stands in quotation marks in headings and in the first cell of a row."""
    for line in TEXTS["troubleshooting.md"].splitlines():
        if line.startswith(("### ", "| ")):
            cell = line.split(" | ")[0]
            yield from (message for message in re.findall(r'"([^"]+)"', cell) if len(message) > 3)


@pytest.fixture(scope="module")
def all_texts():
    return "\n".join(sources())


@pytest.mark.parametrize("message", list(quoted_messages()))
def test_a_message_that_is_quoted_is_one_of_ours(message, all_texts):
    for part in filter(None, (part.strip(" ,;()") for part in message.split("…"))):
        assert part in all_texts, part


def test_the_access_list_of_the_handbook_is_the_one_we_write():
    for line in mosquitto_rules().splitlines():
        assert not line or f"    {line}\n" in TEXTS["running.md"]
