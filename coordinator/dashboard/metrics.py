"""The fleet as Prometheus text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_STATES = ("idle", "joining", "fetching", "training", "paused", "reporting", "silent", "offline", "lost")

_RUN = (
    ("round", "round", "Current round."),
    ("model_version", "model_version", "Current version of the model."),
    (
        "accuracy",
        "accuracy_ratio",
        "Accuracy on the held-out data, or of the last window of streams, 0 to 1.",
    ),
)

_DEVICE = (
    (
        "macs_fraction",
        "macs_ratio",
        "gauge",
        "Training MACs of the current vector over those of the full network.",
    ),
    ("cpu_share_fraction", "cpu_share_ratio", "gauge", "Share of all cores that training may take now."),
    ("cpu_others_fraction", "cpu_others_ratio", "gauge", "Share of all cores that other processes use."),
    ("memory_own_bytes", "memory_own_bytes", "gauge", "Resident memory of the agent."),
    (
        "memory_available_bytes",
        "memory_available_bytes",
        "gauge",
        "Memory that could be taken without swapping.",
    ),
    ("battery_fraction", "battery_ratio", "gauge", "Battery charge, 0 to 1."),
    ("temperature_celsius", "temperature_celsius", "gauge", "The hottest thermal zone."),
    ("clock_hz", "clock_hertz", "gauge", "Mean clock frequency of the cores."),
    ("outbox_messages", "outbox_messages", "gauge", "Messages waiting for their acknowledgement."),
    ("loss", "loss", "gauge", "Training loss of the last mini-batches."),
    (
        "accuracy",
        "stream_accuracy_ratio",
        "gauge",
        "Accuracy of the latest predictions of a device that learns from a stream, 0 to 1.",
    ),
    ("num_updates", "updates_total", "counter", "Updates that went into the model."),
)


def to_metrics(view: Mapping[str, Any]) -> str:
    """Write `coordinator.fleet.to_json` as Prometheus text. What is absent has no sample."""
    lines: list[str] = []
    devices = view["devices"]
    run = view["run"] or {}
    for key, name, help_text in _RUN:
        _write(lines, name, "gauge", help_text, [({"run": run.get("run", "")}, run.get(key))])
    # Only known states: a device must not be able to make new time series by inventing some.
    counts = Counter(d["state"] if d["state"] in _STATES else "other" for d in devices)
    samples = [({"state": state}, counts[state]) for state in (*_STATES, "other")]
    _write(lines, "devices", "gauge", "Devices by state.", samples)
    for key, name, kind, help_text in _DEVICE:
        _write(lines, f"device_{name}", kind, help_text, [({"device": d["device"]}, d[key]) for d in devices])
    _write(lines, "ignored_messages_total", "counter", "Contradictory messages.", [({}, view["num_ignored"])])
    return "\n".join(lines) + "\n"


def _write(
    lines: list[str],
    name: str,
    kind: str,
    help_text: str,
    samples: Iterable[tuple[Mapping[str, str], float | None]],
) -> None:
    present = [(labels, value) for labels, value in samples if value is not None]
    if not present:
        return
    lines += [f"# HELP edgetide_{name} {help_text}", f"# TYPE edgetide_{name} {kind}"]
    for labels, value in present:
        inside = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
        lines.append(f"edgetide_{name}{{{inside}}} {value}" if inside else f"edgetide_{name} {value}")


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
