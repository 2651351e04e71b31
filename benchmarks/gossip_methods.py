"""What the gossip study compares: the default, no communication, and the paper's forms.

The paper's forms have its learner, and features from 0 to 1, on which its gate's distance depends: 0.5 is far
only in such units. Its best figures are of T = 1 and s = 4: a set to each neighbour after each sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from benchmarks.gossip_work import AT_ONCE, PARALLEL, SEQUENTIAL, Work
from models.gossip_settings import GossipSettings, NewsSettings, SetSettings
from models.prototypes.settings import IlvqSettings


@dataclass(frozen=True)
class Method:
    """One way to learn and tell.

    Attributes:
        settings: of each node. work: what its tasks take.
    """

    settings: GossipSettings
    work: Work = AT_ONCE


_LEARNED = 8
"""Foreign prototypes learned after a sample; the authors' nodes got through 8 (clustered) to 18."""

_PAPER = IlvqSettings(max_prototypes=400, scale_memory=None)
_CLUSTERED = IlvqSettings(max_prototypes=400, scale_memory=None, denoise_every=0)
"""Where the set is clustered the paper removes no lone prototypes."""


_SETS = {
    "paper: base": (_PAPER, SetSettings(tells_changes=False, skips_known=False, learned=_LEARNED)),
    "paper: gate": (
        _PAPER,
        SetSettings(gate="paper", tells_changes=False, skips_known=False, learned=_LEARNED),
    ),
    "paper: gate, clusters": (
        _CLUSTERED,
        SetSettings(
            gate="paper", clustering="dbscan", tells_changes=False, skips_known=False, learned=_LEARNED
        ),
    ),
}
_FORMS = {
    name: GossipSettings(learner="ilvq", shares="sets", ilvq=ilvq, sets=sets)
    for name, (ilvq, sets) in _SETS.items()
}

_SELDOM = msgspec.structs.replace(
    _FORMS["paper: gate, clusters"],
    sets=msgspec.structs.replace(_FORMS["paper: gate, clusters"].sets, probability=0.3),
)

_CALIBRATED = GossipSettings(
    learner="ilvq",
    shares="sets",
    ilvq=IlvqSettings(max_prototypes=400),
    sets=SetSettings(gate="calibrated", clustering="kmeans"),
)


def _with_changes(settings: GossipSettings, *, tells_changes: bool = True) -> GossipSettings:
    sets = msgspec.structs.replace(settings.sets, tells_changes=tells_changes)
    return msgspec.structs.replace(settings, sets=sets)


OURS, ALONE, BASE, BEST = "gossip", "alone", "paper: base", "paper: gate, clusters"
SELDOM = BEST + ", T 0.3"
CHANGES = ", changes"
"""Behind the name of a form that tells what changed since the set that a neighbour acknowledged."""

IN_TURN = ", in turn"
"""Behind the name of a form whose nodes do one thing at a time."""

METHODS: dict[str, Method] = {
    OURS: Method(GossipSettings()),
    ALONE: Method(GossipSettings(shares="nothing")),
    "all is news": Method(GossipSettings(news=NewsSettings(below=1.0))),
    "paper: alone": Method(GossipSettings(learner="ilvq", shares="nothing", ilvq=_PAPER)),
    **{name: Method(settings, PARALLEL) for name, settings in _FORMS.items()},
    **{name + IN_TURN: Method(settings, SEQUENTIAL) for name, settings in _FORMS.items()},
    SELDOM: Method(_SELDOM, PARALLEL),
    **{name + CHANGES: Method(_with_changes(settings), PARALLEL) for name, settings in _FORMS.items()},
    SELDOM + CHANGES: Method(_with_changes(_SELDOM), PARALLEL),
    "ilvq, calibrated gate": Method(_with_changes(_CALIBRATED, tells_changes=False)),
    "ilvq, calibrated gate" + CHANGES: Method(_CALIBRATED),
}
PAPER_FORMS = tuple(_FORMS)
NO_CHANGE = "the label before"
