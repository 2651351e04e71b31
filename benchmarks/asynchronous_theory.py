"""A quadratic problem through the real exchanges: does the error fall and settle as theory says?

Device i minimises |x - c_i|^2 / 2 with noisy gradients; the fleet's optimum is the mean of the c_i. Of that
problem the theory gives numbers, not only orders:

- the mean of the devices moves as one SGD does, whatever the links: with steps of c / sqrt(T) its mean
  squared gradient falls as T^-1/2;
- with a constant step the noise leaves a floor that grows with the step and with the gradients' age;
- with data that differs most along the graph's slowest mode, devices stay apart by step / spectral gap, so
  that the squared error of a device grows with the step's square and falls with the gap's.

References:
    Lian et al., Asynchronous Decentralized Parallel Stochastic Gradient Descent, ICML 2018, arXiv 1710.06952;
    Koloskova et al., A Unified Theory of Decentralized SGD, ICML 2020, arXiv 2003.10422: rates and floors.
    The values here are those of the linear recursion of this problem itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.peer_sessions import NUM_ENTRIES, Gradient, Sessions, Vector, World
from benchmarks.report import Check, Report
from device_agent.peers.topology import load_topology, metropolis_matrix, neighbours, spectral_gap
from device_agent.peers.topology_settings import TopologySettings
from models.peer_settings import PeerSettings

LENGTHS = (64, 128, 256, 512)
"""Barriers of a run whose step falls with its length."""

STEPS = (0.02, 0.04, 0.08, 0.16)
SMALL_STEPS = (0.002, 0.004, 0.008)
"""Far below the spectral gap, as the theory wants it for its orders."""

RINGS = (8, 11, 16, 22)
AGES = (0, 1, 2, 4)
"""Barriers that a gradient is late."""

NUM_BARRIERS = 300
SAMPLE_S = 1.0
OPTIMUM = 3.0
"""Of every entry; devices refuse weights that are far larger than their own, so these are not around 0."""

MAX_SLOPE_ERROR = 0.15
"""Between a fitted slope and the one theory says."""

PEER = "theory"


@dataclass(frozen=True, kw_only=True)
class Slope:
    """A line through points, both axes logarithmic.

    Attributes:
        name: what depends on what. points: (x, measured y, what theory says y is).
    """

    name: str
    points: tuple[tuple[float, float, float], ...]

    @property
    def measured(self) -> float:
        """Fitted exponent."""
        return fit_slope([x for x, _, _ in self.points], [y for _, y, _ in self.points])

    @property
    def expected(self) -> float:
        """Fitted exponent of what theory says."""
        return fit_slope([x for x, _, _ in self.points], [y for _, _, y in self.points])


def fit_slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Least-squares exponent of y over x."""
    return float(np.polyfit(np.log(xs), np.log(ys), 1)[0])


def report_theory() -> Report:
    """Measure all slopes."""
    report = Report("asynchronous")
    for slope in (
        error_over_time(),
        noise_over_step(),
        noise_over_age(),
        distance_over_step(),
        distance_over_gap(),
    ):
        for x, measured, expected in slope.points:
            report.rows.append({"slope": slope.name, "x": x, "measured": measured, "theory": expected})
        away = abs(slope.measured - slope.expected)
        name = f"theory: {slope.name}: exponent {slope.measured:.2f}, theory says {slope.expected:.2f}: apart"
        report.checks.append(Check(name, away, "<=", MAX_SLOPE_ERROR, PEER))
    return report


# ---------------------------------------------------------------- slopes


def error_over_time() -> Slope:
    """Mean squared gradient of the fleet's mean over a run of T barriers with steps of c / sqrt(T)."""
    num_devices, points = 8, []
    for length in LENGTHS:
        step = 1.0 / math.sqrt(length)
        seen = _run(ring(num_devices), step, noise=1.0, num_barriers=length, start=0.5)
        measured = float(np.mean([np.mean(np.square(weights.mean(axis=0))) for weights in seen]))
        squares = [0.5**2]  # the first gradients come at the second barrier
        while len(squares) < length:
            squares.append((1 - step) ** 2 * squares[-1] + step**2 / num_devices)
        points.append((float(length), measured, float(np.mean(squares))))
    return Slope(name="mean squared gradient over barriers T, step 1/sqrt(T)", points=tuple(points))


def noise_over_step() -> Slope:
    """Squared error of the fleet's mean in the end, over the constant step."""
    num_devices, points = 8, []
    for step in STEPS:
        measured = _floor(_run(ring(num_devices), step, noise=1.0, num_barriers=_settled(step)))
        points.append((step, measured, plain_noise(step) / num_devices))
    return Slope(name="floor of the mean over step", points=tuple(points))


def noise_over_age(step: float = 0.15) -> Slope:
    """Squared error of the fleet's mean in the end, over the age of gradients.

    Fleets grow with the age, and so does a device's step: all make as many gradients a barrier, which move
    the mean as far. Only their age differs.
    """
    points = []
    for age in AGES:
        graph, own_step = full(2 * (age + 1)), step * (age + 1)
        seen = _run(graph, own_step, noise=1.0, num_barriers=NUM_BARRIERS, age=age)
        points.append((age + 1.0, _floor(seen), _floor(recursion(len(graph), own_step, age))))
    return Slope(name="floor of the mean over age + 1", points=tuple(points))


def distance_over_step() -> Slope:
    """Squared error of a device in the end, over the constant step, without noise."""
    graph = ring(11)
    points = []
    for step in SMALL_STEPS:
        seen = _run(graph, step, noise=0.0, num_barriers=_settled(spectral(graph)), centres=True)
        points.append((step, _distance(seen), lasting_distance(step, spectral(graph))))
    return Slope(name="squared distance of devices over step", points=tuple(points))


def distance_over_gap(step: float = 0.004) -> Slope:
    """Squared error of a device in the end, over the spectral gap of the graph, without noise."""
    points = []
    for num_devices in RINGS:
        graph = ring(num_devices)
        gap = spectral(graph)
        seen = _run(graph, step, noise=0.0, num_barriers=_settled(gap), centres=True)
        points.append((gap, _distance(seen), lasting_distance(step, gap)))
    return Slope(name="squared distance of devices over spectral gap", points=tuple(points))


# ---------------------------------------------------------------- what theory says


def plain_noise(step: float) -> float:
    """Stationary variance of x <- x - step (x + noise of variance 1)."""
    return step / (2.0 - step)


def recursion(num_devices: int, step: float, age: int, num_barriers: int = 1000) -> list[Vector]:
    """The algorithm as algebra, [devices, NUM_ENTRIES] at each barrier: X <- W (X - step * G), W = 1/n.

    Devices begin in turn, as in `_run`; a row of G is there once in `age` + 1 barriers, of weights as old.
    """
    rng = np.random.default_rng(1)
    weights = np.zeros((num_devices, NUM_ENTRIES))
    begun = weights.copy()
    places, seen = np.arange(num_devices), []
    for barrier in range(num_barriers):
        ready = (barrier - places) % (age + 1) == 0
        weights[ready] -= step * (begun[ready] + rng.normal(size=(int(ready.sum()), NUM_ENTRIES)))
        begun[ready] = weights[ready]
        weights = np.broadcast_to(weights.mean(axis=0), weights.shape).copy()
        seen.append(weights)
    return seen


def lasting_distance(step: float, gap: float) -> float:
    """Squared distance, a device's mean, of devices whose data differs by 1 along the slowest mode.

    The fixed point of a = (1 - gap) (a - step (a - 1)).
    """
    mode = 1.0 - gap
    return (mode * step / (1.0 - mode * (1.0 - step))) ** 2


# ---------------------------------------------------------------- runs


def ring(num_devices: int) -> list[list[int]]:
    """Neighbours of each device."""
    return [[(one - 1) % num_devices, (one + 1) % num_devices] for one in range(num_devices)]


def full(num_devices: int) -> list[list[int]]:
    """Neighbours of each device."""
    return [[other for other in range(num_devices) if other != one] for one in range(num_devices)]


def spectral(graph: Sequence[Sequence[int]]) -> float:
    """The spectral gap of a ring under Metropolis-Hastings weights."""
    topology = load_topology(TopologySettings(kind="ring"), 0)
    return spectral_gap(metropolis_matrix(neighbours(topology, [f"d{one}" for one in range(len(graph))])))


def _run(
    graph: Sequence[Sequence[int]],
    step: float,
    *,
    noise: float,
    num_barriers: int,
    age: int = 0,
    start: float = 0.0,
    centres: bool = False,
) -> list[Vector]:
    """Weights of all devices less the optimum, [devices, NUM_ENTRIES], at each barrier."""

    def compute_s(device: int, num_begun: int) -> float:
        return age + 0.5 + (device % (age + 1) if num_begun == 0 else 0)  # they begin in turn

    sessions = Sessions(
        graph,
        PeerSettings(barrier_s=SAMPLE_S, window=10**6, max_age_s=5.0),
        World(gradient=_gradient(len(graph), step, noise, centres=centres), compute_s=compute_s),
        np.full(NUM_ENTRIES, OPTIMUM + start, np.float32),
    )
    seen = []
    for barrier in range(1, num_barriers + 1):
        sessions.run_until(barrier * SAMPLE_S)
        seen.append(sessions.weights() - np.float32(OPTIMUM))
    return seen


def _gradient(num_devices: int, step: float, noise: float, *, centres: bool) -> Gradient:
    rng = np.random.default_rng(0)
    # Each entry has its own phase on the ring, so that every device is at every place of the mode.
    angles = (
        2 * math.pi * (np.arange(num_devices)[:, None] / num_devices + np.arange(NUM_ENTRIES) / NUM_ENTRIES)
    )
    places = math.sqrt(2) * np.cos(angles) if centres else np.zeros((num_devices, NUM_ENTRIES))

    def gradient(device: int, weights: Vector) -> Vector:
        here = weights - OPTIMUM - places[device]
        return (step * (here + noise * rng.normal(size=NUM_ENTRIES))).astype(np.float32)

    return gradient


def _settled(rate: float) -> int:
    """Barriers after which a mode that loses `rate` a barrier has died out, and as many to measure in."""
    return max(60, round(8 / rate))


def _floor(seen: Sequence[Vector]) -> float:
    later = seen[len(seen) // 2 :]
    return float(np.mean([np.mean(np.square(weights.mean(axis=0))) for weights in later]))


def _distance(seen: Sequence[Vector]) -> float:
    later = seen[-len(seen) // 8 :]
    return float(np.mean([np.mean(np.square(weights - weights.mean(axis=0))) for weights in later]))
