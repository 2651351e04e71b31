"""The strict YAML loader: what fits is loaded, what does not is named by file, line and key."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from firmware_profiles.errors import UserError
from firmware_profiles.strict import MAX_BYTES, load_strict, parse_strict


class Link(msgspec.Struct, frozen=True, kw_only=True):
    latency_ms: Annotated[float, Meta(ge=0.0)]
    kind: Literal["wifi", "ethernet"] = "wifi"


class Steady(msgspec.Struct, frozen=True, kw_only=True, tag="steady", tag_field="trace"):
    level: float


class Stepped(msgspec.Struct, frozen=True, kw_only=True, tag="stepped", tag_field="trace"):
    levels: tuple[float, ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    num_devices: Annotated[int, Meta(ge=1)] = 1
    vector: Annotated[tuple[int, ...], Meta(max_length=3)] = ()
    links: dict[str, Link] = {}
    fallback: Link | None = None
    load: Steady | Stepped | None = None
    verbose: bool = False


def refusal(text: str, kind: type[msgspec.Struct] = Plan) -> str:
    with pytest.raises(UserError) as caught:
        parse_strict(text, "plan.yaml", kind)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_that_fits_becomes_its_struct():
    text = "name: field\nvector: [1, 2]\nlinks:\n  a: {latency_ms: 3, kind: ethernet}\nverbose: true\n"
    expected = Plan(
        name="field", vector=(1, 2), links={"a": Link(latency_ms=3.0, kind="ethernet")}, verbose=True
    )
    assert parse_strict(text, "plan.yaml", Plan) == expected


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_valid_one():
    assert refusal("name: x\nnum_devces: 3\n") == (
        'plan.yaml:2: key "num_devces" is unknown; did you mean "num_devices"?'
    )


def test_a_key_like_no_other_gets_the_list_of_valid_ones():
    assert refusal("name: x\nzzz: 3\n") == (
        'plan.yaml:2: key "zzz" is unknown; valid: fallback, links, load, num_devices, vector, verbose'
    )


def test_a_missing_key_is_named_with_the_line_of_what_lacks_it():
    assert refusal("name: x\nlinks:\n  a:\n    kind: wifi\n") == (
        'plan.yaml:3: key "links.a.latency_ms" is missing; add it'
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: 3", 'plan.yaml:1: key "name": expected str, got int, found 3'),
        ("name: x\nnum_devices: 0", 'plan.yaml:2: key "num_devices": expected int >= 1, found 0'),
        (
            "name: x\nvector: [1,\n  two]",
            "plan.yaml:3: key \"vector[1]\": expected int, got str, found 'two'",
        ),
        ("name: x\nvector: [1, 2, 3, 4]", 'plan.yaml:2: key "vector": expected list of length <= 3'),
        ("name: x\nvector:\n", 'plan.yaml:2: key "vector": expected list, got null, found nothing'),
        ("name: x\nfallback: {latency_ms: -1}", "expected float >= 0.0, found -1"),
        (
            "name: x\nverbose: yes",
            "plan.yaml:2: key \"verbose\": expected bool, got str, found 'yes'; write true or",
        ),
        (
            "name: x\nfallback: {latency_ms: .inf}",
            'plan.yaml:2: key "fallback.latency_ms": .inf is not a finite',
        ),
        ("name: x\nfallback: {latency_ms: 1e999}", "too large"),
        ("- name", "plan.yaml:1: expected keys with values, got list"),
    ],
)
def test_a_wrong_value_is_named_with_its_line_and_key(text, said):
    assert said in refusal(text)


def test_a_wrong_choice_gets_the_nearest_valid_one():
    said = refusal("name: x\nfallback:\n  latency_ms: 1\n  kind: ethrenet\n")
    assert said.startswith('plan.yaml:4: key "fallback.kind"')
    assert said.endswith('did you mean "ethernet"?')


def test_a_tagged_struct_is_chosen_by_its_tag():
    text = "name: x\nload: {trace: stepped, levels: [0.5, 1]}"
    assert parse_strict(text, "plan.yaml", Plan).load == Stepped(levels=(0.5, 1.0))


def test_an_unknown_tag_gets_the_nearest_valid_one():
    assert refusal("name: x\nload:\n  trace: stedy\n") == (
        'plan.yaml:3: key "load.trace": \'stedy\' is unknown; did you mean "steady"?'
    )


def test_a_missing_tag_is_named():
    assert (
        refusal("name: x\nload: {level: 1}")
        == 'plan.yaml:2: key "load.trace" is missing; valid: steady, stepped'
    )


def test_a_key_given_twice_is_refused():
    assert (
        refusal("name: x\nname: y\n") == 'plan.yaml:2: key "name": is given twice, first in line 1; keep one'
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("name: x\n---\nname: y\n", "plan.yaml:2: a second document"),
        ("name: &a x\n", "anchors"),
        ("a: &a [x]\nb: [*a, *a]\n", "anchors"),
        ("<<: *base\n", "anchors"),
        ("name: !!python/object/apply:os.system [id]\n", "tag"),
        ("name: !secret x\n", "tag"),
        ("[" * 100_000, "nested deeper"),
        ("{a: " * 40 + "1" + "}" * 40, "nested deeper"),
        ("[" + "1," * 300_000 + "]", "more than"),
        ("x" * (MAX_BYTES + 1), "larger than"),
        ("é" * (MAX_BYTES // 2 + 1), "larger than"),
        ("name: [x\n", "is not valid YAML"),
        ("name: \ud800\n", "is not valid YAML"),
        ("a: 1\nname: \0\n", "is not valid YAML"),
        ("? [a]\n: b\n", "a key must be plain text"),
        ("name: x\nnum_devices: " + "9" * 5000, "a number of 5000 characters"),
    ],
)
def test_what_no_file_needs_is_refused(text, said):
    assert said in refusal(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("22:00", "22:00"),
        ("1_000", 1000),
        ("1e3", 1000.0),
        ("0x10", 16),
        ("'7'", "7"),
        ("010", 10),
        ("2026-01-01", "2026-01-01"),
    ],
)
def test_scalars_follow_the_core_schema_and_not_the_traps_of_yaml_1_1(text, value):
    class Any(msgspec.Struct):
        value: str | int | float | bool

    found = parse_strict(f"value: {text}", "x.yaml", Any).value
    assert found == value
    assert type(found) is type(value)


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=200) | st.text(alphabet="{}[]&*!|>-:'\"#,a1 \n\t", max_size=60))
def test_any_text_is_loaded_or_refused_in_one_line(text):
    try:
        parse_strict(text, "plan.yaml", Plan)
    except UserError as error:
        assert str(error).startswith("plan.yaml:")  # noqa: PT017 - both outcomes are right


def test_a_missing_file_says_which(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*gone\.yaml: No such file"):
        load_strict(tmp_path / "gone.yaml", Plan)


def test_a_folder_in_place_of_a_file_says_so(tmp_path):
    with pytest.raises(UserError, match="Is a directory"):
        load_strict(tmp_path, Plan)


def test_a_file_that_is_not_text_says_in_which_line(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"name: x\n# \xff\xfe\n")
    with pytest.raises(UserError, match=r"x\.yaml:2: is not UTF-8"):
        load_strict(tmp_path / "x.yaml", Plan)


def test_a_huge_file_is_not_read_whole(tmp_path):
    with (tmp_path / "x.yaml").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match="larger than"):
        load_strict(tmp_path / "x.yaml", Plan)


def test_a_truncated_file_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_text("name: x\nlinks: {a: {latency_ms: 3")
    with pytest.raises(UserError, match=r"x\.yaml:\d"):
        load_strict(tmp_path / "x.yaml", Plan)
