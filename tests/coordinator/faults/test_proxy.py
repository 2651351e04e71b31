"""The proxy between an agent and the broker, with real clients, mosquitto and the embedded broker."""

import contextlib
import queue
import socket
import threading
import time

import paho.mqtt.client as paho
import psutil
import pytest

from coordinator.broker import find_mosquitto, start_broker
from coordinator.faults.live import LiveFaults
from coordinator.faults.pump import MAX_PACKET_BYTES
from coordinator.supervisor import Patience, Supervisor
from coordinator.twins.faults import Churn, Crash, Faults, PairFault, Partition, Slow
from coordinator.twins.groups import Group, Link
from coordinator.twins.scenario import Scenario
from device_agent.wire.mqtt_options import parse_url
from firmware_profiles.errors import UserError

PATIENCE_S = 20.0
PERFECT = Link()
BOTH = [
    "embedded",
    pytest.param("mosquitto", marks=pytest.mark.skipif(not find_mosquitto(), reason="not installed")),
]


class Client:
    """A client that comes back by itself; what it hears can be awaited."""

    def __init__(self, url, name, *patterns):
        endpoint = parse_url(url)
        self.heard, self.connected, self.lost = queue.Queue(), queue.Queue(), queue.Queue()
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id=name, clean_session=False, reconnect_on_failure=True
        )
        self.client.reconnect_delay_set(min_delay=0.05, max_delay=0.05)  # type: ignore[arg-type]
        self._patterns = [(pattern, 1) for pattern in patterns]
        self.client.on_connect = self._on_connect
        self.client.on_subscribe = lambda *_: self.connected.put(time.monotonic())
        self.client.on_disconnect = lambda *_: self.lost.put(time.monotonic())
        self.client.on_message = lambda _c, _d, message: self.heard.put((message.topic, message.payload))
        self.client.connect(endpoint.host, endpoint.port, 60)
        self.client.loop_start()
        self.connected.get(timeout=PATIENCE_S)

    def _on_connect(self, client, *_):
        client.subscribe(self._patterns)

    def send(self, topic, payload, qos):
        return self.client.publish(topic, payload, qos)

    def hear_until(self, payload):
        """Payloads heard, up to this one."""
        got = []
        while not got or got[-1] != payload:
            got.append(self.heard.get(timeout=PATIENCE_S)[1])
        return got

    def leave(self):
        self.client.disconnect()
        self.client.loop_stop()
        for event in ("connect", "disconnect", "message", "subscribe"):
            setattr(self.client, f"on_{event}", None)


@pytest.fixture(scope="module")
def broker_url(tmp_path_factory):
    running = {}

    def get(kind):
        if kind not in running:
            running[kind] = start_broker(kind, tmp_path_factory.mktemp(kind))
        return running[kind].url

    yield get
    for broker in running.values():
        broker.stop()


@pytest.fixture(params=BOTH)
def url(request, broker_url):
    return broker_url(request.param)


@pytest.fixture
def supervisor(tmp_path):
    with Supervisor(signals=False, patience=Patience(num_fast_failures=2)) as watching:
        yield watching


@pytest.fixture
def start(supervisor):
    """A function that puts faults before a broker, for devices dev-1 and dev-2."""
    running = []

    def begin(url, link=PERFECT, **faults):
        scenario = Scenario(
            name="live",
            devices=(Group(profile="raspberry-pi-4", id="dev", count=2, network=link),),
            faults=Faults(**faults),
        )
        running.append(LiveFaults(scenario, ("dev-1", "dev-2"), url, supervisor, seed=1))
        return running[-1]

    yield begin
    for faults in running:
        faults.__exit__(None, None, None)


@pytest.fixture
def join():
    """A function that connects a client; all are gone at the end."""
    clients = []

    def connect(url, name, *patterns):
        clients.append(Client(url, name, *patterns or ("none",)))
        return clients[-1]

    yield connect
    for client in clients:
        client.leave()


def peer(from_, to):
    return f"edgetide/v1/f/{from_}/peer/{to}"


def flood(sender, receiver_topic, num, qos):
    for number in range(num):
        sender.send(receiver_topic, b"%d" % number, qos)


def test_qos_0_to_a_peer_is_lost_by_rule_and_qos_1_is_not(url, start, join):
    faults = start(url, links=(PairFault(from_="dev-1", loss_fraction=1.0),))
    two = join(faults.url("dev-2"), "lossy-2", peer("+", "dev-2"), "edgetide/v1/f/dev-2/down")
    one, others = join(faults.url("dev-1"), "lossy-1"), join(url, "lossy-0")
    flood(one, peer("dev-1", "dev-2"), 20, 0)
    others.send("edgetide/v1/f/dev-2/down", b"from the coordinator", 0)
    assert two.hear_until(b"from the coordinator") == [b"from the coordinator"]
    one.send(peer("dev-1", "dev-2"), b"must arrive", 1)
    assert two.hear_until(b"must arrive") == [b"must arrive"]


def test_a_share_of_qos_0_is_lost_by_the_seed(url, start, join):
    def arrived(name):
        faults = start(url, links=(PairFault(from_="dev-1", to="dev-2", loss_fraction=0.3),))
        two = join(faults.url("dev-2"), f"{name}-2", peer("dev-1", "dev-2"), "last")
        one = join(faults.url("dev-1"), f"{name}-1")
        flood(one, peer("dev-1", "dev-2"), 300, 0)
        one.send("last", b"the last", 1)
        return two.hear_until(b"the last")

    first = arrived("share")
    assert len(first) == 198
    assert arrived("again") == first


def test_latency_delays_what_is_for_the_pair_alone(url, start, join):
    faults = start(url, links=(PairFault(from_="dev-1", to="dev-2", latency_ms=300),))
    two = join(faults.url("dev-2"), "late-2", peer("dev-1", "dev-2"), "x")
    one = join(faults.url("dev-1"), "late-1")
    began_s = time.monotonic()
    one.send(peer("dev-1", "dev-2"), b"late", 0)
    one.send("x", b"early", 0)
    assert two.hear_until(b"late") == [b"early", b"late"]
    assert 0.3 <= time.monotonic() - began_s < 5.0


def test_bandwidth_throttles(url, start, join):
    faults = start(url, link=Link(up_kbit_s=800))
    one, heard = join(faults.url("dev-1"), "thin-1"), join(url, "thin-0", "x")
    began_s = time.monotonic()
    for _ in range(5):
        one.send("x", bytes(10_000), 0)
    one.send("x", b"the last", 0)
    assert len(heard.hear_until(b"the last")) == 6
    assert time.monotonic() - began_s >= 5 * 80_000 / 800_000


def test_qos_1_is_not_lost_over_a_cut_and_a_reconnect(url, start, join):
    faults = start(url)
    listener, one = join(url, "cut-0", "x"), join(faults.url("dev-1"), "cut-1")
    proxy = faults._proxies["dev-1"]
    flood(one, "x", 50, 1)
    faults._loop.call_soon_threadsafe(proxy.cut)
    one.lost.get(timeout=PATIENCE_S)
    flood(one, "x", 50, 1)
    faults._loop.call_soon_threadsafe(proxy.mend)
    one.connected.get(timeout=PATIENCE_S)
    one.send("x", b"the last", 1)
    assert {b"%d" % number for number in range(50)} <= set(listener.hear_until(b"the last"))


def test_a_partition_lets_nothing_through_and_heals_without_loss(url, start, join):
    faults = start(url)
    listener, one = join(url, "dark-0", "x"), join(faults.url("dev-1"), "dark-1")
    proxy = faults._proxies["dev-1"]
    darkened = threading.Event()
    faults._loop.call_soon_threadsafe(lambda: (proxy.darken(), darkened.set()))
    darkened.wait(PATIENCE_S)
    one.send("x", b"in the dark", 1)
    join(url, "dark-2").send("x", b"in the light", 1)
    assert listener.hear_until(b"in the light") == [b"in the light"]
    faults._loop.call_soon_threadsafe(proxy.lighten)
    assert listener.hear_until(b"in the dark") == [b"in the dark"]
    assert one.lost.empty()


def test_the_schedule_of_a_scenario_cuts_and_mends(broker_url, start, join):
    faults = start(broker_url("embedded"), churn=Churn(mean_up_s=0.1, mean_down_s=0.1, devices=("dev-1",)))
    one = join(faults.url("dev-1"), "churn-1")
    faults.begin()
    faults.begin()
    one.lost.get(timeout=PATIENCE_S)
    one.connected.get(timeout=PATIENCE_S)


def test_a_partition_by_schedule_holds_a_message_back_until_it_is_over(broker_url, start, join):
    url = broker_url("embedded")
    faults = start(url, partitions=(Partition(from_s=0, until_s=0.5, devices=("dev",)),))
    listener, one = join(url, "span-0", "x"), join(faults.url("dev-1"), "span-1")
    proxy = faults._proxies["dev-1"]
    began_s = time.monotonic()
    faults.begin()
    while proxy._is_lit.is_set():
        assert time.monotonic() - began_s < 0.5
    one.send("x", b"held", 0)
    listener.hear_until(b"held")
    assert time.monotonic() - began_s >= 0.5


@pytest.mark.parametrize(
    "hostile",
    [
        b"\x30\xff\xff\xff\xff\x01",  # a length of five bytes
        b"\x30\x80\x80\x80\x7f",  # longer than any packet we take
        b"\x30\x02\x00\x09",  # a topic longer than its packet
        b"\x36\x05\x00\x01x\x00\x01",  # QoS 3
        b"\x30\x03\x00\x01\xff",  # a topic that is no text
    ],
)
def test_what_is_no_mqtt_cuts_the_connection(broker_url, start, hostile):
    faults = start(broker_url("embedded"))
    endpoint = parse_url(faults.url("dev-1"))
    with socket.create_connection((endpoint.host, endpoint.port), PATIENCE_S) as connection:
        connection.sendall(hostile)
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_what_is_held_back_is_bounded(start):
    """A sender is slowed down by TCP while the other side is in the dark."""
    with socket.create_server(("127.0.0.1", 0)) as sink:
        faults = start(f"mqtt://127.0.0.1:{sink.getsockname()[1]}", link=Link(latency_ms=60_000))
        endpoint = parse_url(faults.url("dev-1"))
        with socket.create_connection((endpoint.host, endpoint.port), PATIENCE_S) as connection:
            connection.settimeout(0.3)
            body = b"\x00\x01x" + bytes(200_000 - 3)
            packet = b"\x30\xc0\x9a\x0c" + body
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < 100 * len(packet):
                    sent += connection.send(packet[sent % len(packet) :])
            assert sent < 20 * MAX_PACKET_BYTES


def test_without_a_broker_the_agent_is_refused(start):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    faults = start(f"mqtt://127.0.0.1:{port}")
    endpoint = parse_url(faults.url("dev-1"))
    with (
        pytest.raises(ConnectionResetError),
        socket.create_connection((endpoint.host, endpoint.port), PATIENCE_S) as connection,
    ):
        connection.recv(1)


def test_the_users_name_and_password_go_to_the_proxy(start):
    assert (
        start("mqtt://pump:s%2Fecret@127.0.0.1:9").url("dev-1").startswith("mqtt://pump:s%2Fecret@127.0.0.1:")
    )


def test_an_encrypted_broker_is_refused(start):
    with pytest.raises(UserError, match="is encrypted"):
        start("mqtts://127.0.0.1:9")


# ---------------------------------------------------------------- processes


def test_a_crash_is_a_kill_and_the_process_comes_back_when_it_should(start, supervisor, tmp_path):
    first = supervisor.start("dev-1", ["sleep", "60"], log_path=tmp_path / "log", agent=True)
    faults = start("mqtt://127.0.0.1:9", crashes=(Crash(at_s=0, back_s=0.4, device="dev-1"),))
    began_s = time.monotonic()
    faults.begin()
    assert supervisor.wait_until(lambda: supervisor.pid("dev-1") != first, PATIENCE_S)
    assert supervisor.wait_until(lambda: supervisor.pid("dev-1") not in (None, first), PATIENCE_S)
    assert time.monotonic() - began_s >= 0.4
    assert supervisor.num_restarts("dev-1") == 1


def test_a_broker_that_somebody_else_started_is_not_to_crash(start):
    with pytest.raises(UserError, match="started by somebody else"):
        start("mqtt://127.0.0.1:9", crashes=(Crash(at_s=0, back_s=1, device="broker"),))


def test_crashes_are_no_failures(start, supervisor, tmp_path):
    supervisor.start("dev-1", ["sleep", "60"], log_path=tmp_path / "log", agent=True)
    for number in range(1, 4):
        supervisor.crash("dev-1", 0.0)
        assert supervisor.wait_until(
            lambda number=number: supervisor.num_restarts("dev-1") == number, PATIENCE_S
        )
    supervisor.check()


def test_a_slow_process_is_stopped_for_a_share_of_the_time_and_goes_on_at_the_end(
    start, supervisor, tmp_path
):
    pid = supervisor.start("dev-1", ["sleep", "60"], log_path=tmp_path / "log", agent=True)
    faults = start("mqtt://127.0.0.1:9", slow=(Slow(from_s=0, until_s=0.5, devices=("dev-1",), factor=4),))

    def await_state(wanted):
        until_s = time.monotonic() + PATIENCE_S
        while (state := psutil.Process(pid).status()) not in wanted:
            assert time.monotonic() < until_s, state

    faults.begin()
    await_state([psutil.STATUS_STOPPED])
    while faults._slow:
        time.sleep(0.01)
    await_state([psutil.STATUS_SLEEPING, psutil.STATUS_RUNNING])
