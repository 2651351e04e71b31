"""The page in a real browser."""

from __future__ import annotations

import json

import pytest

from coordinator.dashboard.app import create_app
from coordinator.dashboard.server import Server, listen
from coordinator.fleet import Fleet, fold
from device_agent.effects import Note
from device_agent.wire.messages import Hello, Telemetry
from tests.fixtures.shown_fleets import GROUPS, STREAM_CURVE, demo_fleet, demo_telemetry, stream_fleet


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


SHOWN_TEXT = """(() => {
  const text = (id) => document.getElementById(id).innerText;
  const row = (id) => document.querySelector(`#${id} tbody tr`);
  const cells = (id) => [...row(id).children].map((cell) => cell.textContent);
  const seen = (query) => document.querySelector(query).checkVisibility();
  return { accuracy: text("accuracy"), note: text("accuracy-note"), bytes: text("updates"),
    streams: cells("streams"), ages: cells("ages").slice(0, 6), tide: seen("#tide-chart"),
    vessels: seen("#cards .vessels"), card: document.querySelector("#cards article").innerText };
})()"""


@pytest.mark.browser
def test_the_page_shows_streams_in_place_of_networks(browser, server, shown):
    shown.fleet, shown.curve = stream_fleet(), STREAM_CURVE
    browser.get(server.url)
    wait_for(browser, "document.querySelectorAll('#accuracy-chart .point').length === 2")
    told = wait_for(browser, SHOWN_TEXT)
    plain = {key: value for key, value in told.items() if isinstance(value, (str, bool))}
    narrow = "\u202f"
    assert plain.pop("card").replace(narrow, "").count("88%") == 1  # of the latest predictions
    assert plain == {
        "accuracy": f"90.0{narrow}%",
        "note": f"so far, of 200 samples; F1 90.0{narrow}%",
        "bytes": "2.50 / 1.80",
        "tide": False,
        "vessels": False,
    }
    assert [cell.replace(narrow, "") for cell in told["streams"]] == [
        "pump-1",
        "100 / 200",
        "80.0%",
        "80.0%",
        "80.0%",
        "14",
        "10",
        "2",
        "0",
        "5.00B",
        "3.60B",
        "errors 10% → 40% at sample 30",
    ]
    assert [cell.replace(narrow, "") for cell in told["ages"]] == [
        "pump-1",
        "pump-2",
        "5",
        "400ms",
        "750ms",
        "800ms",
    ]
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.browser
def test_a_hostile_name_in_a_stream_stays_text(browser, server, shown):
    shown.fleet, shown.curve = stream_fleet(HOSTILE), STREAM_CURVE
    browser.get(server.url)
    wait_for(browser, f"document.querySelector('#streams tbody th')?.textContent === {json.dumps(HOSTILE)}")
    assert browser.execute_script("return document.querySelectorAll('main img, main script').length") == 0
    assert "owned" not in browser.title


@pytest.mark.browser
def test_the_page_says_when_the_coordinator_is_gone(browser, shown):
    server = Server(create_app(shown.view, lambda: shown.curve, period_s=0.05), listen(port=0))
    browser.get(server.url)
    wait_for(browser, "document.getElementById('link').dataset.link === 'open'")
    server.stop()
    wait_for(browser, "document.getElementById('link').dataset.link === 'broken'")


@pytest.mark.browser
@pytest.mark.parametrize(("made", "num_devices"), [(demo_fleet, 6), (stream_fleet, 2)])
def test_the_page_fits_a_phone(browser, server, shown, made, num_devices):
    shown.fleet = made()
    browser.set_window_size(500, 900)  # the narrowest window chromium makes; the frame below is a phone's
    browser.get(server.url)
    wait_for(browser, f"document.querySelectorAll('#cards article').length === {num_devices}")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 360, "height": 780, "deviceScaleFactor": 1, "mobile": True},
    )
    wait_for(browser, "window.innerWidth === 360")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
