"""`edgetide dse show`."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from dse.cli import app
from dse.show import chosen, make_board, on_board, print_table, to_json
from dse.trial import StudyTrials, Trial
from firmware_profiles.errors import UserError
from firmware_profiles.profile import load_profile
from firmware_profiles.resources import Pause
from models.table import ParetoTable, TableEntry, dump_table, table_digest

MB = 10**6
PROFILE = load_profile("raspberry-pi-4")


def a_table(num_groups=2, seconds=(0.1, 0.4, 0.8), memory_bytes=(10 * MB, 20 * MB, 30 * MB)):
    entries = tuple(
        TableEntry(
            vector=(2 * number,) * num_groups,
            macs=100 * number * number,
            progress=number / 10,
            memory_bytes=memory_bytes[number - 1],
            core_seconds=seconds[number - 1],
        )
        for number in (1, 2, 3)
    )
    return ParetoTable(model="small", graph_digest="a" * 64, batch_size=32, source="by hand", entries=entries)


def shown(table, study=None, board=None, width=100):
    console = Console(file=io.StringIO(), width=width)
    print_table(table, study, board, console)
    return console.file.getvalue()


def board(seconds_per_batch=None, share=0.5):
    return make_board(PROFILE, None, share, seconds_per_batch)


def test_a_table_says_what_it_keeps_costs_and_where_it_came_from():
    text = shown(a_table())
    assert "small, batches of 32" in text
    assert "by hand" in text
    assert table_digest(a_table()) in text
    first = next(line for line in text.splitlines() if line.split()[:1] == ["1"])
    assert first.split() == ["1", "2", "2", "33", "33", "0.00", "11%", "0.1000", "10.0", "100.00"]


def test_many_groups_are_one_bar_each():
    assert "▃" * 16 in shown(a_table(num_groups=16), width=80)


def test_what_a_board_takes_follows_from_cores_and_share():
    # 0.4 s of one core on half of four cores.
    found = on_board(a_table(), a_table().entries[1], board(seconds_per_batch=0.3))
    assert found.seconds == pytest.approx(0.2)
    assert (found.fits_time, found.fits_memory) == (True, True)


def test_the_chosen_entry_is_the_one_a_device_would_take():
    assert chosen(a_table(), board(seconds_per_batch=0.3)).vector == (4, 4)
    assert chosen(a_table(), board()) is None
    text = shown(a_table(), board=board(seconds_per_batch=0.3))
    assert [word for word in ("yes", "chosen", "no: time") if word in text] == ["yes", "chosen", "no: time"]


def test_where_nothing_fits_the_reason_is_told():
    assert isinstance(chosen(a_table(), board(seconds_per_batch=0.001)), Pause)
    assert "nothing fits: time:" in shown(a_table(), board=board(seconds_per_batch=0.001))


def test_an_entry_beyond_the_boards_memory_does_not_fit():
    large = a_table(memory_bytes=(10 * MB, 20 * MB, 10**12))
    assert chosen(large, board(seconds_per_batch=100.0)).vector == (4, 4)
    assert "no: memory" in shown(large, board=board())


def test_seconds_that_nobody_measured_come_from_the_profile_and_say_so():
    table = a_table(seconds=(None, None, None))
    assert on_board(table, table.entries[0], board()).seconds > 0
    assert "estimated, not measured" in shown(table, board=board(), width=120)


def test_an_engine_the_board_does_not_know_is_refused_with_what_it_knows():
    with pytest.raises(UserError, match="no speed of engine 'onx'; did you mean \"onnx\""):
        make_board(PROFILE, "onx", 0.5, None)


def test_json_holds_the_tables_own_keys_and_what_follows():
    study = StudyTrials("s", ("a", "b"), (Trial(0, (6, 6), 900, 0.2), Trial(1, (2, 6), 450, 0.2)), 3)
    report = to_json(a_table(), study, board(seconds_per_batch=0.3))
    json.dumps(report, allow_nan=False)
    assert report["entries"][0]["vector"] == [2, 2]
    assert report["entries"][0]["keep_fractions"] == pytest.approx([1 / 3, 1 / 3])
    assert report["entries"][2]["fits_time"] is False
    assert report["digest"] == table_digest(a_table())
    # 0.1 from 1/9 of the MACs on, 0.2 from 4/9 on.
    assert report["hypervolume"] == pytest.approx(0.1 * 3 / 9 + 0.2 * 5 / 9)
    assert report["study"]["hypervolume"] == pytest.approx(0.1)
    assert report["study"]["num_hopeless"] == 3
    assert report["board"]["chosen"] == [4, 4]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seconds-per-batch", "1"], "--profile with a name or a file"),
        (["--name", "s"], "--study with its URL"),
        (["--profile", "raspberry-pi-44"], 'did you mean "raspberry-pi-4"'),
    ],
)
def test_options_that_lack_another_one_are_refused(tmp_path, options, words):
    path = tmp_path / "t.yaml"
    path.write_text(dump_table(a_table()))
    done = CliRunner().invoke(app, ["show", str(path), *options])
    assert isinstance(done.exception, UserError)
    assert words in str(done.exception)
