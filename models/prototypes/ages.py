"""Age of information: how old what one device holds of another is, measured and foretold.

The holder's age of a sender's content grows by a second a second, and falls to the content's own age when a
newer one arrives. The sender measures that age, as it sends, so that no clocks are shared; the time on the
way is in it only where the sender can tell, and is otherwise missing from every figure here.

References:
    Kaul, Yates and Gruteser, "Real-time status: how often should one update?", IEEE INFOCOM 2012: the age and
    its mean over time, the area under the sawtooth over its length.
    Yates et al., "Age of information: an introduction and survey", IEEE JSAC 39 (5), 2021, section II: the
    mean of the peaks, and updates that are preempted or lost.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AgeRecord:
    """What is to be known of the age between one pair so far. A new one knows nothing.

    Attributes:
        first_s: when content first arrived, on the holder's clock; None: never yet.
        last_s: when it last did. age_s: its age then.
        area: of the age from `first_s` to `last_s`, in s^2.
        peak_sum_s: of the ages just before newer content arrived. num_peaks: of them.
        arrived_sum_s: of the ages on arrival, of num_peaks + 1 contents.
    """

    first_s: float | None = None
    last_s: float = 0.0
    age_s: float = 0.0
    area: float = 0.0
    peak_sum_s: float = 0.0
    num_peaks: int = 0
    arrived_sum_s: float = 0.0


def after_arrival(record: AgeRecord, arrival_s: float, age_s: float) -> AgeRecord:
    """The record once content has come. Content older than what is held changes nothing.

    Args:
        record: so far.
        arrival_s: on the holder's monotonic clock, not before the last arrival.
        age_s: >= 0, of the content at arrival.

    Raises:
        ValueError: the clock went back, or the age is below 0.
    """
    if age_s < 0:
        raise ValueError(f"content that is {age_s} s old is not there yet")
    if record.first_s is None:
        return AgeRecord(first_s=arrival_s, last_s=arrival_s, age_s=age_s, arrived_sum_s=age_s)
    peak_s = age_now_s(record, arrival_s)
    if age_s >= peak_s:
        return record
    return AgeRecord(
        first_s=record.first_s,
        last_s=arrival_s,
        age_s=age_s,
        area=record.area + _area(record, arrival_s),
        peak_sum_s=record.peak_sum_s + peak_s,
        num_peaks=record.num_peaks + 1,
        arrived_sum_s=record.arrived_sum_s + age_s,
    )


def age_now_s(record: AgeRecord, now_s: float) -> float:
    """The age of what is held.

    Raises:
        ValueError: nothing is held, or the clock went back.
    """
    if record.first_s is None or now_s < record.last_s:
        raise ValueError(f"at {now_s} s there is no age: content first came at {record.first_s} s")
    return record.age_s + now_s - record.last_s


def mean_age_s(record: AgeRecord, now_s: float) -> float | None:
    """Mean over the time from the first arrival to now; None while that is no time.

    Raises:
        ValueError: the clock went back.
    """
    if record.first_s is None or now_s == record.first_s:
        return None
    age_now_s(record, now_s)
    return (record.area + _area(record, now_s)) / (now_s - record.first_s)


def mean_peak_s(record: AgeRecord) -> float | None:
    """Mean of the ages just before newer content arrived; None before the second arrival."""
    return record.peak_sum_s / record.num_peaks if record.num_peaks else None


def updates_hz(
    *,
    samples_hz: float,
    send_fraction: float,
    num_chosen: float,
    num_nodes: int,
    gate_fraction: float = 1.0,
    loss_fraction: float = 0.0,
) -> float:
    """Updates from one node that reach one certain other: mu = lambda T s / (N - 1) g (1 - q).

    Args:
        samples_hz: lambda, samples a second at a node, a Poisson process.
        send_fraction: T, of the samples after which it sends.
        num_chosen: s, the peers it then chooses, of the N - 1 others.
        num_nodes: N, >= 2.
        gate_fraction: g, of the chosen that its gate lets through.
        loss_fraction: q, of the messages that are lost.

    Raises:
        ValueError: one is out of its range.
    """
    fractions = (send_fraction, gate_fraction, loss_fraction)
    if samples_hz < 0 or num_nodes < 2 or not 0 <= num_chosen <= num_nodes - 1:
        raise ValueError(f"{samples_hz} samples/s, {num_chosen} peers chosen of {num_nodes} nodes cannot be")
    if not all(0 <= one <= 1 for one in fractions):
        raise ValueError(f"send, gate and loss fractions {fractions} are not all from 0 to 1")
    return samples_hz * send_fraction * num_chosen / (num_nodes - 1) * gate_fraction * (1 - loss_fraction)


def expected_age_s(updates_hz: float, mean_delay_s: float = 0.0) -> float | None:
    """Mean age, and mean peak age, under Poisson updates: 1 / mu + E[D]; None without updates.

    A thinned Poisson process is one, and whoever looks at it at any time finds the last event 1 / mu ago in
    the mean. Exact for a constant delay. Where delays vary so much that newer updates overtake older ones,
    the mean age is lower.

    Args:
        updates_hz: mu, of fresh content.
        mean_delay_s: from its making to its arrival, E[D].
    """
    return 1 / updates_hz + mean_delay_s if updates_hz > 0 else None


def _area(record: AgeRecord, until_s: float) -> float:
    """Of the age from the last arrival on: a trapezium."""
    width_s = until_s - record.last_s
    return width_s * (record.age_s + width_s / 2)
