"""Learning from streams, live: real agents over a real broker, some cut off, and whispers repeated."""

from __future__ import annotations

import runpy
import threading
from collections import Counter, deque
from pathlib import Path

import paho.mqtt.client as paho
import pytest

from device_agent.wire.whispers import decode_whisper

pytestmark = pytest.mark.timeout(170)

streams = runpy.run_path(str(Path(__file__).parents[1] / "fixtures" / "streams.py"))
NUM, DEVICES = 4000, 10

FAULTS = """
name: cut-off
strategy: gossip
devices:
  - {profile: generic-linux, id: steady, count: 7}
  - {profile: generic-linux, id: cut, count: 3, network: {outages_s: [[3, 8]]}}
"""


class Parrot:
    """Says again what devices tell each other: twice, later, and in another order."""

    def __init__(self, url):
        host, _, port = url.removeprefix("mqtt://").partition(":")
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="parrot")
        self._client.on_connect = lambda client, *_: client.subscribe("edgetide/v1/+/+/peer/+", 0)
        self._client.on_message = self._heard
        self._said: set[bytes] = set()
        self._kept: deque[tuple[str, bytes]] = deque()
        self.num_said = 0
        self.kinds: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._client.connect(host, int(port))
        self._client.loop_start()

    def _heard(self, client, _data, message):
        with self._lock:
            if message.payload in self._said:
                return
            self._said.add(message.payload)
            self.kinds[type(decode_whisper(message.payload, message.topic).said).__name__] += 1
            self._kept.appendleft((message.topic, message.payload))
            if len(self._kept) < 5:
                return
            for topic, payload in [*self._kept, *self._kept]:
                client.publish(topic, payload, qos=0)
                self.num_said += 1
            self._kept.clear()

    def end(self):
        self._client.disconnect()
        self._client.loop_stop()


def heard_to_the_end(fleet):
    """The fleet once its run is over, with a parrot in it meanwhile."""
    parrot = Parrot(fleet.broker_url)
    try:
        assert fleet.wait() == 0, fleet.explain()
    finally:
        parrot.end()
    fleet.parrot = parrot
    return fleet


@pytest.fixture(scope="module")
def fleet(make_fleet, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    faults = folder / "faults.yaml"
    faults.write_text(FAULTS, encoding="utf-8")
    data = streams["write_csv"](folder / "stream.csv", NUM)
    fleet = make_fleet(
        "--exit",
        "--strategy",
        "gossip",
        "--data",
        data,
        "--faults",
        faults,
        "--sample-seconds",
        "0.04",
        "--round-seconds",
        "8",
        devices=DEVICES,
        rounds=1,
    )
    return heard_to_the_end(fleet)


def test_every_sample_counts_once_though_three_devices_were_cut_off(fleet):
    seen = fleet.report["streams"]
    assert seen["samples"] == NUM, fleet.explain()
    assert len(seen["devices"]) == DEVICES
    assert fleet.report["updates_refused"] == 0
    assert fleet.log("coordinator").count("device offline") >= 3


def test_accuracy_recovers(fleet):
    seen = fleet.report["streams"]
    assert seen["accuracy"] > 0.9  # 0.977 is the best there is
    assert all(device["accuracy"] > 0.85 for device in seen["devices"])
    # devices that were cut off catch up in one window, and the next may have nothing new
    assert [window["accuracy"] for window in seen["windows"] if window["samples"]][-1] > 0.9


def test_whispers_that_are_repeated_and_reordered_are_learned_once(fleet):
    seen = fleet.report["streams"]
    assert fleet.parrot.num_said > 20
    told, heard, repeats = (
        sum(device[name] for device in seen["devices"]) for name in ("told", "heard", "repeats")
    )
    assert repeats > fleet.parrot.num_said  # each repeat is heard by up to nine
    assert heard - repeats <= (DEVICES - 1) * told


SETS = "{sample_s: 0.05, sets: {gate: open, probability: 0.3, partners: 2, tells_changes: true}}"


@pytest.fixture(scope="module")
def fleet_of_sets(make_fleet, tmp_path_factory):
    """Devices that tell whole sets, or what changed in them."""
    folder = tmp_path_factory.mktemp("sets")
    (folder / "gossip.yaml").write_text(SETS, encoding="utf-8")
    fleet = make_fleet(
        "--exit",
        "--strategy",
        "gossip-paper",
        "--gossip",
        folder / "gossip.yaml",
        "--data",
        streams["write_csv"](folder / "stream.csv", 800),
        devices=3,
        rounds=1,
    )
    return heard_to_the_end(fleet)


def test_sets_are_told_by_what_changed_though_whispers_come_again_later(fleet_of_sets):
    seen, kinds = fleet_of_sets.report["streams"], fleet_of_sets.parrot.kinds
    assert seen["samples"] == 800, fleet_of_sets.explain()
    assert kinds["Changed"] > 5 * kinds["Whole"] > 0
    assert sum(device["repeats"] for device in seen["devices"]) > 20
    assert sum(device["unread"] for device in seen["devices"]) < kinds["Changed"] / 10
    assert seen["accuracy"] > 0.8
