from __future__ import annotations

import logging

import pytest

from device_agent.kept_content import KeptContent
from device_agent.wire.codec import digest_of

CONTENTS = [b"first" * 1000, b"second" * 1000, b"third" * 1000]
FIRST, SECOND, THIRD = (digest_of(content) for content in CONTENTS)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "bundles"


def filled(folder, *contents):
    kept = KeptContent(folder)
    for content in contents:
        kept.put(digest_of(content), content)
    return kept


def test_content_is_found_by_its_digest(folder):
    kept = filled(folder, CONTENTS[0])
    assert kept.get(FIRST) == CONTENTS[0]
    assert kept.get(SECOND) is None


def test_content_outlives_the_process(folder):
    filled(folder, CONTENTS[0])
    assert KeptContent(folder).get(FIRST) == CONTENTS[0]


def test_without_a_folder_content_is_kept_in_memory():
    assert filled(None, CONTENTS[0]).get(FIRST) == CONTENTS[0]


def test_only_the_newest_contents_stay(folder):
    kept = filled(folder, *CONTENTS)
    assert [kept.get(digest) is None for digest in (FIRST, SECOND, THIRD)] == [True, False, False]
    assert sorted(path.name for path in folder.iterdir()) == sorted([SECOND, THIRD])


def test_content_that_is_asked_for_stays_longer_than_what_is_not(folder):
    kept = filled(folder, *CONTENTS[:2])
    kept.get(FIRST)
    kept.put(THIRD, CONTENTS[2])
    assert (kept.get(FIRST), kept.get(SECOND)) == (CONTENTS[0], None)


def test_a_damaged_file_is_not_believed_and_goes(folder):
    filled(folder, CONTENTS[0])
    (folder / FIRST).write_bytes(CONTENTS[0][:-1])
    assert KeptContent(folder).get(FIRST) is None
    assert list(folder.iterdir()) == []


def test_what_a_killed_process_left_unfinished_is_removed(folder):
    filled(folder, CONTENTS[0])
    (folder / SECOND).with_suffix(".unfinished").write_bytes(CONTENTS[1][:-1])
    assert KeptContent(folder).get(SECOND) is None
    assert [path.name for path in folder.iterdir()] == [FIRST]


def test_a_disk_that_refuses_costs_the_restart_only(tmp_path, caplog):
    (tmp_path / "bundles").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        kept = filled(tmp_path / "bundles", CONTENTS[0])
    assert kept.get(FIRST) == CONTENTS[0]
    assert "fetched again after a restart" in caplog.text
