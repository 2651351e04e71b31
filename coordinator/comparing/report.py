"""The files a comparison leaves: summary.md, summary.json, summary.csv and runs.csv."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from coordinator.comparing.compare import Results
from coordinator.comparing.curves import newest, smoothed
from coordinator.comparing.spread import Spread
from coordinator.comparing.store import write_whole
from coordinator.comparing.summary import SHARES, MethodSummary
from coordinator.comparing.tables import grids, headline, markdown, notes, plain


def write_reports(results: Results, pictures: Sequence[Path] = ()) -> dict[str, str]:
    """Write the files into the folder of the results.

    Args:
        results: with at least one finished run.
        pictures: files in the same folder that the Markdown file shows or links.

    Returns:
        Kind of the file -> its path.

    Raises:
        OSError: the disk refused.
    """
    contents = {
        "summary.md": as_markdown(results, pictures),
        "summary.json": json.dumps(as_json(results), indent=1, allow_nan=False) + "\n",
        "summary.csv": _csv(_method_rows(results)),
        "runs.csv": _csv(_run_rows(results)),
    }
    for name, content in contents.items():
        write_whole(results.folder / name, content.encode())
    return {name: str(results.folder / name) for name in contents}


def as_json(results: Results) -> dict[str, Any]:
    """A comparison as JSON-ready values: scenarios -> methods -> statistics, and how the runs went."""
    return {
        "scenarios": msgspec.to_builtins(dict(results.scenarios)),
        "runs": {
            "stored": results.num_stored,
            "ran": results.num_ran,
            "failed": [
                {
                    "scenario": failure.run.scenario,
                    "method": failure.run.method,
                    "seed": failure.run.seed,
                    "reason": failure.reason,
                }
                for failure in results.failures
            ],
            "not_trusted": list(results.complaints),
        },
    }


def as_markdown(results: Results, pictures: Sequence[Path] = ()) -> str:
    """A comparison as a Markdown page."""
    parts = ["# Comparison\n"]
    parts += [f"![Accuracy over virtual time]({path.name})\n" for path in pictures if path.suffix == ".png"]
    parts += [f"[Interactive]({path.name})\n" for path in pictures if path.suffix == ".html"]
    for name, summary in results.scenarios.items():
        parts += [f"## {plain(name)}\n", f"{headline(summary)}\n"]
        parts += [markdown(grid) for grid in grids(summary)]
    parts += ["## How to read this\n", *(f"{note}\n" for note in notes())]
    if results.failures:
        parts.append("## Runs that failed\n")
        parts.append(
            "".join(
                f"- {plain(str(failure.run))}: {plain(failure.reason.splitlines()[0])}\n"
                for failure in results.failures
            )
        )
    return "\n".join(parts)


def _method_rows(results: Results) -> list[dict[str, Any]]:
    return [
        {"scenario": scenario, "method": name, "reference": summary.reference, **_method_row(method)}
        for scenario, summary in results.scenarios.items()
        for name, method in summary.methods.items()
    ]


def _method_row(method: MethodSummary) -> dict[str, Any]:
    row: dict[str, Any] = {"num_seeds": len(method.seeds)}
    for at in method.accuracy:
        row |= _spread(f"accuracy_at_{at.share:g}", at.smoothed)
        row |= _spread(f"newest_accuracy_at_{at.share:g}", at.newest)
    row |= _spread("last_accuracy", method.last)
    for difference in method.differences:
        told = msgspec.to_builtins(difference)
        row |= {
            f"points_over_reference_at_{difference.share:g}{'' if key == 'mean' else f'_{key}'}": told[key]
            for key in ("mean", "low", "high", "num_pairs", "better")
        }
    for time in method.times:
        name = f"seconds_to_{time.target.replace(' ', '_').replace('%', 'percent')}"
        row |= {**_spread(name, time.seconds), f"{name}_num_reached": time.num_reached}
        row |= _spread(f"{name}_over_reference", time.ratio)
    row |= _spread("macs", method.macs) | _spread("bytes_sent", method.bytes_sent)
    row |= _spread("budget_used_fraction", method.budget_used_fraction)
    worst = method.worst_class
    row |= {"worst_class": worst and worst.label, **_spread("worst_class_accuracy", worst and worst.accuracy)}
    for own in method.own_classes:
        row |= _spread(f"own_classes_accuracy_of_{own.group}", own.own)
        row |= _spread(f"other_classes_accuracy_of_{own.group}", own.others)
    return row


def _spread(name: str, spread: Spread | None) -> dict[str, float | None]:
    return {name: spread and spread.mean, f"{name}_sd": spread and spread.sd}


def _run_rows(results: Results) -> list[dict[str, Any]]:
    rows = []
    for scenario, summary in results.scenarios.items():
        for method, by_seed in results.outcomes[scenario].items():
            for seed, run in by_seed.items():
                row: dict[str, Any] = {"scenario": scenario, "method": method, "seed": seed}
                for share in SHARES:
                    time_s = share * summary.horizon_s
                    row[f"accuracy_at_{share:g}"] = smoothed(run.accuracy_curve, time_s)
                    row[f"newest_accuracy_at_{share:g}"] = newest(run.accuracy_curve, time_s)
                row |= {"last_accuracy": run.accuracy, "virtual_s": run.virtual_s, "macs": run.macs}
                row |= {"bytes_sent": run.bytes_sent, "budget_used_fraction": run.budget_used_fraction}
                row |= {f"class_{label}_accuracy": value for label, value in enumerate(run.class_accuracy)}
                rows.append({**row, "engine": run.engine, "wall_s": run.wall_s})
    return rows


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
