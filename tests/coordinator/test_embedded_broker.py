"""The embedded broker as a process, with real MQTT clients; where MQTT says what is right, mosquitto too."""

import asyncio
import queue
import socket
import threading
from pathlib import Path

import paho.mqtt.client as paho
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.reasoncodes import ReasonCode

from coordinator import embedded_broker
from coordinator.broker import find_mosquitto, start_broker
from coordinator.embedded_connection import MalformedError, read_packet
from coordinator.embedded_mailbox import Limits, Mailbox, Message, Meter, decode_publish, encode_publish
from coordinator.embedded_routing import Routing
from device_agent.wire.mqtt_options import parse_url
from firmware_profiles.errors import UserError

PATIENCE_S = 20.0
CREDENTIALS = {"coordinator": "c-secret", "dev1": "1-secret", "dev9": "9-secret"}
BOTH = [
    "embedded",
    pytest.param("mosquitto", marks=pytest.mark.skipif(not find_mosquitto(), reason="not installed")),
]


class Peer:
    """A paho client whose events can be awaited."""

    def __init__(
        self,
        url,
        name,
        *,
        clean=True,
        keepalive_s=60,
        will=None,
        user=None,
        hold=False,
        version=paho.MQTTv311,
    ):
        endpoint = parse_url(url)
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id=name,
            clean_session=clean if version == paho.MQTTv311 else None,
            protocol=version,
            manual_ack=hold,
            reconnect_on_failure=False,
        )
        self.messages, self.granted, self.published = queue.Queue(), queue.Queue(), queue.Queue()
        self.connected, self.ended, self.code, self.present = threading.Event(), threading.Event(), None, None
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = lambda *_: self.ended.set()
        self.client.on_message = lambda _c, _d, message: self.messages.put(message)
        self.client.on_subscribe = lambda _c, _d, _m, codes, _p: self.granted.put(
            [code.value for code in codes]
        )
        self.client.on_publish = lambda _c, _d, mid, _r, _p: self.published.put(mid)
        if will:
            self.client.will_set(*will)
        if user:
            self.client.username_pw_set(user, CREDENTIALS[user])
        self.client.connect(endpoint.host, endpoint.port, keepalive_s)
        self.client.loop_start()
        assert self.connected.wait(PATIENCE_S)

    def _on_connect(self, _client, _data, flags, code: ReasonCode, _properties):
        self.code, self.present = code, flags.session_present
        self.connected.set()

    def subscribe(self, pattern, qos=1):
        self.client.subscribe(pattern, qos)
        return self.granted.get(timeout=PATIENCE_S)[0]

    def publish(self, topic, payload=b"x", qos=1, *, retain=False):
        """Publish and wait until the broker has it."""
        self.client.publish(topic, payload, qos, retain).wait_for_publish(PATIENCE_S)

    def receive(self):
        return self.messages.get(timeout=PATIENCE_S)

    def payloads(self, num):
        return [self.receive().payload for _ in range(num)]

    def all_until(self, other, topic):
        """What has come when a message that was sent last arrives."""
        other.publish(topic, b"the last")
        got = []
        while (message := self.receive()).payload != b"the last":
            got.append(message)
        return got

    def fall_silent(self):
        """Stop reading and writing, with the connection open, as when Wi-Fi is lost."""
        self.client.loop_stop()

    def vanish(self):
        """Close the connection without a goodbye."""
        self.client.loop_stop()
        self.client.socket().close()

    def leave(self):
        self.client.disconnect()
        self.client.loop_stop()
        # paho closes its inner sockets when it is deleted, which a cycle through callbacks would put off.
        for event in ("connect", "disconnect", "message", "subscribe", "publish"):
            setattr(self.client, f"on_{event}", None)


@pytest.fixture(scope="module")
def brokers(tmp_path_factory):
    running = {}

    def get(kind, credentials=None):
        key = (kind, credentials is not None)
        if key not in running:
            folder = tmp_path_factory.mktemp(f"{kind}{len(running)}")
            running[key] = start_broker(kind, folder, credentials=credentials)
        return running[key]

    yield get
    for broker in running.values():
        broker.stop()


@pytest.fixture
def join(brokers):
    """Connect peers that are gone at the end of the test."""
    peers = []

    def connect(kind, name, **options):
        peers.append(Peer(brokers(kind, CREDENTIALS if "user" in options else None).url, name, **options))
        return peers[-1]

    yield connect
    for peer in peers:
        peer.leave()


@pytest.mark.parametrize("kind", BOTH)
def test_a_device_that_falls_silent_is_declared_lost_by_its_will(kind, join):
    watcher = join(kind, "silent-watcher")
    watcher.subscribe("silent/+")
    join(kind, "silent", keepalive_s=1, will=("silent/status", b"lost", 1)).fall_silent()
    assert watcher.receive().payload == b"lost"


def test_a_healthy_idle_client_is_kept_beyond_its_keepalive(join):
    silent = join("embedded", "idle-silent", keepalive_s=3, will=("idle/silent", b"lost", 1))
    watcher = join("embedded", "idle-watcher")
    watcher.subscribe("idle/#")
    idle = join("embedded", "idle", keepalive_s=1, will=("idle/healthy", b"lost", 1))
    silent.fall_silent()  # its will comes after 4.5 s, when the idle one's would be overdue thrice
    assert watcher.receive().topic == "idle/silent"
    assert not idle.ended.is_set()


@pytest.mark.parametrize("kind", BOTH)
def test_a_clean_goodbye_sends_no_will(kind, join):
    watcher = join(kind, "bye-watcher")
    watcher.subscribe("bye/#")
    join(kind, "bye", will=("bye/status", b"lost", 1)).leave()
    assert watcher.all_until(watcher, "bye/end") == []


@pytest.mark.parametrize("kind", BOTH)
def test_a_retained_will_is_there_for_those_who_come_later(kind, join):
    watcher = join(kind, "rwill-watcher")
    watcher.subscribe("rwill/#")
    join(kind, "rwill", will=("rwill/status", b"lost", 1, True)).vanish()
    watcher.receive()
    late = join(kind, "rwill-late")
    late.subscribe("rwill/#")
    message = late.receive()
    assert (message.payload, message.retain) == (b"lost", True)


@pytest.mark.parametrize("kind", BOTH)
def test_retained_messages_reach_only_those_who_subscribed_to_them(kind, join):
    first = join(kind, "leak-1")
    first.subscribe("leak/dev1/#")
    first.publish("leak/dev1/cfg", b"secret", retain=True)
    other = join(kind, "leak-9")
    other.subscribe("leak/dev9/#")
    assert other.all_until(first, "leak/dev9/end") == []


@pytest.mark.parametrize("kind", BOTH)
def test_an_empty_retained_message_clears_the_topic(kind, join):
    peer = join(kind, "clear")
    peer.publish("clear/a", b"kept", retain=True)
    peer.publish("clear/a", b"", retain=True)
    peer.subscribe("clear/#")
    assert peer.all_until(peer, "clear/end") == []


@pytest.mark.parametrize("kind", BOTH)
def test_unacknowledged_messages_are_sent_again_after_a_reconnect(kind, join):
    lazy = join(kind, "lazy", clean=False, hold=True)
    lazy.subscribe("lazy/#")
    sender = join(kind, "lazy-sender")
    for number in range(10):
        sender.publish("lazy/x", b"%d" % number)
    lazy.payloads(10)
    lazy.vanish()
    again = join(kind, "lazy", clean=False)
    messages = [again.receive() for _ in range(10)]
    assert again.present
    assert [message.payload for message in messages] == [b"%d" % number for number in range(10)]
    assert all(message.dup for message in messages)


@pytest.mark.parametrize("kind", BOTH)
def test_messages_wait_in_order_for_a_session_that_is_away(kind, join):
    away = join(kind, "away", clean=False)
    away.subscribe("away/#")
    away.leave()
    sender = join(kind, "away-sender")
    for number in range(50):
        sender.publish("away/x", b"%d" % number)
    assert join(kind, "away", clean=False).payloads(50) == [b"%d" % number for number in range(50)]


@pytest.mark.parametrize("kind", BOTH)
def test_a_clean_session_forgets_the_older_one(kind, join):
    old = join(kind, "forget", clean=False)
    old.subscribe("forget/#")
    old.leave()
    join(kind, "forget", clean=True).leave()
    assert not join(kind, "forget", clean=False).present


@pytest.mark.parametrize("kind", BOTH)
def test_a_second_connection_with_the_same_id_ends_the_first(kind, join):
    first = join(kind, "twice")
    join(kind, "twice")
    assert first.ended.wait(PATIENCE_S)


def test_a_session_that_goes_on_in_a_new_connection_is_not_declared_lost(join):
    watcher = join("embedded", "cont-watcher")
    watcher.subscribe("cont/#")
    will = ("cont/status", b"lost", 1)
    first = join("embedded", "cont", clean=False, will=will)
    join("embedded", "cont", clean=False, will=will)
    assert first.ended.wait(PATIENCE_S)
    assert watcher.all_until(watcher, "cont/end") == []


def test_shared_subscriptions_are_refused_instead_of_silently_empty(join):
    assert join("embedded", "share").subscribe("$share/group/work/#") == 0x80


@pytest.mark.parametrize("kind", BOTH)
def test_overlapping_filters_bring_one_copy(kind, join):
    peer = join(kind, "overlap")
    peer.subscribe("overlap/#")
    peer.subscribe("overlap/+")
    peer.publish("overlap/a", b"once")
    assert [message.payload for message in peer.all_until(peer, "overlap/deep/end")] == [b"once"]


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(("published", "subscribed", "delivered"), [(0, 1, 0), (1, 0, 0), (1, 1, 1)])
def test_a_message_arrives_at_the_lower_of_both_qualities(kind, published, subscribed, delivered, join):
    peer = join(kind, "quality")
    peer.subscribe("quality/#", subscribed)
    peer.publish("quality/x", qos=published)
    assert peer.receive().qos == delivered


def test_a_publisher_at_qos_2_is_served_once_and_acknowledged(join):
    peer = join("embedded", "exactly")
    peer.subscribe("exactly/#")
    peer.publish("exactly/a", b"once", qos=2)
    assert [message.payload for message in peer.all_until(peer, "exactly/end")] == [b"once"]


def test_mqtt_5_is_refused_with_a_reason(brokers):
    peer = Peer(brokers("embedded").url, "five", version=paho.MQTTv5)
    assert str(peer.code) == "Unsupported protocol version"
    peer.leave()


@pytest.mark.parametrize("kind", BOTH)
def test_a_packet_over_the_limit_ends_the_connection_of_its_sender_only(kind, join):
    watcher, sender = join(kind, "poison-watcher"), join(kind, "poison")
    watcher.subscribe("poison/#")
    sender.client.publish("poison/x", bytes(262_145), 1)
    assert sender.ended.wait(PATIENCE_S)
    assert watcher.all_until(watcher, "poison/end") == []


@pytest.mark.parametrize("kind", BOTH)
def test_a_payload_of_one_chunk_passes(kind, join):
    peer = join(kind, "chunk")
    peer.subscribe("chunk/#")
    peer.publish("chunk/x", bytes(131_072 + 512))
    assert len(peer.receive().payload) == 131_072 + 512


def test_a_subscriber_that_does_not_read_costs_bounded_memory_and_harms_nobody(join, brokers):
    stuck, healthy, sender = join("embedded", "stuck"), join("embedded", "well"), join("embedded", "flood")
    stuck.subscribe("flood/#")
    healthy.subscribe("flood/#")
    stuck.fall_silent()
    before = psutil.Process(brokers("embedded").pid).memory_info().rss
    for _ in range(1000):
        sender.publish("flood/x", bytes(130_000))
        healthy.receive()
    grown = psutil.Process(brokers("embedded").pid).memory_info().rss - before
    # 130 MB were sent; 64 MiB may wait for one client, beside buffers and the allocator's slack.
    assert grown < 100 * 2**20


@pytest.mark.parametrize("kind", BOTH)
class TestWithCredentials:
    """The rules of broker_access at both brokers."""

    def test_a_wrong_password_is_refused(self, kind, brokers, monkeypatch):
        url = brokers(kind, CREDENTIALS).url
        monkeypatch.setitem(CREDENTIALS, "dev1", "guess")
        peer = Peer(url, "home-dev1", user="dev1")
        assert peer.code.is_failure
        peer.leave()

    def test_a_device_publishes_under_its_own_id_only(self, kind, join):
        coordinator = join(kind, "home-coordinator", user="coordinator")
        device = join(kind, "home-dev9", user="dev9")
        coordinator.subscribe("edgetide/v1/home/#")
        device.publish("edgetide/v1/home/dev1/up", b"forged")
        device.publish("edgetide/v1/home/dev9/up", b"own")
        assert coordinator.receive().payload == b"own"

    def test_a_device_leaves_no_will_in_the_name_of_another(self, kind, join):
        coordinator = join(kind, "home-coordinator", user="coordinator")
        coordinator.subscribe("edgetide/v1/home/+/status")
        join(kind, "home-dev9", user="dev9", will=("edgetide/v1/home/dev1/status", b"forged", 1)).vanish()
        join(kind, "home-dev1", user="dev1", will=("edgetide/v1/home/dev1/status", b"true", 1)).vanish()
        assert coordinator.receive().payload == b"true"

    def test_a_device_hears_its_orders_and_not_those_of_another(self, kind, join):
        coordinator, device = (
            join(kind, "home-coordinator", user="coordinator"),
            join(kind, "home-dev9", user="dev9"),
        )
        for pattern in ("edgetide/v1/home/dev1/down/#", "edgetide/#", "edgetide/v1/home/dev9/down/#"):
            device.subscribe(pattern)
        coordinator.publish("edgetide/v1/home/dev1/down", b"another's")
        coordinator.publish("edgetide/v1/home/dev9/down", b"mine")
        assert device.receive().payload == b"mine"

    def test_neighbours_reach_each_other_on_peer_topics(self, kind, join):
        one, nine = join(kind, "home-dev1", user="dev1"), join(kind, "home-dev9", user="dev9")
        nine.subscribe("edgetide/v1/home/dev1/peer/dev9")
        one.publish("edgetide/v1/home/dev1/peer/dev9", b"hello")
        assert nine.receive().payload == b"hello"


def test_a_device_cannot_take_the_client_id_of_another(join):
    first = join("embedded", "home-dev1", user="dev1")
    thief = join("embedded", "home-dev1", user="dev9")
    assert thief.code.is_failure
    assert not first.ended.is_set()


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_from_a_stranger_break_the_broker(strangers_broker, data):
    with socket.create_connection(("127.0.0.1", strangers_broker.port), PATIENCE_S) as stranger:
        stranger.sendall(data)
    with socket.create_connection(("127.0.0.1", strangers_broker.port), PATIENCE_S) as friend:
        friend.sendall(b"\x10\x0d\0\4MQTT\4\2\0\0\0\1f")
        assert friend.recv(4) == b"\x20\2\0\0"
        friend.sendall(data)
    strangers_broker.raise_failures()


@pytest.fixture(scope="module")
def strangers_broker():
    """The broker in a thread of this process, where its errors can be seen."""

    class Running:
        port, errors = 0, []

        def raise_failures(self):
            assert not self.errors

    running, ready, loop = Running(), threading.Event(), asyncio.new_event_loop()

    async def serve():
        loop.set_exception_handler(lambda _loop, context: running.errors.append(context))
        broker = embedded_broker.HardenedBroker(0, limits=Limits(packet_bytes=4096))
        await broker.start()
        running.port, running.stop = broker.port, asyncio.Event()
        ready.set()
        await running.stop.wait()
        await broker.shutdown()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(PATIENCE_S)
    yield running
    loop.call_soon_threadsafe(running.stop.set)
    thread.join()
    loop.close()


def test_an_amqtt_that_was_not_tested_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(embedded_broker.importlib.metadata, "version", lambda _: "0.99.0")
    with pytest.raises(UserError, match=r"needs amqtt 0\.12\.1 and finds 0\.99\.0"):
        embedded_broker.check_amqtt_version()


def test_a_port_in_use_is_one_clear_line(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert embedded_broker.main(["--port", str(taken.getsockname()[1])]) == 1
    assert "cannot listen on 127.0.0.1" in capsys.readouterr().err


# ---------------------------------------------------------------- parts


@given(
    st.builds(
        Message, st.binary(max_size=300), st.binary(max_size=300), st.sampled_from([0, 1, 2]), st.booleans()
    ),
    st.integers(1, 65_535),
)
@settings(deadline=None)
def test_a_publish_packet_comes_back_as_it_was(message, packet_id):
    async def decode():
        reader = asyncio.StreamReader()
        reader.feed_data(encode_publish(message, packet_id))
        packet = await read_packet(reader, 1000)
        return decode_publish(packet.head & 0x0F, packet.body)

    assert asyncio.run(decode()) == (message, packet_id if message.qos else 0)


def test_a_packet_length_of_five_bytes_is_malformed():
    async def read():
        reader = asyncio.StreamReader()
        reader.feed_data(b"\x30\xff\xff\xff\xff\x01")
        await read_packet(reader, 10**9)

    with pytest.raises(MalformedError):
        asyncio.run(read())


def test_a_full_mailbox_keeps_the_oldest_and_counts_the_rest():
    mailbox = Mailbox(Limits(queued_messages=2), Meter())
    kept = [mailbox.put(Message(b"t", b"%d" % number, 1)) for number in range(5)]
    assert kept == [True, True, False, False, False]
    assert mailbox.dropped == 3


def test_no_more_than_the_window_is_in_flight():
    mailbox = Mailbox(Limits(inflight_messages=2), Meter())
    for _ in range(3):
        mailbox.put(Message(b"t", b"", 1))
    first = mailbox.take()
    mailbox.take()
    assert mailbox.take() is None
    mailbox.acknowledged(first[1])
    assert mailbox.take() is not None


@given(st.lists(st.sampled_from(["put0", "put1", "take", "ack", "gone", "clear"]), max_size=60))
@settings(deadline=None)
def test_the_bytes_counted_are_the_bytes_held(steps):
    meter = Meter()
    mailbox = Mailbox(Limits(queued_messages=10), meter)
    for step in steps:
        if step.startswith("put"):
            mailbox.put(Message(b"topic", b"payload", int(step[3])))
        elif step == "take":
            mailbox.take()
        elif step == "ack":
            mailbox.acknowledged(next(iter(mailbox.inflight), 0))
        elif step == "gone":
            mailbox.disconnected()
        else:
            mailbox.clear()
        held = [*mailbox.pending, *mailbox.inflight.values()]
        assert meter.used_bytes == sum(message.size_bytes for message in held)


def test_all_mailboxes_together_are_bounded():
    routing = Routing(Limits(all_queued_bytes=1000))
    for number in range(10):
        routing.mailbox(str(number))
        routing.subscribe(str(number), "t", 1)
    for _ in range(20):
        routing.route("t", Message(b"t", b"x", 1))
    assert routing.queued_bytes <= 1000


def test_retained_messages_are_bounded_and_a_known_topic_may_still_change():
    routing = Routing(Limits(retained_messages=2))
    for topic, payload in (("a", b"1"), ("b", b"1"), ("c", b"1"), ("a", b"2")):
        routing.route(topic, Message(topic.encode(), payload, 1, retain=True))
    mailbox = routing.mailbox("late")
    routing.greet("late", "#", 1)
    assert sorted((message.topic, message.payload) for message in mailbox.pending) == [
        (b"a", b"2"),
        (b"b", b"1"),
    ]


def test_the_number_of_filters_of_a_client_is_bounded():
    routing = Routing(Limits(subscriptions=1))
    assert routing.subscribe("c", "a", 1) == 1
    assert routing.subscribe("c", "b", 1) is None


def test_the_broker_listens_on_the_loopback_interface_only(brokers):
    process = psutil.Process(brokers("embedded").pid)
    assert {entry.laddr.ip for entry in process.net_connections("tcp") if entry.status == "LISTEN"} == {
        "127.0.0.1"
    }


def test_the_log_stays_quiet_about_what_is_ordinary(tmp_path: Path):
    with start_broker("embedded", tmp_path) as broker:
        for _ in range(5):
            Peer(broker.url, "quiet").leave()
        log = broker.log_path.read_text()
    assert len(log.splitlines()) < 5, log
