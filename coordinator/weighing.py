"""What an update counts in a run without rounds: by how late it is, and by what its device had a say in.

The server's step for a buffer of K updates is

    w' = w + l / (K n) sum_i n_i c_i d_i        n_i: the update's own weight, n: the devices' mean of it

which is FedBuff's with c_i = s_i, the damping of an update that is so many versions late. It is no weighted
mean: damping makes the step shorter, so that it means something in a buffer of one too.

Damping silences devices that are slow: they send less often and what they send is later. `fairness: rate`
gives every device an account instead. Each update that is folded, whoever sent it, credits all devices that
take part with an equal part of 1; an update draws from its device's account

    c_i = min(cap, credit_i min(1, s_i / mean of its device's s))

and what it leaves is there for the next one. So over any window devices count the same for each of their
samples, however often they report; damping only moves weight between updates of one device; and the mean of
c over all updates is 1. An account holds `fairness_cap` at most: a device that comes back after long does not
outweigh the others at once, and one that is slower than 1 : `fairness_cap` falls short. This rule is ours.

References:
    Nguyen et al., FedBuff, AISTATS 2022, arXiv 2106.06639 (the step). Xie et al., "Asynchronous Federated
    Optimization", 2019, arXiv 1903.03934, section 5.2 (polynomial, hinge).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator.strategies.asynchrony import AsyncSettings

FIRST_CREDIT = 1.0
"""Of a new account: a typical update. Else the first updates of a run would hardly count."""

MEMORY = 10
"""Updates that a device's mean damping looks back."""


def damping(settings: AsyncSettings, staleness: int) -> float:
    """What lateness leaves of an update's weight, above 0 and up to 1.

    Args:
        settings: the policy.
        staleness: versions that it is late, at most `most_late`.
    """
    if settings.staleness == "polynomial":
        return (1 + staleness) ** -settings.staleness_exponent
    if settings.staleness == "hinge":
        return 1 / (1 + settings.staleness_exponent * max(0, staleness - settings.hinge_after))
    return 1.0


def most_late(settings: AsyncSettings) -> int:
    """Versions that an update may be late; a later one is counted as expired."""
    if settings.staleness == "drop":
        return min(settings.max_staleness, settings.hinge_after)
    return settings.max_staleness


@dataclass
class _Account:
    """What a device has to spend.

    Attributes:
        seen: of the credit handed out, as much as is counted in `left`. left: not spent.
        mean_damping: of its updates; num_updates: how many.
        own_weight: of its last update. rests: it takes no part, and earns nothing.
    """

    seen: float
    left: float = FIRST_CREDIT
    mean_damping: float = 1.0
    num_updates: int = 0
    own_weight: float = 0.0
    rests: bool = False


@dataclass
class Weighing:
    """Weighs updates as they come.

    Attributes:
        settings: how.
        num_sharing: devices that take part.
    """

    settings: AsyncSettings
    num_sharing: int = 1
    _credit: float = 0.0
    _accounts: dict[str, _Account] = field(default_factory=dict)
    _own_weights: float = 0.0
    _num_reporting: int = 0

    def open(self, device: str) -> None:
        """A device gets an order: from now on it has an account."""
        self._accounts.setdefault(device, _Account(self._credit))

    def rest(self, device: str) -> None:
        """A device takes no part until its next update: others share the credit meanwhile."""
        account = self._accounts.get(device)
        if account is not None and not account.rests:
            account.left = min(self.settings.fairness_cap, account.left + self._credit - account.seen)
            account.rests = True

    def weigh(self, device: str, staleness: int) -> float:
        """What an update counts, above 0; nothing changes."""
        factor = damping(self.settings, staleness)
        if self.settings.fairness == "none":
            return factor
        account = self._accounts.get(device) or _Account(self._credit)
        mean = account.mean_damping if account.num_updates else factor
        return self._has(account) * min(1.0, factor / mean)

    def spend(self, device: str, staleness: int, own_weight: float) -> None:
        """The update was folded with what `weigh` said; `own_weight` is by its samples."""
        weight, factor = self.weigh(device, staleness), damping(self.settings, staleness)
        self.open(device)
        account = self._accounts[device]
        left = self._has(account) - weight
        self._credit += 1 / max(1, self.num_sharing)
        account.seen, account.left, account.rests = self._credit, left, False
        account.num_updates += 1
        account.mean_damping += (factor - account.mean_damping) / min(account.num_updates, MEMORY)
        self._own_weights += own_weight - account.own_weight
        self._num_reporting += account.num_updates == 1
        account.own_weight = own_weight

    def mean_own_weight(self) -> float:
        """The mean over the devices that have reported, each with its last update; 1 before the first."""
        return self._own_weights / self._num_reporting if self._num_reporting else 1.0

    def _has(self, account: _Account) -> float:
        """What an update may draw, its own part of the credit included."""
        earned = 1 / max(1, self.num_sharing) + (0.0 if account.rests else self._credit - account.seen)
        return min(self.settings.fairness_cap, account.left + earned)
