"""Publishes samples for devices, one topic each, as a gateway would.

With a broker on this machine and its agents' names, first the fleet, then the samples:

    edgetide up --broker mqtt://127.0.0.1 --strategy gossip --data 'mqtt:plant/{device}/place?features=2&classes=left,right'
    python examples/streams/publish.py --host 127.0.0.1 device-1 device-2 device-3 device-4

Samples are not retained, and of QoS 0: what a device that is away misses is not there for it later.
"""  # noqa: E501 - a command is one line

from __future__ import annotations

import argparse
import json
import time

import paho.mqtt.client as mqtt
from rotating import rotating


def main() -> None:
    """Publish until there are enough, or until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Publish samples by MQTT.")
    parser.add_argument("devices", nargs="+", help="their ids")
    parser.add_argument("--host", default="127.0.0.1", help="of the broker")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--topic", default="plant/{device}/place")
    parser.add_argument("--every", type=float, default=0.05, help="seconds between two samples of a device")
    parser.add_argument("--samples", type=int, help="of each device; left out: without end")
    asked = parser.parse_args()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.connect(asked.host, asked.port)
    client.loop_start()
    streams = {device: rotating(seed) for seed, device in enumerate(asked.devices)}
    num = 0
    while asked.samples is None or num < asked.samples:
        for device, stream in streams.items():
            sample = next(stream)
            payload = json.dumps({"x": [sample.x, sample.y], "y": sample.label})
            sent = client.publish(asked.topic.format(device=device), payload)
        num += 1
        time.sleep(asked.every)
    if num:
        sent.wait_for_publish(10)
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    main()
