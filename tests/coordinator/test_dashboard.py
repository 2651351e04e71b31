"""The page's server over real sockets."""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import re
import socket
import threading

import pytest

from coordinator.dashboard.app import MAX_STREAMS, STATIC, create_app
from coordinator.dashboard.metrics import to_metrics
from coordinator.dashboard.server import Server, listen
from coordinator.fleet import Fleet, fold, to_json
from coordinator.peer_view import fold_report
from device_agent.wire.messages import Exchanges, PeerReport, Status, Telemetry
from firmware_profiles.errors import UserError
from tests.fixtures.shown_fleets import ABOUT, BOARDS, stream_fleet


def get(server, path, host=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{server.port}"})
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()
    finally:
        connection.close()


class Stream:
    """A client of the event stream."""

    def __init__(self, server):
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        self.connection.request("GET", "/api/v1/stream")
        self.response = self.connection.getresponse()

    def until(self, event, wanted):
        """The data of the first such event that is wanted."""
        while line := self.response.readline():
            if line.strip() == f"event: {event}".encode():
                data = json.loads(self.response.readline().removeprefix(b"data: "))
                if wanted(data):
                    return data
        raise AssertionError(f"the stream ended without {event}")

    def close(self):
        self.response.close()
        self.connection.close()


def test_the_fleet_the_curve_and_the_events_have_json_twins(server):
    fleet = json.loads(get(server, "/api/v1/fleet")[2])
    assert [d["device"] for d in fleet["devices"]] == sorted(board[0] for board in BOARDS)
    assert fleet["about"] == ABOUT
    assert json.loads(get(server, "/api/v1/curve")[2])[-1]["accuracy"] == 0.83
    assert json.loads(get(server, "/api/v1/events?limit=2")[2])[0]["event"] == "round finished"


@pytest.mark.parametrize("limit", ["0", "-1", "100000", "many"])
def test_an_absurd_limit_is_refused(server, limit):
    assert get(server, f"/api/v1/events?limit={limit}")[0] == 422


def test_the_health_check_answers(server):
    assert get(server, "/healthz")[0] == 200


@pytest.mark.parametrize(
    "path", ["/", "/api/v1/fleet", "/static/page.js", "/metrics", "/nothing", "/api/v1/events?limit=0"]
)
def test_every_answer_has_the_security_headers(server, path):
    headers = get(server, path)[1]
    assert headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_a_page_under_a_foreign_name_gets_nothing(server):
    status, _, body = get(server, "/api/v1/fleet", host="evil.example")
    assert (status, "bench-0" in body) == (421, False)


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8080", "fleet.example"])
def test_the_page_answers_to_its_own_names_and_its_proxys(shown, name):
    server = Server(
        create_app(shown.view, lambda: shown.curve, proxy_names=["fleet.example"]), listen(port=0)
    )
    try:
        assert get(server, "/api/v1/fleet", host=name)[0] == 200
    finally:
        server.stop()


def test_a_page_shown_to_the_network_answers_to_any_name(shown):
    app = create_app(shown.view, lambda: shown.curve)
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request"}

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/healthz",
        "query_string": b"",
        "headers": [(b"host", b"pi.local")],
        "server": ("192.0.2.7", 80),
    }
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 200


def test_the_interactive_api_pages_which_load_from_elsewhere_are_off(server):
    assert get(server, "/docs")[0] == get(server, "/redoc")[0] == 404


def test_static_files_do_not_lead_out_of_their_folder(server):
    assert get(server, "/static/../app.py")[0] == 404
    assert get(server, "/static/%2e%2e/app.py")[0] == 404


def test_everything_the_page_needs_is_shipped_and_nothing_comes_from_elsewhere(server):
    page = get(server, "/")[2]
    needed = re.findall(r'(?:src|href)="(/[^"]*)"', page)
    assert all(get(server, path)[0] == 200 for path in needed)
    for file in STATIC.iterdir():
        text = file.read_text().replace("http://www.w3.org/", "")
        assert not re.search(
            r"https?://|@import|innerHTML|insertAdjacentHTML|document\.write|eval\(", text
        ), file


def test_the_page_has_no_inline_script_or_style_that_its_policy_would_block():
    page = (STATIC / "index.html").read_text()
    assert not re.search(r"<script>|<style|\son\w+=|\sstyle=", page)


def test_the_stream_pushes_what_changes(server, shown):
    stream = Stream(server)
    assert stream.response.headers["Content-Type"].startswith("text/event-stream")
    assert stream.until("curve", bool)[-1]["round"] == 6
    shown.fleet = fold(shown.fleet, 400.0, "late-comer", Status(online=True, boot_epoch=1))
    stream.until("fleet", lambda view: "late-comer" in [d["device"] for d in view["devices"]])
    shown.curve = [*shown.curve, {**shown.curve[-1], "version": 7, "round": 7}]
    stream.until("curve", lambda curve: curve[-1]["round"] == 7)
    stream.close()


def test_stopping_the_server_ends_open_streams(shown):
    server = Server(create_app(shown.view, lambda: shown.curve, period_s=3600), listen(port=0))
    stream = Stream(server)
    stream.until("fleet", bool)
    ended = threading.Thread(target=stream.response.read)
    ended.start()
    server.stop()
    ended.join(10)
    assert not ended.is_alive()
    assert not server._thread.is_alive()
    stream.close()


def test_a_stopped_server_leaves_its_port_free(shown):
    server = Server(create_app(shown.view, lambda: shown.curve), listen(port=0))
    server.stop()
    server.stop()
    Server(create_app(shown.view, lambda: shown.curve), listen(port=server.port)).stop()


def test_one_page_too_many_is_told_to_try_again(server):
    streams = [Stream(server) for _ in range(MAX_STREAMS)]
    for stream in streams:
        stream.until("fleet", bool)
    assert get(server, "/api/v1/stream")[0] == 503
    for stream in streams:
        stream.close()


def test_a_busy_port_says_so(server):
    with pytest.raises(UserError, match=f"port {server.port} of 127.0.0.1 is busy.*--port"):
        listen(port=server.port)


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("no such host", 0), ("127.0.0.1", 70000)])
def test_an_address_that_is_not_ours_is_the_users_fault(host, port):
    with pytest.raises(UserError, match="web page"):
        listen(host, port)


def test_the_page_listens_on_loopback_unless_told_otherwise(server):
    assert server.url == f"http://127.0.0.1:{server.port}/"
    with socket.create_connection(("127.0.0.1", server.port), timeout=5):
        pass


SAMPLE = re.compile(r'edgetide_[a-z_]+(\{[a-z]+="(?:[^"\\\n]|\\["\\n])*"\})? [-+0-9.e]+')


def test_the_metrics_are_prometheus_text(server):
    _, headers, text = get(server, "/metrics")
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'edgetide_devices{state="training"} 4' in text
    assert 'edgetide_accuracy_ratio{run="run-7f3a"} 0.83' in text
    assert 'edgetide_device_updates_total{device="bench-0"} 3' in text
    assert 'temperature_celsius{device="bench-1"}' not in text  # it has no sensor
    assert all(line.startswith("# ") or SAMPLE.fullmatch(line) for line in text.splitlines())


def test_hostile_text_cannot_break_out_of_a_metric():
    fleet = fold(Fleet(), 0.0, 'a"} 1\nevil 2\\', Status(online=True, boot_epoch=1))
    fleet = fold(fleet, 0.0, "b", Telemetry(device="b", boot_epoch=1, state='x"}\n', loss=1.0))
    for line in to_metrics(to_json(fleet, 0.0)).splitlines():
        assert line.startswith("# ") or SAMPLE.fullmatch(line)


def test_a_run_that_diverged_still_has_a_curve(server, shown):
    shown.curve = [{**shown.curve[0], "loss": math.inf, "accuracy": math.nan}]
    point = json.loads(get(server, "/api/v1/curve")[2])[0]
    assert (point["loss"], point["accuracy"]) == (None, None)


def test_what_devices_tell_of_their_exchanges_is_served():
    fleet = Fleet(peers=fold_report(None, "a", PeerReport(step=3, exchanges={"b": Exchanges(begun=2)})))
    server = Server(create_app(lambda: to_json(fleet, 0.0), list), listen(port=0))
    try:
        assert json.loads(get(server, "/api/v1/peers")[2])["links"] == [[0, 1, 2, 0, 0, 0]]
    finally:
        server.stop()


def test_what_devices_tell_of_their_streams_is_served(server, shown):
    assert get(server, "/api/v1/streams")[2] == "null"
    shown.fleet = stream_fleet()
    streams = json.loads(get(server, "/api/v1/streams")[2])
    assert (streams["samples"], streams["accuracy"]) == (200, 0.9)
    assert 'edgetide_device_stream_accuracy_ratio{device="pump-1"} 0.875' in get(server, "/metrics")[2]


def test_an_empty_fleet_has_a_page_and_metrics():
    view = to_json(Fleet(), 0.0)
    server = Server(create_app(lambda: view, list), listen(port=0))
    try:
        assert get(server, "/")[0] == get(server, "/metrics")[0] == get(server, "/api/v1/curve")[0] == 200
        assert get(server, "/api/v1/peers")[2] == "null"
    finally:
        server.stop()
