"""The page's server over real sockets, and the page itself in a real browser."""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import re
import shutil
import socket
import threading

import pytest

from coordinator.dashboard.app import MAX_STREAMS, STATIC, create_app
from coordinator.dashboard.metrics import to_metrics
from coordinator.dashboard.server import serve
from coordinator.fleet import UPDATE_APPLIED, Fleet, fold, to_json
from coordinator.peer_view import fold_report
from device_agent.effects import Note
from device_agent.wire.messages import Exchanges, Hello, PeerReport, Run, Status, Telemetry
from firmware_profiles.errors import UserError
from models.widths import WidthGroup

GROUPS = (
    WidthGroup("conv1", 16),
    WidthGroup("conv2", 32),
    WidthGroup("conv3", 64),
    WidthGroup("hidden", 128),
)
BOARDS = (
    ("bench-0", "pi3", "onnx", 4),
    ("bench-1", "pi4", "onnx", 4),
    ("cellar-pump", "pi-zero-2", "onnx", 4),
    ("greenhouse-2", "jetson-nano", "torch", 4),
    ("greenhouse-10", "pi5", "onnx", 4),
    ("roof-weather", "pi4", "onnx", 4),
)


def demo_fleet(now_s=400.0, boards=BOARDS):
    """A fleet as it might look in round 6 of 8, `now_s` seconds after its start."""
    fleet = Fleet(groups=GROUPS)
    run = Run(
        run="run-7f3a",
        strategy="distreal",
        state="training",
        round=6,
        num_rounds=8,
        model_version=6,
        accuracy=0.83,
    )
    fleet = fold(fleet, 0.0, "", run)
    for index, (device, profile, engine, num_cores) in enumerate(boards):
        hello = Hello(
            device=device,
            boot_epoch=1,
            version="0.1.0",
            profile=profile,
            engine=engine,
            num_cores=num_cores,
            memory_total_bytes=2**32,
            num_samples=400 + 55 * index,
            input_shape=(1, 28, 28),
            num_classes=10,
            cpu_share_fraction=0.5,
        )
        fleet = fold(fleet, 0.0, device, Status(online=True, boot_epoch=1))
        fleet = fold(fleet, 0.0, device, hello)
        for second in range(int(now_s) - 300 + 40 * (index == 4), int(now_s), 2):
            fleet = fold(fleet, float(second), device, demo_telemetry(device, index, second))
    events = (
        (90, Note("run resumed", "", {"version": 2})),
        (60, Note(UPDATE_APPLIED, boards[0][0], {"samples": 3200, "loss": 0.61})),
        (52, Note("device paused", boards[2][0], {"reason": "battery 12 % is below min_battery 20 %"})),
        (31, Note("update expired", boards[3][0], {"round": 4, "late_s": 12.5})),
        (
            12,
            Note(
                "update refused", boards[1][0], {"reason": "tensor 'conv1.weight' holds nan at [0, 0, 1, 1]"}
            ),
        ),
        (4, Note("round finished", "", {"round": 5, "accuracy": 0.83, "updates": 6})),
    )
    for index, (device, *_) in enumerate(boards):
        for _ in range(index + 2):
            fleet = fold(fleet, now_s - 100, "", Note(UPDATE_APPLIED, device, {"samples": 3200}))
    for ago_s, note in events:
        fleet = fold(fleet, now_s - ago_s, "", note)
    return fold(fleet, now_s - 1, boards[-1][0], Status(online=False, boot_epoch=1, reason="lost"))


def demo_telemetry(device, index, second):
    busy = 0.75 if 180 < second % 400 < 260 else 0.12
    share = max(0.06, 0.92 - 0.8 * busy + 0.1 * math.sin(second / 9 + index) - 0.07 * index)
    paused = index == 2 and second % 400 > 345
    return Telemetry(
        device=device,
        boot_epoch=1,
        state="paused" if paused else "training",
        reason="battery 12 % is below min_battery 20 %" if paused else "",
        round=6,
        vector=tuple(
            max(1, round(g.num_channels * min(1, share ** (0.3 + 0.25 * ((i + index) % 4)))))
            for i, g in enumerate(GROUPS)
        ),
        macs_fraction=share,
        mean_macs_fraction=None if paused else share,
        steps_done=second % 120,
        steps_planned=120,
        loss=2.1 * math.exp(-second / 300) + 0.1,
        cpu_share_fraction=min(0.5, 1 - busy),
        cpu_others_fraction=busy,
        memory_available_bytes=10**9,
        memory_own_bytes=98_000_000 + index * 3_000_000,
        battery_fraction=0.12 if index == 2 else 0.81 if index in (0, 4) else None,
        charging=index == 4 if index in (0, 2, 4) else None,
        temperature_celsius=None if index == 1 else 48.0 + 6 * index,
        throttled=index == 5,
        outbox_messages=0,
    )


def demo_curve():
    accuracies = [0.1, 0.42, 0.61, 0.71, 0.77, 0.81, 0.83]
    return [
        {
            "version": i,
            "round": i,
            "accuracy": a,
            "loss": 2.3 - 0.3 * i,
            "wall_s": 21.0 * i,
            "num_updates": 6 * (i > 0),
        }
        for i, a in enumerate(accuracies)
    ]


ABOUT = {"broker": "mosquitto 2.0.11", "engine": "onnx", "model": "cnn-28"}


class Shown:
    """What the server shows; tests change it."""

    def __init__(self):
        self.fleet = demo_fleet()
        self.curve = demo_curve()

    def view(self):
        return to_json(self.fleet, 400.0, ABOUT)


@pytest.fixture
def shown():
    return Shown()


@pytest.fixture
def server(shown):
    server = serve(create_app(shown.view, lambda: shown.curve, period_s=0.05), port=0)
    yield server
    server.stop()


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
    server = serve(create_app(shown.view, lambda: shown.curve, proxy_names=["fleet.example"]), port=0)
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
    server = serve(create_app(shown.view, lambda: shown.curve, period_s=3600), port=0)
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
    server = serve(create_app(shown.view, lambda: shown.curve), port=0)
    server.stop()
    server.stop()
    serve(create_app(shown.view, lambda: shown.curve), port=server.port).stop()


def test_one_page_too_many_is_told_to_try_again(server):
    streams = [Stream(server) for _ in range(MAX_STREAMS)]
    for stream in streams:
        stream.until("fleet", bool)
    assert get(server, "/api/v1/stream")[0] == 503
    for stream in streams:
        stream.close()


def test_a_busy_port_says_so(shown, server):
    with pytest.raises(UserError, match=f"port {server.port} of 127.0.0.1 is busy.*--port"):
        serve(create_app(shown.view, lambda: shown.curve), port=server.port)


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("no such host", 0), ("127.0.0.1", 70000)])
def test_an_address_that_is_not_ours_is_the_users_fault(shown, host, port):
    with pytest.raises(UserError, match="web page"):
        serve(create_app(shown.view, lambda: shown.curve), host=host, port=port)


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
    server = serve(create_app(lambda: to_json(fleet, 0.0), list), port=0)
    try:
        assert json.loads(get(server, "/api/v1/peers")[2])["links"] == [[0, 1, 2, 0, 0, 0]]
    finally:
        server.stop()


def test_an_empty_fleet_has_a_page_and_metrics():
    view = to_json(Fleet(), 0.0)
    server = serve(create_app(lambda: view, list), port=0)
    try:
        assert get(server, "/")[0] == get(server, "/metrics")[0] == get(server, "/api/v1/curve")[0] == 200
        assert get(server, "/api/v1/peers")[2] == "null"
    finally:
        server.stop()


# ---------------------------------------------------------------- in a browser


@pytest.fixture
def browser(tmp_path):
    selenium = pytest.importorskip("selenium.webdriver")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("there is no chromium with its driver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "disable-dev-shm-usage",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        f"user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    browser.set_window_size(1280, 900)
    yield browser
    browser.quit()


def wait_for(browser, script):
    """Await a JavaScript expression that is truthy, and return its value."""
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(browser, 20, poll_frequency=0.05).until(
        lambda b: b.execute_script(f"return {script}")
    )


CARD = "document.querySelector('#cards article:first-child')"
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.mark.browser
def test_the_page_shows_a_device_that_appears_in_the_stream(browser, server, shown):
    browser.get(server.url)
    wait_for(browser, "document.querySelectorAll('#cards article').length === 6")
    wait_for(browser, "document.querySelectorAll('#accuracy-chart .point').length === 7")
    shown.fleet = fold(shown.fleet, 400.0, "a-newcomer", demo_telemetry("a-newcomer", 3, 399))
    wait_for(browser, f"{CARD}.querySelector('h3').textContent === 'a-newcomer'")
    assert wait_for(browser, f"{CARD}.querySelector('.state').textContent") == "training"
    assert wait_for(browser, f"{CARD}.querySelectorAll('.vessel').length") == len(GROUPS)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.browser
def test_text_from_a_hostile_device_stays_text(browser, server, shown):
    hello = Hello(
        device=HOSTILE,
        boot_epoch=1,
        version="1",
        profile=HOSTILE,
        engine=HOSTILE,
        num_cores=1,
        memory_total_bytes=None,
        num_samples=1,
        input_shape=(1,),
        num_classes=2,
        cpu_share_fraction=0.1,
    )
    telemetry = Telemetry(device=HOSTILE, boot_epoch=1, state=HOSTILE, reason=HOSTILE)
    shown.fleet = fold(fold(Fleet(), 399.0, HOSTILE, hello), 399.0, HOSTILE, telemetry)
    shown.fleet = fold(
        shown.fleet, 400.0, "", Note("update refused", HOSTILE, {"reason": HOSTILE, HOSTILE: 1})
    )
    browser.get(server.url)
    wait_for(browser, f"{CARD}?.querySelector('.reason').textContent === {json.dumps(HOSTILE)}")
    wait_for(browser, f"document.querySelector('#events code').textContent === {json.dumps(HOSTILE)}")
    assert browser.execute_script("return document.querySelectorAll('main img, main script').length") == 0
    assert "owned" not in browser.title


@pytest.mark.browser
def test_the_page_says_when_the_coordinator_is_gone(browser, shown):
    server = serve(create_app(shown.view, lambda: shown.curve, period_s=0.05), port=0)
    browser.get(server.url)
    wait_for(browser, "document.getElementById('link').dataset.link === 'open'")
    server.stop()
    wait_for(browser, "document.getElementById('link').dataset.link === 'broken'")


@pytest.mark.browser
def test_the_page_fits_a_phone(browser, server):
    browser.set_window_size(500, 900)  # the narrowest window chromium makes; the frame below is a phone's
    browser.get(server.url)
    wait_for(browser, "document.querySelectorAll('#cards article').length === 6")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 360, "height": 780, "deviceScaleFactor": 1, "mobile": True},
    )
    wait_for(browser, "window.innerWidth === 360")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
