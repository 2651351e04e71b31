"""A scenario's faults on a fleet of real processes, on the wall's clock.

Links and partitions are the work of a proxy between each agent and the broker, on a thread of their own;
crashes and slowness are signals to the processes. What counts time is the run: its first round is second 0.
"""

from __future__ import annotations

import asyncio
import math
import signal
import threading
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from heapq import merge
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from coordinator.faults.proxy import AgentProxy
from coordinator.supervisor import Supervisor
from coordinator.twins.equipment import device_groups
from coordinator.twins.fault_timeline import FaultEvent, fault_events
from coordinator.twins.faults import BROKER, check_names, members_of
from coordinator.twins.groups import Group
from coordinator.twins.network import LinkNetwork
from coordinator.twins.pair_links import PairLinks
from coordinator.twins.scenario import Scenario, load_scenario
from device_agent.wire.mqtt_options import parse_url
from device_agent.wire.topics import COORDINATOR
from firmware_profiles.errors import UserError

FREEZE_PERIOD_S = 0.2
"""A slow process computes for a share of each such time, and is stopped for the rest."""

T = TypeVar("T")


def read_live_faults(path: Path, num_devices: int) -> tuple[Scenario, tuple[str, ...]]:
    """A scenario whose faults a live fleet is to have, and the ids of its first devices.

    Raises:
        UserError: it cannot be used, or has fewer devices.
    """
    scenario = load_scenario(path)
    names = tuple(device_groups(scenario))
    if len(names) < num_devices:
        raise UserError(
            f"{path} has {len(names)} devices and the fleet {num_devices}: use --devices {len(names)}"
        )
    check_names(scenario.faults, members_of(names))
    return scenario, names[:num_devices]


class LiveFaults:
    """Faults of the fleet of one supervisor. As a context manager it ends them.

    Args:
        scenario: with the faults, and the devices' networks.
        devices: agents' ids, those of the scenario or some of them.
        broker: its URL.
        supervisor: of the agents and the coordinator, by id.
        seed: of losses, jitter and churn.

    Raises:
        UserError: the broker's address has TLS, a broker that is not ours is to crash, or a schedule is
            unusable.
    """

    def __init__(
        self, scenario: Scenario, devices: Iterable[str], broker: str, supervisor: Supervisor, seed: int
    ) -> None:
        endpoint = parse_url(broker)
        if endpoint.tls:
            raise UserError(f"--faults must see the packets: {endpoint} is encrypted, use an mqtt:// broker")
        if not supervisor.has(BROKER) and any(crash.device == BROKER for crash in scenario.faults.crashes):
            raise UserError(
                f"faults.crashes kills the broker, and {endpoint} was started by somebody else: "
                "use --broker mosquitto or embedded"
            )
        self._broker, self._supervisor = broker, supervisor
        groups = device_groups(scenario)
        members = members_of(groups)
        self._pairs = PairLinks(scenario.faults.links, members, str(seed))
        network = LinkNetwork({name: group.network for name, group in groups.items()}, str(seed), self._pairs)
        self._events = merge(
            fault_events(scenario.faults, members, seed), outages(groups), key=lambda event: event.at_s
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faults", daemon=True)
        self._thread.start()
        self._tasks: set[asyncio.Task[None]] = set()
        self._slow: dict[str, list[float]] = {}
        self._has_begun = False
        self._proxies = self._on_loop(self._start_proxies(devices, (endpoint.host, endpoint.port), network))

    def __enter__(self) -> LiveFaults:  # noqa: PYI034  typing.Self is younger than Python 3.10
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._on_loop(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def url(self, device: str) -> str:
        """Where this device finds the broker."""
        user, at, _ = urlsplit(self._broker).netloc.rpartition("@")
        return f"mqtt://{user}{at}127.0.0.1:{self._proxies[device].port}"

    def begin(self) -> None:
        """This is second 0, when it is called first."""
        self._loop.call_soon_threadsafe(self._begin)

    # ------------------------------------------------------------ on the thread

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _start_proxies(
        self, devices: Iterable[str], broker: tuple[str, int], network: LinkNetwork
    ) -> dict[str, AgentProxy]:
        proxies = {device: AgentProxy(device, broker, network) for device in devices}
        for proxy in proxies.values():
            await proxy.start()
        return proxies

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for proxy in self._proxies.values():
            await proxy.close()

    def _begin(self) -> None:
        if self._has_begun:
            return
        self._has_begun = True
        self._pairs.began_s = self._loop.time()
        self._do(self._go_through_events())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _go_through_events(self) -> None:
        began_s = self._loop.time()
        for event in self._events:
            await asyncio.sleep(began_s + event.at_s - self._loop.time())
            if event.who in self._proxies or event.who in (COORDINATOR, BROKER):
                self._PERFORM[event.what](self, event)

    def _crash(self, event: FaultEvent) -> None:
        self._supervisor.crash(event.who, event.value)

    def _slow_down(self, event: FaultEvent) -> None:
        if event.who in self._slow:
            self._slow[event.who].append(event.value)
            return
        self._slow[event.who] = [event.value]
        self._do(self._keep_slow(event.who, self._slow[event.who]))

    async def _keep_slow(self, device: str, factors: list[float]) -> None:
        """Stop the process for so much of each period that it takes the factors' product as long."""
        try:
            while factors:
                factor = math.prod(factors)
                self._supervisor.signal(device, signal.SIGSTOP)
                await asyncio.sleep(FREEZE_PERIOD_S * (1.0 - 1.0 / factor))
                self._supervisor.signal(device, signal.SIGCONT)
                await asyncio.sleep(FREEZE_PERIOD_S / factor)
        finally:
            del self._slow[device]
            self._supervisor.signal(device, signal.SIGCONT)

    _PERFORM: ClassVar = {
        "partition": lambda self, event: self._proxies[event.who].darken(),
        "heal": lambda self, event: self._proxies[event.who].lighten(),
        "leave": lambda self, event: self._proxies[event.who].cut(),
        "return": lambda self, event: self._proxies[event.who].mend(),
        "crash": _crash,
        "restart": lambda _self, _event: None,  # the supervisor's, who was told at the crash
        "slow": _slow_down,
        "recover": lambda self, event: self._slow[event.who].remove(event.value),
    }


def outages(groups: Mapping[str, Group]) -> Iterator[FaultEvent]:
    """The outages of the devices' own links by rising time."""
    events = [
        event
        for device, group in groups.items()
        for from_s, until_s in group.network.outages_s
        for event in (FaultEvent(from_s, "leave", device), FaultEvent(until_s, "return", device))
    ]
    return iter(sorted(events, key=lambda event: event.at_s))
