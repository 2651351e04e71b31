"""Reading where live devices operate, from a page or a file: another process' claim."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from dse import live
from dse.live import read_fleet
from firmware_profiles.errors import PeerError, UserError, WorldError

VIEW = {
    "about": {"broker": "embedded"},
    "run": None,
    "groups": [{"name": "a.weight", "num_channels": 4}],
    "devices": [
        {
            "device": "device-1",
            "state": "training",
            "online": True,
            "vector": [2],
            "macs_fraction": 0.5,
            "macs_series": [[3.0, 0.25], [1.0, 0.5]],
            "hello": {"profile": "generic-linux"},
        },
        {"device": "device-2", "state": "joining", "vector": None, "macs_fraction": None, "macs_series": []},
    ],
    "events": [],
}


@contextmanager
def page(status=200, body=b"", before=lambda: None):
    """A page that answers everything alike; yields (url, paths asked for)."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            before()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_page_is_asked_for_its_fleet():
    with page(body=json.dumps(VIEW).encode()) as (url, asked):
        found = read_fleet(url)
    assert asked == ["/api/v1/fleet"]
    assert found.groups[0].num_channels == 4
    assert found.devices[0].vector == (2,)
    assert found.devices[0].macs_series == ((3.0, 0.25), (1.0, 0.5))
    assert found.devices[1].vector is None


def test_a_page_behind_a_path_is_asked_there():
    with page(body=json.dumps(VIEW).encode()) as (url, asked):
        read_fleet(f"{url}/edge/api/v1/fleet")
    assert asked == ["/edge/api/v1/fleet"]


def test_a_saved_file_is_read_as_the_page_is(tmp_path):
    path = tmp_path / "fleet.json"
    path.write_text(json.dumps(VIEW))
    assert [one.device for one in read_fleet(str(path)).devices] == ["device-1", "device-2"]


def changed(**fields):
    return {**VIEW, "devices": [{**VIEW["devices"][0], **fields}]}


@pytest.mark.parametrize(
    "content",
    [
        b"<html>",
        b"\xff\xfe",
        b"[]",
        b'{"groups": []}',
        json.dumps(changed(vector=[0])).encode(),
        json.dumps(changed(macs_fraction=1.5)).encode(),
        json.dumps(changed(macs_fraction=float("nan"))).encode(),
        json.dumps(changed(macs_series=[[1.0, float("inf")]])).encode(),
        json.dumps(changed(device="<script>")).encode(),
        json.dumps(changed(state="x" * 99)).encode(),
    ],
)
def test_what_is_no_fleet_is_refused_whoever_says_it(tmp_path, content):
    path = tmp_path / "fleet.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"fleet\.json is not what a coordinator's /api/v1/fleet answers"):
        read_fleet(str(path))
    with page(body=content) as (url, _), pytest.raises(PeerError, match="is not what a coordinator's"):
        read_fleet(url)


def test_an_answer_larger_than_any_fleet_is_refused(monkeypatch):
    monkeypatch.setattr(live, "MAX_BYTES", 2**20)
    with page(body=b" " * (2**20 + 1)) as (url, _), pytest.raises(PeerError, match="larger than 1 MiB"):
        read_fleet(url)


def test_an_error_of_the_page_is_told_with_its_number():
    with page(status=421) as (url, _), pytest.raises(WorldError, match="answered 421"):
        read_fleet(url)


def test_a_page_that_does_not_answer_is_given_up():
    released = threading.Event()
    with page(before=lambda: released.wait(10)) as (url, _):
        with pytest.raises(WorldError, match="does not answer"):
            read_fleet(url, timeout_s=0.05)
        released.set()


def test_a_host_where_nobody_listens_is_told():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(WorldError, match="is the coordinator running"):
        read_fleet(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("source", ["ftp://host/fleet", "file:///etc/passwd", "http://", "http://host:99999"])
def test_what_is_no_address_is_refused(source):
    with pytest.raises(UserError):
        read_fleet(source)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none\.json"):
        read_fleet(str(tmp_path / "none.json"))
