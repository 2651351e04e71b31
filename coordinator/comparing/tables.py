"""A comparison as tables of text: for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from coordinator.comparing.curves import NUM_SMOOTHED
from coordinator.comparing.spread import Spread
from coordinator.comparing.summary import (
    BEST_TARGET,
    MARGIN_POINTS,
    SHARES,
    Difference,
    MethodSummary,
    ScenarioSummary,
    TimeTo,
)

ABSENT = "-"


@dataclass(frozen=True)
class Grid:
    """A table: the first column is text, the others are right-aligned."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def grids(summary: ScenarioSummary) -> list[Grid]:
    """The tables of one scenario."""
    made = [_accuracy(summary)]
    if len(summary.methods) > 1 and summary.reference in summary.methods:
        made.append(_differences(summary))
    made += [_times(summary), _costs(summary)]
    if any(method.own_classes for method in summary.methods.values()):
        made.append(_own_classes(summary))
    return made


def headline(summary: ScenarioSummary) -> str:
    """What the tables of one scenario refer to."""
    return (
        f"100 % are {_seconds(summary.horizon_s)} of virtual time, the longest run of the reference, "
        f"{summary.reference}."
    )


def notes() -> list[str]:
    """What has to be known to read the tables."""
    shares = ", ".join(f"{100 * share:g}" for share in SHARES)
    best = f"{BEST_TARGET[0].upper()}{BEST_TARGET[1:]}"
    return [
        (
            f"Accuracy at {shares} % of the virtual time is the mean of the newest {NUM_SMOOTHED} versions; "
            "'last' is the last version alone. Behind ± stands the standard deviation over seeds."
        ),
        (
            "Differences are paired by seed, in percentage points, with 95 % t-intervals. Better: the "
            f"interval lies above 0 and the mean above {MARGIN_POINTS:g}."
        ),
        (
            "Times are of the seeds that reached the target, by the same mean of versions; brackets say how "
            "many of all did. The ratio to the reference is the mean over seeds in which both did. "
            f"{best}: of the highest final accuracy that any of these methods has with that seed."
        ),
    ]


def markdown(grid: Grid) -> str:
    """A table in Markdown."""
    lines = [
        _row(grid.headings),
        _row(["---", *["---:"] * (len(grid.headings) - 1)]),
        *(_row(row) for row in grid.rows),
    ]
    return f"### {grid.title}\n\n" + "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """A text that Markdown shows as it is, on one line."""
    return "".join(f"\\{letter}" if letter in r"\`*_[]<>|#" else letter for letter in " ".join(text.split()))


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _accuracy(summary: ScenarioSummary) -> Grid:
    def row(name: str, method: MethodSummary) -> tuple[str, ...]:
        worst = method.worst_class
        return (
            name,
            str(len(method.seeds)),
            *(_percent(at.smoothed) for at in method.accuracy),
            _percent(method.last),
            ABSENT if worst is None else f"{_percent(worst.accuracy)} ({worst.label})",
        )

    return Grid(
        "Accuracy, %",
        ("method", "seeds", *(f"{share:.0%}".replace("%", " %") for share in SHARES), "last", "worst class"),
        tuple(row(name, method) for name, method in summary.methods.items()),
    )


def _differences(summary: ScenarioSummary) -> Grid:
    def row(name: str, method: MethodSummary) -> tuple[str, ...]:
        pairs = max((part.num_pairs for part in method.differences), default=0)
        return (
            name,
            str(pairs),
            *(_difference(part) for part in method.differences),
            _verdict(method.differences),
        )

    return Grid(
        f"Against {summary.reference}, points",
        ("method", "pairs", *(f"{share:.0%}".replace("%", " %") for share in SHARES), "better?"),
        tuple(row(name, method) for name, method in summary.methods.items() if name != summary.reference),
    )


def _times(summary: ScenarioSummary) -> Grid:
    first = next(iter(summary.methods.values()))
    return Grid(
        "Virtual seconds to a target",
        ("method", *(heading for time in first.times for heading in (time.target, "ratio"))),
        tuple(
            (name, *(cell for time in method.times for cell in (_time(time), _plain(time.ratio, 1, 2))))
            for name, method in summary.methods.items()
        ),
    )


def _costs(summary: ScenarioSummary) -> Grid:
    return Grid(
        "Cost of a run",
        ("method", "training GMACs", "MB sent", "budget used, %"),
        tuple(
            (
                name,
                _plain(method.macs, 1e9, 1),
                _plain(method.bytes_sent, 1e6, 1),
                _percent(method.budget_used_fraction),
            )
            for name, method in summary.methods.items()
        ),
    )


def _own_classes(summary: ScenarioSummary) -> Grid:
    groups = {part.group: part.labels for method in summary.methods.values() for part in method.own_classes}

    def row(name: str, method: MethodSummary) -> tuple[str, ...]:
        by_group = {part.group: part for part in method.own_classes}
        cells = [
            cell
            for group in groups
            for cell in (
                (_percent(by_group[group].own), _percent(by_group[group].others))
                if group in by_group
                else (ABSENT, ABSENT)
            )
        ]
        return name, *cells

    headings = [
        heading
        for group, labels in groups.items()
        for heading in (f"{group}: {', '.join(map(str, labels))}", "others")
    ]
    return Grid(
        "Accuracy of the classes that only some devices hold, last version, %",
        ("method", *headings),
        tuple(row(name, method) for name, method in summary.methods.items()),
    )


def _percent(spread: Spread | None) -> str:
    return _plain(spread, 0.01, 1)


def _plain(spread: Spread | None, unit: float, digits: int) -> str:
    if spread is None:
        return ABSENT
    mean = f"{spread.mean / unit:.{digits}f}"
    return mean if spread.sd is None else f"{mean} ± {spread.sd / unit:.{digits}f}"


def _time(time: TimeTo) -> str:
    digits = 0 if time.seconds is not None and time.seconds.mean >= 100 else 1
    return f"{_plain(time.seconds, 1, digits)} ({time.num_reached}/{time.num_runs})"


def _difference(difference: Difference) -> str:
    if difference.mean is None:
        return ABSENT
    if difference.low is None or difference.high is None:
        return f"{difference.mean:+.2f}"
    return f"{difference.mean:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]"


def _verdict(differences: Iterable[Difference]) -> str:
    """At which shares a method is better or worse than the reference."""
    known = list(differences)
    if any(part.better is None for part in known):
        return "too few pairs"
    better = [f"{100 * part.share:g}" for part in known if part.better]
    worse = [f"{100 * part.share:g}" for part in known if part.worse]
    said = [f"yes at {', '.join(better)} %"] if better else ["no"]
    return "; ".join([*said, *([f"worse at {', '.join(worse)} %"] if worse else [])])


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 100 else f"{seconds:.1f} s"
