"""Which runs a comparison consists of: scenarios x methods x seeds, paired by seed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec

from coordinator.comparing.digest import digest_of
from coordinator.twins.scenario import Scenario, load_scenario
from firmware_profiles.errors import UserError
from firmware_profiles.fit import nearest
from firmware_profiles.strict import load_strict

Methods = Mapping[str, Mapping[str, Any]]
"""Name -> keys of a scenario and their values; dotted keys as in `--set`."""

MAX_SEED = 2**31 - 1
MAX_SEEDS = 1000

_METHOD = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.:=+()/%-]{0,59}")
_METHOD_CHARACTERS = "1 to 60 of letters, digits, spaces and _.:=+()/%-, beginning with a letter or digit"
_OURS = {
    "name": "a scenario's name tells its runs from others",
    "seed": "runs are paired by seed: give seeds to the comparison",
    "compare": "a method is one side of a comparison",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedRun:
    """One simulation of a comparison.

    Attributes:
        scenario: its name. method: of those compared.
        settings: the scenario as it is run, with the method's keys and the seed.
        digest: of everything that decides what comes of it, in hex.
    """

    scenario: str
    method: str
    settings: Scenario
    digest: str

    @property
    def seed(self) -> int:
        """Of the run."""
        return self.settings.seed

    @property
    def file_name(self) -> str:
        """Under which its result is kept."""
        return f"{slug(self.method)}-s{self.seed}-{self.digest[:16]}.json"

    def __str__(self) -> str:
        """As people are told of it."""
        return f"{self.scenario} · {self.method} · seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class PlannedScenario:
    """All runs of one scenario.

    Attributes:
        name, path: of the scenario. reference: the method the others are compared with.
        targets: accuracies 0..1 whose time is told.
        own_labels: groups -> classes that only their devices hold.
        runs: by seed, then in the order of the methods: what is paired is finished together.
    """

    name: str
    path: Path
    reference: str
    targets: tuple[float, ...]
    own_labels: dict[str, tuple[int, ...]]
    runs: tuple[PlannedRun, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """Names, in order."""
        return tuple(dict.fromkeys(run.method for run in self.runs))


def plan_comparison(
    paths: Sequence[Path],
    *,
    methods: Path | Methods | None = None,
    seeds: Sequence[int] | None = None,
    only: Sequence[str] = (),
    overrides: Sequence[str] = (),
    reference: str | None = None,
) -> tuple[PlannedScenario, ...]:
    """Read the scenarios and lay out their runs.

    Args:
        paths: scenario files; each has a name of its own.
        methods: replace those of the scenarios: a YAML file, or the methods themselves.
        seeds: replace those of the scenarios.
        only: methods to run; all by default.
        overrides: `key=value`, put over file and method.
        reference: method that others are compared with; the first by default.

    Raises:
        UserError: a file, method, key or name does not fit, or an engine is not installed.
    """
    contents: dict[str, str] = {}
    planned = [
        _plan_scenario(
            Path(path).resolve(),
            methods,
            seeds=seeds,
            only=only,
            overrides=overrides,
            reference=reference,
            contents=contents,
        )
        for path in paths
    ]
    for index, scenario in enumerate(planned):
        for other in planned[:index]:
            if slug(scenario.name) == slug(other.name):
                raise UserError(
                    f"{scenario.path}: is called {scenario.name!r}, and so is {other.path}"
                    f"{'' if scenario.name == other.name else f' but for characters ({other.name!r})'}: "
                    "give each scenario a name of its own"
                )
    return tuple(planned)


def read_methods(path: Path) -> dict[str, dict[str, Any]]:
    """Read a YAML file of methods: each name with the keys of a scenario that it changes.

    Raises:
        UserError: it cannot be read, or is no such file.
    """
    kind: Any = dict[str, dict[str, Any]]
    methods = cast("dict[str, dict[str, Any]]", load_strict(path, kind))
    if not methods:
        raise UserError(f"{path}: holds no method; write one a line, such as full: {{strategy: full}}")
    return methods


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read seeds such as `3`, `0-4` or `0,2,5-7`.

    Raises:
        UserError: it is no such list, has a seed twice or more than MAX_SEEDS.
    """
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,10})\s*(?:-\s*(\d{1,10})\s*)?", part)
        if not found:
            raise UserError(f"--seeds {text}: {part.strip()!r} is not a seed; write 3, 0-4 or 0,2,5-7")
        first, last = int(found[1]), int(found[2] or found[1])
        if not first <= last <= MAX_SEED:
            raise UserError(f"--seeds {text}: {part.strip()} does not rise, or leaves 0 to {MAX_SEED}")
        if len(seeds) + last - first >= MAX_SEEDS:
            raise UserError(f"--seeds {text}: more than {MAX_SEEDS} seeds")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {text}: a seed stands there twice; each pairs the methods once")
    return tuple(seeds)


def slug(name: str) -> str:
    """A name as part of a file's name: a-z, 0-9 and '-'."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "unnamed"


def _plan_scenario(
    path: Path,
    methods: Path | Methods | None,
    *,
    seeds: Sequence[int] | None,
    only: Sequence[str],
    overrides: Sequence[str],
    reference: str | None,
    contents: dict[str, str],
) -> PlannedScenario:
    base = load_scenario(path, list(overrides))
    found, source = _methods_of(base, path, methods)
    _check_names(found, source)
    names = _chosen(list(found), only, reference, source)
    seeds = tuple(seeds) if seeds is not None else base.compare.seeds if base.compare else (base.seed,)
    if len(set(seeds)) < len(seeds):
        raise UserError(
            f"{path}: seeds {list(seeds)}: a seed stands there twice; each pairs the methods once"
        )
    settings = {name: _settings(path, name, found[name], overrides, source) for name in names}
    return PlannedScenario(
        name=base.name,
        path=path,
        reference=reference or names[0],
        targets=base.compare.targets if base.compare else (),
        own_labels=_own_labels(base),
        runs=tuple(
            _plan_run(base.name, name, settings[name], seed, contents) for seed in seeds for name in names
        ),
    )


def _plan_run(
    scenario: str, method: str, settings: Scenario, seed: int, contents: dict[str, str]
) -> PlannedRun:
    seeded = msgspec.structs.replace(settings, seed=seed, compare=None)
    return PlannedRun(scenario=scenario, method=method, settings=seeded, digest=digest_of(seeded, contents))


def _methods_of(base: Scenario, path: Path, methods: Path | Methods | None) -> tuple[Methods, str]:
    """The methods and what to call the place they stand in."""
    if methods is None and base.compare is not None:
        methods = (
            Path(base.compare.methods) if isinstance(base.compare.methods, str) else base.compare.methods
        )
    if methods is None:
        return {base.strategy: {}}, str(path)
    if isinstance(methods, Path):
        return read_methods(methods), str(methods)
    return methods, str(path)


def _check_names(methods: Methods, source: str) -> None:
    slugs: dict[str, str] = {}
    for name, keys in methods.items():
        if not _METHOD.fullmatch(name):
            raise UserError(f"{source}: method {name!r}: a method's name is {_METHOD_CHARACTERS}")
        if (other := slugs.setdefault(slug(name), name)) != name:
            raise UserError(f"{source}: methods {other!r} and {name!r} are too much alike: rename one")
        for key in keys:
            if reason := _OURS.get(key.partition(".")[0]):
                raise UserError(f'{source}: method {name!r}: key "{key}" does not vary by method: {reason}')


def _chosen(names: list[str], only: Sequence[str], reference: str | None, source: str) -> list[str]:
    for name in (*only, *([reference] if reference else [])):
        if name not in names:
            raise UserError(f"{source}: there is no method {name!r}; {nearest(name, names)}")
    if reference and only and reference not in only:
        raise UserError(f"--reference {reference} is left out by --only: add it there")
    return [name for name in names if not only or name in only]


def _settings(
    path: Path, method: str, keys: Mapping[str, Any], overrides: Sequence[str], source: str
) -> Scenario:
    texts = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in keys.items()]
    try:
        return load_scenario(path, [*texts, *overrides])
    except UserError as error:
        raise UserError(f"{source}: method {method!r}: {str(error).removeprefix('--set ')}") from None


def _own_labels(scenario: Scenario) -> dict[str, tuple[int, ...]]:
    """Groups that hold classes others lack -> these classes. Groups with the same ones count as one."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for group in scenario.devices:
        if group.labels:
            groups.setdefault(tuple(sorted(group.labels)), []).append(group.id or Path(group.profile).stem)
    return {" + ".join(dict.fromkeys(names)): labels for labels, names in groups.items()}
