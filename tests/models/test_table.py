from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_profiles.errors import PeerError, UserError
from firmware_profiles.resources import Budget, Pause
from models.graph import ModelGraph, Node, digest, validate
from models.step_times import StepTimes
from models.subnet import full_vector
from models.table import (
    ParetoTable,
    TableEntry,
    dump_table,
    find_fault,
    load_table,
    parse_table,
    select,
    table_digest,
    uniform_table,
)
from models.widths import plan_widths

DIGEST = "a" * 64
MB = 10**6


def entry(kept, macs, progress, memory_bytes=10 * MB, core_seconds=None):
    return TableEntry(
        vector=(kept,), macs=macs, progress=progress, memory_bytes=memory_bytes, core_seconds=core_seconds
    )


def table_of(*entries):
    return ParetoTable(
        model="small", graph_digest=DIGEST, batch_size=32, entries=tuple(entries), source="by hand"
    )


THREE = table_of(
    entry(2, 100, 0.2, 10 * MB, 0.1), entry(4, 400, 0.5, 20 * MB, 0.4), entry(8, 1600, 0.9, 40 * MB, 1.6)
)


def budget(share=1.0, memory_bytes=100 * MB, time_left_s=10.0, num_batches_left=10):
    return Budget(
        cpu_share_fraction=share,
        memory_bytes=memory_bytes,
        time_left_s=time_left_s,
        num_batches_left=num_batches_left,
    )


def measured(chosen):
    return chosen.core_seconds


# ---------------------------------------------------------------- the file


def test_a_table_reads_back_as_it_was_written(tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text(dump_table(THREE))
    assert load_table(path) == THREE


@settings(deadline=None, max_examples=50)
@given(
    progress=st.floats(-1e9, 1e9),
    seconds=st.none() | st.floats(1e-300, 1e6, allow_subnormal=False),
    source=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=50),
)
def test_any_number_and_text_reads_back_exactly(progress, seconds, source):
    table = ParetoTable(
        model="small",
        graph_digest=DIGEST,
        batch_size=1,
        entries=(TableEntry(vector=(1,), macs=1, progress=progress, memory_bytes=1, core_seconds=seconds),),
        source=source,
    )
    assert parse_table(dump_table(table).encode(), DIGEST) == table


REFUSED = {
    "another format": ("edgetide-table/1", "edgetide-table/9", r"table.yaml:1: key .format."),
    "an unknown key": (
        "batch_size",
        "batchsize",
        r"table.yaml:4: key .batchsize. is unknown; did you mean .batch_size.",
    ),
    "a missing key": ("    macs: 100\n", "", r"table.yaml:\d+: key .entries\[0\].macs. is missing"),
    "a negative count": ("macs: 100\n", "macs: -1\n", r"table.yaml:8: key .entries\[0\].macs."),
    "no number": ("progress: 0.2", "progress: high", r"key .entries\[0\].progress."),
    "not a finite number": ("progress: 0.2", "progress: .nan", "not a finite number"),
    "a dropped group": ("vector: [2]", "vector: [0]", r"key .entries\[0\].vector\[0\]."),
    "vectors of two lengths": (
        "vector: [2]",
        "vector: [2, 2]",
        r"table.yaml:7: key .entries\[0\].vector.: has 2 numbers",
    ),
    "more than there is": (
        "vector: [2]",
        "vector: [9]",
        r"table.yaml:7: key .entries\[0\].vector\[0\].: keeps 9 channels of 8",
    ),
    "a vector twice": (
        "vector: [4]",
        "vector: [2]",
        r"table.yaml:12: key .entries\[1\].vector.: is that of entries\[0\] again",
    ),
    "falling macs": ("macs: 400", "macs: 50", r"table.yaml:13: key .entries\[1\].macs.: 50 is below"),
    "a short digest": (DIGEST, "abc", r"table.yaml:3: key .graph_digest."),
    "an alias": ("vector: [2]", "vector: &v [2]", "table.yaml:7: anchors"),
    "a tag": ("vector: [2]", "vector: !!python/tuple [2]", "table.yaml:7: the tag"),
    "a key twice": (
        "    macs: 100\n",
        "    macs: 100\n    macs: 100\n",
        r"table.yaml:9: key .entries\[0\].macs.: is given twice, first in line 8",
    ),
    "an unknown key of an entry": (
        "macs: 100",
        "mac: 100",
        r"table.yaml:8: key .entries\[0\].mac. is unknown",
    ),
    "a count that is no integer": ("macs: 100", "macs: 1e2", r"table.yaml:8: key .entries\[0\].macs."),
    "a count beyond 2^53": ("macs: 100", "macs: 9007199254740993", r"table.yaml:8: key .entries\[0\].macs."),
    "seconds of nothing": ("core_seconds: 0.1", "core_seconds: 0", r"key .entries\[0\].core_seconds."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_table_file_that_does_not_fit_is_refused_with_its_place(tmp_path, case):
    old, new, message = REFUSED[case]
    path = tmp_path / "table.yaml"
    path.write_text(dump_table(THREE).replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        load_table(path)


def test_a_table_larger_than_any_is_refused_unparsed(tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text(dump_table(THREE) + "#" * 2**20)
    with pytest.raises(UserError, match="is larger than 1048576 bytes"):
        load_table(path)


def test_a_bomb_of_aliases_is_refused_before_it_is_unfolded(tmp_path):
    path = tmp_path / "table.yaml"
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 12))
    path.write_text(f"l0: &l0 [1]\n{levels}")
    with pytest.raises(UserError, match=r"table\.yaml:1: anchors"):
        load_table(path)


def test_comments_and_layout_of_a_file_do_not_change_its_digest(tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text("# mine\n" + dump_table(THREE).replace("[2]", "\n      - 2"))
    assert table_digest(load_table(path)) == table_digest(THREE)
    assert table_digest(table_of(*THREE.entries[1:])) != table_digest(THREE)


def test_an_empty_table_is_refused(tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text(re.sub(r"entries:.*", "entries: []", dump_table(THREE), flags=re.DOTALL))
    with pytest.raises(UserError, match="entries"):
        load_table(path)


def test_a_missing_file_is_refused_with_its_path(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml"):
        load_table(tmp_path / "none.yaml")


def test_a_table_of_another_network_is_refused():
    with pytest.raises(PeerError, match="made for another network"):
        parse_table(dump_table(THREE).encode(), "b" * 64)


def test_a_table_that_drops_something_in_its_last_entry_is_refused_for_its_network():
    graph = small_graph()
    plan = plan_widths(graph)
    whole = uniform_table(graph, plan, 32, (0.5,))
    cut_off = ParetoTable(
        model=whole.model,
        graph_digest=whole.graph_digest,
        batch_size=32,
        entries=whole.entries[:1],
        source="",
    )
    with pytest.raises(PeerError, match=r"it must drop nothing: \[4, 6\]"):
        parse_table(dump_table(cut_off).encode(), digest(graph), plan)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_a_mutated_table_is_refused_or_valid(data):
    mutated = bytearray(dump_table(THREE).encode())
    for _ in range(data.draw(st.integers(1, 5))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    try:
        table = parse_table(bytes(mutated), DIGEST)
    except PeerError:
        return
    assert find_fault(table, DIGEST) is None


# ---------------------------------------------------------------- uniform tables


def small_graph():
    attributes = {
        "kernel_shape": (3, 3),
        "strides": (1, 1),
        "pads": (1, 1, 1, 1),
        "dilations": (1, 1),
        "group": 1,
    }
    nodes = (
        Node("Conv", ("x", "a.weight"), "a", attributes),
        Node("Relu", ("a",), "b", {}),
        Node("Conv", ("b", "c.weight"), "c", attributes),
        Node("GlobalAveragePool", ("c",), "d", {}),
        Node("Flatten", ("d",), "e", {}),
        Node("Gemm", ("e", "f.weight"), "y", {}),
    )
    parameters = {"a.weight": (4, 1, 3, 3), "c.weight": (6, 4, 3, 3), "f.weight": (3, 6)}
    return validate(ModelGraph("small", "x", (1, 5, 5), "y", nodes, parameters, {}, {}, {}))


def test_a_uniform_table_rises_in_cost_and_ends_with_the_full_network():
    graph = small_graph()
    plan = plan_widths(graph)
    table = uniform_table(graph, plan, 32, (0.25, 0.5, 0.75))
    assert [found.vector for found in table.entries] == [(1, 2), (2, 3), (3, 4), (4, 6)]
    assert find_fault(table, digest(graph), plan) is None
    assert table.entries[-1].progress == 1.0
    for costs in ([e.macs for e in table.entries], [e.memory_bytes for e in table.entries]):
        assert costs == sorted(costs)


def test_fractions_that_round_to_the_same_vector_make_one_entry():
    graph = small_graph()
    table = uniform_table(graph, plan_widths(graph), 32, (0.01, 0.02, 1.0))
    assert [found.vector for found in table.entries] == [(1, 1), (4, 6)]


def test_a_fraction_above_one_is_refused():
    graph = small_graph()
    with pytest.raises(UserError, match=r"1\.5 is outside"):
        uniform_table(graph, plan_widths(graph), 32, (0.5, 1.5))


def test_a_uniform_tables_last_vector_is_the_full_one():
    graph = small_graph()
    plan = plan_widths(graph)
    assert uniform_table(graph, plan, 32, ()).entries[0].vector == full_vector(plan)


# ---------------------------------------------------------------- the choice

_entries = st.lists(
    st.tuples(
        st.integers(1, 1000),
        st.floats(0, 1),
        st.integers(1, 100 * MB),
        st.floats(1e-3, 10.0),
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=300)
@given(
    raw=_entries,
    share=st.floats(0.01, 1.0),
    memory_bytes=st.integers(1, 100 * MB),
    time_left_s=st.floats(0.01, 1e3),
    num_batches_left=st.integers(1, 1000),
    num_cores=st.integers(1, 8),
)
def test_the_choice_is_the_best_of_all_that_fit(
    raw, share, memory_bytes, time_left_s, num_batches_left, num_cores
):
    table = table_of(*[entry(i + 1, m, p, b, s) for i, (m, p, b, s) in enumerate(sorted(raw))])
    given_budget = budget(share, memory_bytes, time_left_s, num_batches_left)
    chosen = select(table, given_budget, num_cores, measured)
    fitting = [
        e
        for e in table.entries
        if e.memory_bytes <= memory_bytes
        and e.core_seconds / (num_cores * share) <= time_left_s / num_batches_left * (1 + 1e-12)
    ]
    if isinstance(chosen, Pause):
        tight = time_left_s / num_batches_left * (1 - 1e-12)
        assert not [e for e in fitting if e.core_seconds / (num_cores * share) <= tight]
    else:
        assert chosen in fitting
        assert chosen.progress == max(e.progress for e in fitting)


def test_more_cpu_time_makes_a_larger_vector():
    shares = (0.1, 0.4, 1.0)
    chosen = [select(THREE, budget(share, time_left_s=16.0), 1, measured) for share in shares]
    assert chosen == list(THREE.entries)


def test_all_cores_count_unless_the_engine_has_fewer_threads():
    assert select(THREE, budget(), 4, measured) == THREE.entries[2]
    assert select(THREE, budget(), 4, measured, num_threads=1) == THREE.entries[1]


def test_of_equal_progress_the_cheaper_one_is_taken():
    table = table_of(entry(2, 100, 0.5, core_seconds=0.1), entry(4, 400, 0.5, core_seconds=0.1))
    assert select(table, budget(), 1, measured) == table.entries[0]


def test_a_pause_for_memory_says_how_much_is_missing():
    pause = select(THREE, budget(memory_bytes=8 * MB), 1, measured)
    assert isinstance(pause, Pause)
    assert pause.reason == "memory: the smallest vector takes 10.0 MB, 8.0 MB are granted (2.0 MB too little)"


def test_a_pause_for_time_says_by_how_much():
    pause = select(THREE, budget(share=0.05), 1, measured)
    assert isinstance(pause, Pause)
    assert pause.reason == (
        "time: at 5% of the CPU the fastest vector takes 2 s a mini-batch, 1 s are left for each "
        "(2 times too long)"
    )


def test_after_the_deadline_it_pauses():
    pause = select(THREE, budget(time_left_s=0.0), 1, measured)
    assert isinstance(pause, Pause)
    assert "is over" in pause.reason


# ---------------------------------------------------------------- step times


def test_before_any_step_the_tables_own_seconds_are_predicted():
    times = StepTimes(THREE)
    assert [times.predict(e) for e in THREE.entries] == pytest.approx([0.1, 0.4, 1.6])


def test_steps_of_two_widths_give_the_line_through_them():
    times = StepTimes(THREE)
    for _ in range(100):
        for found in (THREE.entries[0], THREE.entries[2]):
            times.observe(found.macs, 0.3 + 2e-3 * found.macs)
    assert times.predict(THREE.entries[1]) == pytest.approx(0.3 + 2e-3 * 400, rel=0.05)


def test_steps_of_one_width_scale_the_others_along():
    times = StepTimes(THREE)
    for _ in range(100):
        times.observe(400, 0.8)
    assert [times.predict(e) for e in THREE.entries] == pytest.approx([0.2, 0.8, 3.2], rel=0.05)


def test_the_first_step_corrects_a_table_that_nobody_measured():
    table = table_of(entry(2, 10**6, 0.2), entry(4, 10**7, 0.5))
    times = StepTimes(table)
    times.observe(10**7, 20.0)
    assert times.predict(table.entries[1]) == pytest.approx(20.0, rel=0.1)


def test_one_disturbed_step_changes_little():
    times = StepTimes(THREE)
    for _ in range(50):
        times.observe(400, 0.4)
    times.observe(400, 400.0)
    assert times.predict(THREE.entries[1]) < 0.45


def test_a_lasting_slowdown_is_followed():
    times = StepTimes(THREE)
    for _ in range(50):
        times.observe(400, 0.4)
    for _ in range(60):
        times.observe(400, 1.2)
    assert times.predict(THREE.entries[1]) == pytest.approx(1.2, rel=0.15)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from([100, 400, 1600]), st.floats(1e-6, 1e3)), max_size=60),
)
def test_predictions_are_positive_and_never_fall_with_macs(observations):
    times = StepTimes(THREE)
    for macs, seconds in observations:
        times.observe(macs, seconds)
    predicted = [times.predict(e) for e in THREE.entries]
    assert predicted[0] > 0.0
    assert predicted == sorted(predicted)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_clock_that_lied_is_ignored(seconds):
    times = StepTimes(THREE)
    times.observe(400, seconds)
    assert times.predict(THREE.entries[1]) == pytest.approx(0.4)
