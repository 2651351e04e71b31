"""The plots' files: what they hold and that they need nothing else. How they look people judge."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from dse.cli import app
from dse.live import LiveDevice, LiveFleet, LiveGroup
from dse.plot_data import prepare
from dse.trial import StudyTrials, Trial
from firmware_profiles.errors import UserError
from models.table import ParetoTable, TableEntry, dump_table

plots_html = pytest.importorskip("dse.plots_html")
plots_page = pytest.importorskip("dse.plots_page")
plots_png = pytest.importorskip("dse.plots_png")

PNG = b"\x89PNG\r\n\x1a\n"


def a_table(num_groups=2, num_entries=3):
    entries = tuple(
        TableEntry(
            vector=(kept,) * num_groups,
            macs=1000 * kept,
            progress=kept / 10,
            memory_bytes=1,
            core_seconds=0.01,
        )
        for kept in range(1, num_entries + 1)
    )
    return ParetoTable(model="small", graph_digest="a" * 64, batch_size=32, source="by hand", entries=entries)


STUDY = StudyTrials(
    "s",
    ("a.weight", "<b>&.weight"),
    (Trial(0, (3, 3), 3000, 0.3), Trial(1, (1, 1), 1000, 0.1), Trial(2, (1, 3), 1500, -0.4)),
)


def a_fleet(num_devices):
    devices = tuple(
        LiveDevice(
            device=f"device-{number}",
            state="paused" if number % 5 == 0 else "training",
            vector=(2, 2),
            macs_fraction=2 / 3,
            macs_series=((2.0, 1 / 3), (1.0, 2 / 3)),
        )
        for number in range(num_devices)
    )
    return LiveFleet(groups=(LiveGroup("a", 3), LiveGroup("b", 3)), devices=devices)


DATA = prepare(a_table(), study=STUDY, fleet=a_fleet(3))
TABLE_ALONE = prepare(a_table())
MANY_DEVICES = prepare(a_table(), fleet=a_fleet(60))
LARGE = prepare(a_table(num_groups=60, num_entries=50))


def figures(data):
    made = [plots_html.front_figure(data), plots_html.keep_figure(data)]
    if data.hypervolume is not None:
        made.append(plots_html.hypervolume_figure(data))
    if data.devices is not None:
        made.append(plots_html.device_figure(data))
    return made


def trace(figure, name):
    return next(one for one in figure["data"] if one.get("name") == name)


# ---------------------------------------------------------------- HTML


@pytest.mark.parametrize("data", [DATA, TABLE_ALONE, MANY_DEVICES, LARGE])
def test_plotly_knows_every_key_of_the_figures(data):
    graph_objects = pytest.importorskip("plotly.graph_objects")
    for figure in figures(data):
        graph_objects.Figure(figure)


def test_the_front_shows_entries_trials_and_uniform_vectors_where_they_were_measured():
    figure = plots_html.front_figure(DATA)
    assert trace(figure, "table's entries")["x"] == pytest.approx([100 / 3, 200 / 3, 100])
    assert trace(figure, "table's entries")["y"] == pytest.approx([10, 20, 30])
    assert trace(figure, "uniform vectors")["x"] == pytest.approx([100, 100 / 3])
    assert trace(figure, "trials' front")["y"] == pytest.approx([30, 10])
    assert trace(figure, "trials")["y"] == pytest.approx([-40])


def test_the_heat_map_has_a_row_for_each_group_and_a_column_for_each_entry():
    (heat,) = plots_html.keep_figure(DATA)["data"]
    assert heat["z"] == [pytest.approx([100 / 3, 200 / 3, 100])] * 2
    assert heat["customdata"] == [[1, 2, 3]] * 2


def test_a_fleet_too_large_for_rows_is_counted_by_entry():
    (bars,) = plots_html.device_figure(MANY_DEVICES)["data"]
    assert bars["y"] == [0, 48, 0, 12]


def test_a_page_is_one_file_that_asks_no_network(tmp_path):
    text = plots_html.write_html(DATA, tmp_path / "plots.html").read_text("utf-8")
    ours = text.replace(plots_page.get_plotlyjs(), "")
    assert len(ours) < len(text)
    assert "http:" not in ours
    assert "https:" not in ours
    assert "//" not in re.sub(r"<script type=.*?</script>", "", ours)
    assert "default-src 'none'" in ours
    assert "by hand" in ours


def test_names_from_outside_stay_text():
    hostile = replace(DATA, source="</p><script>alert(1)</script>", model="a<b")
    text = plots_page.make_page(
        "a<b", [hostile.source], [plots_page.Section("<i>", "<i>", plots_html.keep_figure(hostile))]
    )
    assert "<script>alert" not in text
    assert "<i>" not in text
    held = re.findall(r'<script type="application/json">(.*?)</script>', text)
    assert json.loads(held[0])["layout"]["yaxis"]["ticktext"] == ["a (3)", "&lt;b&gt;&amp; (3)"]


# ---------------------------------------------------------------- PNG


def test_only_what_there_is_data_for_is_drawn_as_png(tmp_path):
    files = plots_png.write_pngs(TABLE_ALONE, tmp_path, "t")
    assert [file.name for file in files] == ["t-front.png", "t-keep.png"]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(file.read_bytes().startswith(PNG) for file in files)


def test_every_plot_can_be_drawn_as_png(tmp_path, monkeypatch):
    monkeypatch.setattr(plots_png, "DPI", 20)
    assert len(plots_png.write_pngs(DATA, tmp_path, "all")) == 4
    plots_png.save(plots_png.device_figure(MANY_DEVICES), tmp_path / "many.png")
    plots_png.save(plots_png.keep_figure(LARGE), tmp_path / "large.png")


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match=r"t-front\.png cannot be written"):
        plots_png.write_pngs(TABLE_ALONE, tmp_path / "none", "t")
    with pytest.raises(UserError, match=r"t\.html cannot be written"):
        plots_html.write_html(TABLE_ALONE, tmp_path / "none" / "t.html")


# ---------------------------------------------------------------- the command


@pytest.fixture
def table_file(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(dump_table(a_table()))
    return path


def plot(*arguments):
    return CliRunner().invoke(app, ["plot", *map(str, arguments)])


def test_plot_writes_what_is_asked_for_and_says_where(tmp_path, table_file):
    out = tmp_path / "plots"
    done = plot(table_file, "--out", out, "--html", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"files": [str(out / "t.html")]}
    assert [path.name for path in out.iterdir()] == ["t.html"]


@pytest.mark.parametrize(
    ("library", "module"), [("plotly", "dse.plots_page"), ("matplotlib", "dse.plots_png")]
)
def test_without_a_library_the_extra_is_named(monkeypatch, tmp_path, table_file, library, module):
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("dse.plots_html", module):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    done = plot(table_file, "--out", tmp_path / "plots")
    assert isinstance(done.exception, UserError)
    assert "install edgetide[dse]" in str(done.exception)
    assert not (tmp_path / "plots").exists()


# ---------------------------------------------------------------- in a browser


@pytest.mark.browser
def test_a_browser_draws_the_page_from_the_file_alone(tmp_path):
    selenium = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.support.wait import WebDriverWait

    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("there is no chromium with its driver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    try:
        browser.get(plots_html.write_html(DATA, tmp_path / "plots.html").as_uri())
        with_marks = "[...document.querySelectorAll('section')].filter(s => s.querySelector('.mlayer > g'))"
        drawn = f"return {with_marks}.length"
        wait = WebDriverWait(browser, 20, poll_frequency=0.05)
        wait.until(lambda page: page.execute_script(drawn) == 4)
        assert browser.get_log("browser") == []
    finally:
        browser.quit()
