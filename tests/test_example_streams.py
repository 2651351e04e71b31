"""The example streams make samples that a device can read."""

from __future__ import annotations

import queue
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import paho.mqtt.client as paho
import pytest

from device_agent.streams.command_stream import CommandStream
from device_agent.streams.reading import GivenIds, read_event
from models.data.live import parse_live
from models.data.stream import load_stream

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "streams"
OPTIONS = "features=2&classes=left,right"
ENOUGH_S = 30.0


def start(name, *arguments):
    return subprocess.Popen([sys.executable, str(FOLDER / name), *arguments])


def test_the_stored_stream_is_what_its_script_writes(tmp_path):
    made = tmp_path / "made.csv"
    process = start("rotating.py", str(made), "--samples", "3000", "--swap-at", "1800")
    assert process.wait(ENOUGH_S) == 0
    stored = FOLDER / "rotating.csv"
    assert made.read_text() == stored.read_text()
    assert stored.stat().st_size < 100_000


def test_the_stored_stream_is_data_of_two_features_and_two_classes():
    data = load_stream(str(FOLDER / "rotating.csv")).dataset
    assert data.samples.shape == (3000, 2)
    assert data.num_classes == 2


def test_the_sensor_is_a_command_whose_samples_all_get_their_labels():
    command = shlex.join([sys.executable, str(FOLDER / "sensor.py"), "--samples", "40", "--every", "0"])
    source = parse_live(f"command:{command}?{OPTIONS}")
    assert source is not None
    posted, samples, ends = queue.SimpleQueue(), [], []
    stream = CommandStream(source, posted.put)
    stream.start(samples.extend, lambda: ends.append(True))
    while not ends:
        posted.get(timeout=ENOUGH_S)()
    assert stream.num_missed == 0
    vectors = {one.number for one in samples if one.vector is not None}
    labels = [one.number for one in samples if one.vector is None]
    assert vectors == set(labels) == set(range(40))
    assert len(labels) == 40
    assert {one.label for one in samples if one.vector is None} == {0, 1}


def test_what_is_published_is_a_labelled_sample_for_each_device(mosquitto_broker):
    heard, subscribed, enough = [], threading.Event(), threading.Event()

    def on_message(_client, _data, message):
        heard.append((message.topic, message.payload))
        if len(heard) == 10:
            enough.set()

    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_message = on_message
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect("127.0.0.1", mosquitto_broker.port)
    client.subscribe("plant/#")
    client.loop_start()
    try:
        assert subscribed.wait(ENOUGH_S)
        arguments = ("--port", str(mosquitto_broker.port), "--samples", "5", "--every", "0.01")
        assert start("publish.py", "pump-1", "pump-2", *arguments).wait(ENOUGH_S) == 0
        assert enough.wait(ENOUGH_S)
    finally:
        client.disconnect()
        client.loop_stop()
    assert {topic for topic, _ in heard} == {"plant/pump-1/place", "plant/pump-2/place"}
    source = parse_live(f"mqtt:plant/{{device}}/place?{OPTIONS}")
    assert source is not None
    samples = [read_event(payload, source, number, GivenIds()) for number, (_, payload) in enumerate(heard)]
    assert all(one.vector is not None and one.label in (0, 1) for one in samples)


@pytest.mark.parametrize("name", ["rotating.py", "sensor.py", "publish.py"])
def test_a_script_says_how_it_is_used(name):
    asked = subprocess.run(
        [sys.executable, str(FOLDER / name), "--help"],
        capture_output=True,
        check=False,
        text=True,
        timeout=ENOUGH_S,
    )
    assert asked.returncode == 0
    assert "usage:" in asked.stdout
    assert asked.stderr == ""
