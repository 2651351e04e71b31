"""Every command of the documents parses with the real command line; links lead somewhere; examples load."""

from __future__ import annotations

import ast
import itertools
import os
import re
import shlex
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer.main

from coordinator.cli import app
from coordinator.comparing.plan import read_methods
from coordinator.method import resolve_method
from coordinator.twins.faults import Faults
from coordinator.twins.scenario import load_scenario
from firmware_profiles.policy import Policy, load_policy, parse_policy
from firmware_profiles.strict import parse_strict
from models.optim.settings import OptimizerSettings

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
EXAMPLES = sorted(path for path in (ROOT / "examples").rglob("*") if path.suffix in {".yaml", ".py"})
OTHER_PROGRAMS = {"mosquitto_sub", "curl"}

COMMAND_LINE = typer.main.get_command(app)


def blocks(path, *languages):
    """Code blocks of these languages."""
    pattern = rf"^```(?:{'|'.join(languages)})\n(.*?)^```"
    return re.findall(pattern, path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def commands():
    """(document, command, whether it is only mentioned) of shell lines, spans and examples' headers."""
    for path in DOCUMENTS:
        for block in blocks(path, "sh", "bash", "console"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip() and not line.lstrip().startswith("#"):
                    yield path.name, line.strip(), False
        for span in re.findall(r"`((?:edgetide|scripts/\w+) [^`…]+)`", path.read_text("utf-8")):
            yield path.name, span, True
    for path in EXAMPLES:
        for line in path.read_text("utf-8").splitlines():
            if match := re.match(r"(?:#\s+| {4})(edgetide .*)", line):
                yield str(path.relative_to(ROOT)), match[1], False


COMMANDS = sorted(set(commands()))


def parse_edgetide(arguments, *, mentioned=False):
    """Parse as the program would, without running anything; wrong options raise.

    Where a command is only mentioned, such as "`edgetide dse run` searches", it has to exist.
    """
    command, name = COMMAND_LINE, "edgetide"
    while hasattr(command, "commands") and arguments and not arguments[0].startswith("-"):
        name = arguments[0]
        assert name in command.commands, f"there is no command {name}"
        command, arguments = command.commands[name], arguments[1:]
    if hasattr(command, "commands"):
        return  # a group is spoken of
    if not ((mentioned and not arguments) or arguments == ["--help"]):
        command.make_context(name, list(arguments))


def parse_benchmark(arguments):
    module, *options = arguments
    path = ROOT / f"{module.replace('.', '/')}.py"
    own = set(re.findall(r'"(--[a-z-]+)"', path.read_text("utf-8")))
    named = {option for option in options if option.startswith("--")}
    assert named <= {"--quick", "--json", "--data", *own}
    assert options[:1] == [] or options[0].startswith("--")


def install_extras(arguments):
    (what,) = arguments
    found = re.fullmatch(r"\.(?:\[([\w,-]+)\])?", what)
    assert found, what
    known = set(metadata.metadata("edgetide").get_all("Provides-Extra") or ())
    assert set(filter(None, (found[1] or "").split(","))) <= known


@pytest.mark.parametrize(("document", "line", "mentioned"), COMMANDS)
def test_a_command_of_the_documents_is_one_that_exists(document, line, mentioned):
    words = shlex.split(line, comments=True)
    program, *arguments = itertools.dropwhile(lambda word: re.match(r"[A-Z_]+=", word), words)
    if program == "edgetide":
        parse_edgetide(arguments, mentioned=mentioned)
    elif program == "scripts/up":
        parse_edgetide(["up", *arguments])
    elif program.startswith("scripts/"):
        assert os.access(ROOT / program, os.X_OK)
    elif program == "python" and arguments[0] == "-m":
        parse_benchmark(arguments[1:])
    elif program == "pip" and arguments[0] == "install":
        install_extras(arguments[1:])
    elif program == "source":
        assert arguments == [".venv/bin/activate"]
    else:
        assert program in OTHER_PROGRAMS, f"{document} shows a program that no test knows: {program}"


@pytest.mark.parametrize(
    "arguments", [["up", "--no-such-option"], ["sim", "run"], ["models", "trace", "./net.py:Net"]]
)
def test_the_check_of_commands_finds_wrong_ones(arguments):
    with pytest.raises(Exception, match=r"[Nn]o such option|Missing|no command"):
        parse_edgetide(arguments)


# ---------------------------------------------------------------- links


def links():
    for path in DOCUMENTS:
        text = re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            yield path, target


def anchors(path):
    headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("path", "target"), [pytest.param(*link, id=f"{link[0].name}:{link[1]}") for link in links()]
)
def test_a_link_leads_somewhere(path, target):
    if target.startswith("https://"):
        return
    file, _, anchor = target.partition("#")
    place = path.parent / file if file else path
    assert place.exists()
    assert not anchor or anchor in anchors(place)


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_every_document_can_be_reached_from_the_readme(path):
    assert f"](docs/{path.name})" in (ROOT / "README.md").read_text("utf-8")


# ---------------------------------------------------------------- the opening


def test_the_readme_opens_with_what_it_is_a_picture_and_the_two_commands():
    opening = (ROOT / "README.md").read_text("utf-8").partition("\n## ")[0]
    places = [
        opening.find(part)
        for part in ("# edgetide", "trains neural networks", "![", "scripts/up", "scripts/test")
    ]
    assert places[0] == 0
    assert -1 not in places
    assert places == sorted(places)


def test_the_picture_is_one():
    picture = (ROOT / "docs/images/dashboard.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert 20_000 < len(picture) < 500_000


# ---------------------------------------------------------------- examples


def examples(folder):
    return sorted((ROOT / "examples" / folder).glob("*.yaml"))


@pytest.mark.parametrize("path", examples("scenarios"), ids=lambda path: path.name)
def test_an_example_scenario_loads(path):
    if path.name == "methods.yaml":
        assert "distreal" in read_methods(path)
    else:
        assert load_scenario(path).num_devices > 0


@pytest.mark.parametrize("path", examples("policies"), ids=lambda path: path.name)
def test_an_example_policy_loads(path):
    assert load_policy(path).max_cpu_share_fraction > 0


def test_the_policy_with_every_key_is_the_default_one():
    path = ROOT / "examples/policies/default.yaml"
    assert load_policy(path) == Policy()
    assert all(
        re.search(rf"^{key}:", path.read_text("utf-8"), flags=re.MULTILINE)
        for key in Policy.__struct_fields__
    )


@pytest.mark.parametrize("text", [block for path in DOCUMENTS for block in blocks(path, "yaml")])
def test_a_policy_or_settings_that_are_shown_can_be_used(text):
    if text.startswith("method:"):
        parse_strict(text, "the document", OptimizerSettings)
    elif "{strategy:" in text:
        parse_strict(text, "the document", dict[str, dict[str, Any]])
    elif text.startswith(("news:", "sets:")):
        strategy = "gossip" if text.startswith("news:") else "gossip-paper"
        resolve_method(strategy, gossip=parse_strict(text, "the document", dict[str, Any]))
    elif text.startswith("faults:"):
        assert parse_strict(text, "the document", dict[str, Faults])["faults"].links
    else:
        parse_policy(text, "the document")


def test_the_example_network_can_be_traced_and_shrinks():
    pytest.importorskip("torch")
    from models.trace import trace_reference
    from models.widths import plan_widths

    graph, weights = trace_reference(str(ROOT / "examples/custom_model/net.py:Net"), (1, 28, 28))
    assert graph.num_classes == 10
    assert weights.keys() >= graph.parameters.keys()
    assert [group.num_channels for group in plan_widths(graph).groups] == [24, 48]


# ---------------------------------------------------------------- scripts and benchmarks


@pytest.mark.parametrize(
    "name", ["up", "test", "check", "screenshot", "check-aarch64-wheels", "emulate-aarch64"]
)
def test_a_script_is_valid_bash(name):
    import subprocess

    subprocess.run([shutil.which("bash") or "bash", "-n", str(ROOT / "scripts" / name)], check=True)


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_says_how_it_is_run(path):
    tree = ast.parse(path.read_text("utf-8"))
    says = ast.get_docstring(tree) or ""
    assert says
    if "__main__" in path.read_text("utf-8"):
        assert f"python -m benchmarks.{path.stem}" in says
