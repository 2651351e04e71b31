"""Data texts that name a live source."""

import pytest

from firmware_profiles.errors import UserError
from models.data.live import MAX_FEATURES, LiveSource, empty_dataset, parse_live


def test_a_topic_with_its_options_is_a_source():
    assert parse_live("mqtt:plant/{device}/+/power?features=6&classes=down,up") == LiveSource(
        "mqtt", "plant/{device}/+/power", 6, ("down", "up")
    )


def test_a_command_with_its_options_is_a_source():
    assert parse_live("command:/opt/read-sensor --fast?features=3&classes=a,b&label=first") == LiveSource(
        "command", "/opt/read-sensor --fast", 3, ("a", "b"), label_first=True
    )


def test_options_come_after_the_last_question_mark():
    source = parse_live("command:sh -c 'test -f /x && echo what? {1}'?features=1&classes=a,b&label=last")
    assert source is not None
    assert source.target == "sh -c 'test -f /x && echo what? {1}'"
    assert not source.label_first


def test_options_may_be_percent_encoded():
    source = parse_live("mqtt:a?features=1&classes=hot%20%26%20dry,wet")
    assert source is not None
    assert source.class_names == ("hot & dry", "wet")


@pytest.mark.parametrize("text", ["", "walk.csv?window=3", "fashion-mnist-small", "file:x", "/mqtt:/a"])
def test_other_texts_are_no_live_sources(text):
    assert parse_live(text) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mqtt:a", ["features= is missing", "mqtt:plant/"]),
        ("mqtt:a?features=3", ["classes= is missing"]),
        ("command:a?classes=a,b", ["features= is missing", "command:/opt/"]),
        ("mqtt:a?features=0&classes=a,b", ["features=0", "whole number"]),
        ("mqtt:a?features=x&classes=a,b", ["features=x", "whole number"]),
        (f"mqtt:a?features={MAX_FEATURES + 1}&classes=a,b", [str(MAX_FEATURES)]),
        ("mqtt:a?features=3&classes=a", ["classes=a", "2 to"]),
        ("mqtt:a?features=3&classes=a,a", ["distinct"]),
        ("mqtt:a?features=3&classes=a,b&label=2", ["label=2", "first or last"]),
        ("mqtt:a?faetures=3&classes=a,b", ["did you mean 'features'"]),
        ("mqtt:a?features", ["?key=value"]),
        ("command:/opt/x what?", ["features= is missing"]),
        ("mqtt:?features=3&classes=a,b", ["no topic"]),
        ("mqtt://host/a?features=3&classes=a,b", ["--broker"]),
        ("mqtt:a/{devise}?features=3&classes=a,b", ["{device} only"]),
        ("command: ?features=3&classes=a,b", ["no command"]),
        ("command:echo 'a?features=3&classes=a,b", ["quotation", "Quote it"]),
    ],
)
def test_a_wrong_source_says_what_where_and_what_to_do(text, words):
    with pytest.raises(UserError) as caught:
        parse_live(text)
    for word in (text, *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("names", "text", "number"),
    [
        (("down", "up"), "up", 1),
        (("down", "up"), " up ", 1),
        (("down", "up"), "1", 1),
        (("down", "up"), "1.0", 1),
        (("down", "up"), "2", None),
        (("down", "up"), "-1", None),
        (("down", "up"), "Up", None),
        (("down", "up"), "9" * 5000, None),
        (("down", "up"), "nan", None),
        (("3", "1"), "1", 1),
        (("3", "1"), "1.0", 1),
        (("3", "1"), "0", None),
        (("1.0", "up"), "1.0", 0),
    ],
)
def test_a_class_is_known_by_name_or_where_no_name_is_a_number_by_number(names, text, number):
    assert LiveSource("mqtt", "a", 1, names).class_number(text) == number


def test_the_empty_data_set_has_the_shape_and_classes_that_will_come():
    dataset = empty_dataset(LiveSource("command", "x", 6, ("a", "b", "c")))
    assert (len(dataset), dataset.shape, dataset.num_classes) == (0, (6,), 3)
