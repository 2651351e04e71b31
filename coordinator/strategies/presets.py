"""The methods by name, as data: how devices draw and train, how their updates are averaged, which widths.

What a source leaves open, and where edgetide does otherwise, is said at the method. Each is checked against
its source's definition by `tests/coordinator/test_presets.py`.
"""

from __future__ import annotations

import msgspec

from coordinator.strategies.asynchrony import AsyncSettings
from coordinator.strategies.averages import MEAN_OF_ALL, AverageSettings
from device_agent.peers.topology_settings import TopologySettings
from models.gossip_settings import GossipSettings, SetSettings
from models.peer_settings import PeerSettings
from models.prototypes.settings import IlvqSettings
from models.subnet_settings import SubnetSettings

HALVES = (0.0625, 0.125, 0.25, 0.5, 1.0)
"""Widths a to e of HeteroFL; FedRolex, Federated Dropout and FIARSE are compared on the same ones."""

FIFTHS = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Widths of FjORD."""

EVEN = (0.25, 0.35, 0.5, 0.625, 0.75, 0.875, 1.0)
"""Widths of a table that nobody searched."""


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """A method.

    Attributes:
        subnets: the device's part. averages: the coordinator's part.
        levels: keep fractions of a uniform table; None: the model's searched table.
        base_width: keep fraction of every width group of the network that is learned.
        peers: how devices learn from each other; None: by the coordinator alone.
        gossip: how they learn prototypes from streams; None: they train a network.
        topology: who is whose neighbour; of no use without `peers` or `gossip`.
        asynchrony: how updates are applied that come when they come; None: in rounds.
        source: what defines it.
    """

    subnets: SubnetSettings
    averages: AverageSettings
    levels: tuple[float, ...] | None = None
    base_width: float = 1.0
    peers: PeerSettings | None = None
    gossip: GossipSettings | None = None
    topology: TopologySettings = TopologySettings()
    asynchrony: AsyncSettings | None = None
    source: str


_DISTREAL = "Rapp et al., DISTREAL, AAAI 2022, arXiv 2112.08761"
_FEDAVG = "McMahan et al., AISTATS 2017, arXiv 1602.05629"
_FJORD = "Horvath et al., FjORD, NeurIPS 2021, arXiv 2102.13451"
_HOLDERS = AverageSettings(entries="touched", weighting="equal")
_FULL = SubnetSettings(choice="fixed", fixed_fraction=1.0)

_GOSSIP = "Fernandez-Pineiro et al., arXiv 2411.09267"
_UNRELIABLE = "Jeong, Zecchin, Kountouris, ICC 2022, arXiv 2202.00955"
_RECONSTRUCTED = "its weights, barrier and exchange are a reconstruction, see docs/decentralised.md"

PRESETS: dict[str, Preset] = {
    # Edgetide's own are the choice (few wide mini-batches; in the rest of a round one of fewer samples, or a
    # narrow one), the floor, mini-batches in parts, class priors, and the average: by shares of steps,
    # devices by their data.
    "distreal": Preset(
        subnets=SubnetSettings(
            choice="widest", floor_fraction=0.2, cut_batch=8, label_prior=0.5, micro_batch=4
        ),
        averages=AverageSettings(weighting="data"),
        source=f"{_DISTREAL}; what is edgetide's own is measured in docs/results.md",
    ),
    # How the paper weighs updates and whether it scales activations was not read: plain FedAvg, no scaling.
    "distreal-paper": Preset(
        subnets=SubnetSettings(),
        averages=AverageSettings(entries="plain", weighting="data"),
        source=f"{_DISTREAL}; average of {_FEDAVG}",
    ),
    # Work that is not finished counts by its samples, as in FedProx without its proximal term.
    "full": Preset(
        subnets=_FULL,
        averages=AverageSettings(entries="plain"),
        source=f"{_FEDAVG}; partial work: Li et al., FedProx, MLSys 2020, arXiv 1812.06127",
    ),
    "drop": Preset(
        subnets=msgspec.structs.replace(_FULL, partial_work=False),
        averages=AverageSettings(entries="plain", weighting="data"),
        source=f"{_FEDAVG}; who is late is left out: Bonawitz et al., MLSys 2019, arXiv 1902.01046",
    ),
    "small": Preset(
        subnets=_FULL,
        averages=AverageSettings(entries="plain"),
        base_width=0.45,
        source=f"{_FEDAVG} of a network that is narrow enough for all",
    ),
    # The factor of kept activations acts where they are read, so it does not cancel in a batch norm after
    # the convolution as HeteroFL's own does; in networks without batch norm both are the same. Widths are
    # rounded to the nearest channel, where HeteroFL rounds up.
    "heterofl": Preset(
        subnets=SubnetSettings(choice="per-order", draw="ordered", scaling=True, mask_absent_classes=True),
        averages=_HOLDERS,
        levels=HALVES,
        source="Diao, Ding, Tarokh, HeteroFL, ICLR 2021, arXiv 2010.01264",
    ),
    # FjORD averages an entry over the devices whose largest width has it; here those that drew such a width.
    "fjord": Preset(
        subnets=SubnetSettings(choice="below", draw="ordered"),
        averages=AverageSettings(entries="touched", weighting="data"),
        levels=FIFTHS,
        source=_FJORD,
    ),
    # The share of the divergence is ours; see `models.sub_step` for the loss.
    "fjord-kd": Preset(
        subnets=SubnetSettings(choice="below", draw="ordered", self_distillation=0.5),
        averages=AverageSettings(entries="touched", weighting="data"),
        levels=FIFTHS,
        source=_FJORD,
    ),
    "fedrolex": Preset(
        subnets=SubnetSettings(choice="per-order", draw="rolling"),
        averages=_HOLDERS,
        levels=HALVES,
        source="Alam et al., FedRolex, NeurIPS 2022, arXiv 2212.01548",
    ),
    # The source gives every device the same rate; here each has the one it can afford.
    "feddrop": Preset(
        subnets=SubnetSettings(choice="per-order", draw="random-per-order"),
        averages=AverageSettings(entries="touched", weighting="data"),
        levels=HALVES,
        source="Caldas et al., Expanding the Reach of Federated Learning, 2018, arXiv 1812.07210",
    ),
    # Whole channels by their norm at the order's start, where FIARSE takes single parameters by their
    # magnitude and goes on choosing while it trains.
    "fiarse": Preset(
        subnets=SubnetSettings(choice="per-order", draw="importance"),
        averages=_HOLDERS,
        levels=HALVES,
        source="after Wu et al., FIARSE, NeurIPS 2024, arXiv 2407.19389",
    ),
    # DISTREAL without its search: the same rate in every layer.
    "uniform": Preset(
        subnets=SubnetSettings(),
        averages=AverageSettings(),
        levels=EVEN,
        source=f"{_DISTREAL}, with one rate for all layers",
    ),
    # No rounds: a version is made of every few updates. Who has more data weighs more, which FedBuff leaves
    # open.
    "async": Preset(
        subnets=_FULL,
        averages=AverageSettings(entries="plain", weighting="data"),
        asynchrony=AsyncSettings(),
        source="Nguyen et al., FedBuff, AISTATS 2022, arXiv 2106.06639; staleness: Xie et al., 2019, "
        "arXiv 1903.03934",
    ),
    # The next four: Metropolis-Hastings weights, settled exchanges in place of superposed radio signals, and
    # the step size are not the paper's, whose full text was not read. `dsgd` is our own form of it: a broker
    # reaches everybody, where the paper's radio reaches those near; gradients do not wait for the barrier;
    # and a device's model is a mean of its weights of late.
    "dsgd": Preset(
        subnets=_FULL,
        averages=MEAN_OF_ALL,
        peers=PeerSettings(pace="overlapped", partners=3, averaged_barriers=20),
        source=f"{_UNRELIABLE}; {_RECONSTRUCTED}",
    ),
    "dsgd-paper": Preset(
        subnets=_FULL,
        averages=MEAN_OF_ALL,
        peers=PeerSettings(),
        topology=TopologySettings(kind="geometric"),
        source=f"{_UNRELIABLE}: the barrier applies what is ready, however late; {_RECONSTRUCTED}",
    ),
    "dsgd-discard": Preset(
        subnets=_FULL,
        averages=MEAN_OF_ALL,
        peers=PeerSettings(late="discard"),
        topology=TopologySettings(kind="geometric"),
        source=f"what {_UNRELIABLE} compares with: the barrier gives up what is not finished",
    ),
    "dsgd-synchronous": Preset(
        subnets=_FULL,
        averages=MEAN_OF_ALL,
        peers=PeerSettings(pace="synchronous"),
        topology=TopologySettings(kind="geometric"),  # whoever waits for all had better not have many
        source=f"what {_UNRELIABLE} compares with: everybody waits for the slowest neighbour",
    ),
    # The paper averages with one random neighbour while the gradient is computed; here after it is applied.
    "ad-psgd": Preset(
        subnets=_FULL,
        averages=MEAN_OF_ALL,
        peers=PeerSettings(pace="wait-free", partners=1, weight="half"),
        source="Lian et al., AD-PSGD, ICML 2018, arXiv 1710.06952",
    ),
    # SWIFT solves for weights whose mixing keeps the mean where all devices count alike; Metropolis-Hastings
    # weights have that property without solving.
    "swift": Preset(
        subnets=_FULL,
        averages=MEAN_OF_ALL,
        peers=PeerSettings(pace="wait-free", exchange="push"),
        source="Bornstein et al., SWIFT, ICLR 2023, arXiv 2210.14026",
    ),
    # The random node is drawn among all, so the graph is full. Rounds end by time, as in the authors' own
    # variant with a timeout; a late gradient is applied, where theirs waits for it. The paper sends to about
    # log2 of the number of nodes.
    "epidemic": Preset(
        subnets=_FULL,
        averages=MEAN_OF_ALL,
        peers=PeerSettings(exchange="push", partners=3, weight="uniform"),
        topology=TopologySettings(kind="full"),
        source="de Vos et al., Epidemic Learning, NeurIPS 2023, arXiv 2310.01972",
    ),
    # Streams, prototypes, no gradients. `gossip` is our own learner and gate. The paper's neighbours are
    # drawn anew for each message, so both graphs are full.
    "gossip": Preset(
        subnets=_FULL,
        averages=MEAN_OF_ALL,
        gossip=GossipSettings(),
        topology=TopologySettings(kind="full"),
        source=f"{_GOSSIP}; learner, gate and messages are edgetide's own, see docs/gossip.md",
    ),
    "gossip-paper": Preset(
        subnets=_FULL,
        averages=MEAN_OF_ALL,
        gossip=GossipSettings(
            learner="ilvq",
            shares="sets",
            # Where the set is clustered the paper removes no lone prototypes.
            ilvq=IlvqSettings(max_prototypes=400, denoise_every=0),
            sets=SetSettings(gate="paper", clustering="dbscan", tells_changes=False, learned=8),
        ),
        topology=TopologySettings(kind="full"),
        source=f"{_GOSSIP}, as its authors coded it, with that code's defects mended",
    ),
}
