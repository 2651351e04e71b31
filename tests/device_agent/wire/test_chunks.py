"""The transfer in chunks, without any network."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.wire.chunks import CHUNK_BYTES, Downloads, Failed, Finished, Request, num_chunks, serve
from device_agent.wire.codec import MAX_MESSAGE_BYTES, digest_of, encode
from device_agent.wire.messages import SCHEMA_VERSION, Chunk, ChunkRequest, Envelope
from device_agent.wire.partial import PartialFolder

CONTENT = random.Random(3).randbytes(3 * CHUNK_BYTES + 100)  # four chunks
DIGEST = digest_of(CONTENT)


def lookup(digest):
    return {DIGEST: CONTENT}.get(digest)


def make(**arguments):
    return Downloads(random.Random(1), **arguments)


def requests(effects):
    return [effect.message.index for effect in effects if isinstance(effect, Request)]


def answer(downloads, effects, now_s=0.0, holder="h"):
    """Serve all requests until nothing is asked any more; return the other effects."""
    results = []
    while effects:
        effect = effects.pop(0)
        if isinstance(effect, Request):
            effects += downloads.on_chunk(holder, serve(lookup, effect.message), now_s)
        else:
            results.append(effect)
    return results


def test_content_arrives_whole():
    downloads = make()
    results = answer(downloads, downloads.start("h", DIGEST, len(CONTENT), 0.0))
    assert results == [Finished("h", DIGEST, CONTENT)]


def test_two_chunks_are_under_way_at_a_time():
    downloads = make()
    assert requests(downloads.start("h", DIGEST, len(CONTENT), 0.0)) == [0, 1]
    assert requests(downloads.on_chunk("h", serve(lookup, ChunkRequest(digest=DIGEST, index=1)), 0.0)) == [2]


def test_two_downloads_from_one_holder_share_the_window_and_another_holder_has_its_own():
    downloads = make()
    downloads.start("h", DIGEST, len(CONTENT), 0.0)
    assert requests(downloads.start("h", "0" * 64, 10 * CHUNK_BYTES, 0.0)) == []
    assert requests(downloads.start("other", "0" * 64, 10 * CHUNK_BYTES, 0.0)) == [0, 1]


def test_the_same_download_twice_is_one():
    downloads = make()
    downloads.start("h", DIGEST, len(CONTENT), 0.0)
    assert downloads.start("h", DIGEST, len(CONTENT), 0.0) == []


def test_empty_content_needs_no_chunk():
    digest = digest_of(b"")
    assert make().start("h", digest, 0, 0.0) == [Finished("h", digest, b"")]


def test_empty_content_of_another_digest_fails():
    assert isinstance(make().start("h", DIGEST, 0, 0.0)[0], Failed)


def test_a_chunk_that_does_not_come_is_asked_for_again_later_and_later():
    downloads = make(retry_s=4.0, retry_cap_s=100.0)
    downloads.start("h", DIGEST, CHUNK_BYTES, 0.0)
    now_s, waits_s = 0.0, []
    for _ in range(4):
        due_s = downloads.next_timer_s()
        assert downloads.on_timer(due_s - 0.01) == []
        waits_s.append(due_s - now_s)
        now_s = due_s
        assert requests(downloads.on_timer(now_s)) == [0]
    assert all(2.0 * 2**n <= wait_s <= 4.0 * 2**n for n, wait_s in enumerate(waits_s))


def test_a_reconnect_asks_at_once_and_keeps_what_came():
    downloads = make()
    downloads.start("h", DIGEST, len(CONTENT), 0.0)
    downloads.on_chunk("h", serve(lookup, ChunkRequest(digest=DIGEST, index=0)), 0.0)
    assert requests(downloads.on_reconnect(0.1)) == [1, 2]


def test_a_holder_that_does_not_have_it_any_more_fails_the_download():
    downloads = make()
    downloads.start("h", "0" * 64, 10, 0.0)
    gone = serve(lookup, ChunkRequest(digest="0" * 64, index=0))
    assert downloads.on_chunk("h", gone, 0.0) == [
        Failed("h", "0" * 64, "the holder does not have it any more")
    ]


def test_a_silent_holder_fails_the_download_in_the_end():
    downloads = make(silence_s=100.0)
    downloads.start("h", DIGEST, len(CONTENT), 0.0)
    assert downloads.on_timer(100.0) == [Failed("h", DIGEST, "nothing came for 100 s")]
    assert downloads.next_timer_s() is None


@pytest.mark.parametrize(
    "changes",
    [{"num_chunks": 5}, {"num_chunks": 2**53}, {"data": b"short"}, {"data": bytes(CHUNK_BYTES + 1)}],
)
def test_a_chunk_that_does_not_fit_the_announced_size_fails_the_download(changes):
    downloads = make()
    downloads.start("h", DIGEST, len(CONTENT), 0.0)
    chunk = Chunk(**{"digest": DIGEST, "index": 0, "num_chunks": 4, "data": CONTENT[:CHUNK_BYTES], **changes})
    (effect,) = downloads.on_chunk("h", chunk, 0.0)
    assert "does not fit" in effect.reason


def test_chunks_nobody_asked_for_change_nothing():
    downloads = make()
    downloads.start("h", DIGEST, len(CONTENT), 0.0)
    good = serve(lookup, ChunkRequest(digest=DIGEST, index=0))
    assert downloads.on_chunk("mallory", good, 0.0) == []
    assert downloads.on_chunk("h", serve(lookup, ChunkRequest(digest=DIGEST, index=3)), 0.0) == []
    assert downloads.num_ignored == 2


def test_wrong_content_is_fetched_again_from_nothing_and_fails_after_three_times():
    downloads = make()
    evil = bytes(len(CONTENT))
    effects, results = downloads.start("h", DIGEST, len(CONTENT), 0.0), []
    asked = 0
    while effects:
        effect = effects.pop(0)
        if isinstance(effect, Request):
            asked += 1
            effects += downloads.on_chunk("h", serve(lambda _: evil, effect.message), 0.0)
        else:
            results.append(effect)
    assert (asked, downloads.num_mismatches) == (12, 3)
    assert results == [Failed("h", DIGEST, "its SHA-256 was wrong 3 times")]


def test_content_over_the_limit_is_not_even_begun():
    (effect,) = make(max_blob_bytes=100).start("h", DIGEST, 101, 0.0)
    assert isinstance(effect, Failed)


def test_what_does_not_fit_waits_and_runs_when_there_is_room():
    downloads = make(max_total_bytes=len(CONTENT) + 1)
    first = downloads.start("h", DIGEST, len(CONTENT), 0.0)
    assert downloads.start("other", DIGEST, len(CONTENT), 0.0) == []
    results = []
    while first:
        effect = first.pop(0)
        if isinstance(effect, Request):
            first += downloads.on_chunk(effect.holder, serve(lookup, effect.message), 0.0)
        else:
            results.append(effect.holder)
    assert results == ["h", "other"]


def test_one_holder_cannot_start_downloads_without_end():
    downloads = make()
    effects = [effect for n in range(100) for effect in downloads.start("h", f"{n:064x}", 2**20, 0.0)]
    assert sum(isinstance(effect, Failed) for effect in effects) == 36


def test_a_cancelled_download_lets_the_next_one_go():
    downloads = make(max_total_bytes=len(CONTENT) + 1)
    downloads.start("h", "0" * 64, len(CONTENT), 0.0)
    downloads.start("h", DIGEST, len(CONTENT), 0.0)
    assert requests(downloads.cancel("h", "0" * 64, 0.0)) == [0, 1]


def test_a_killed_process_resumes_where_it_was(tmp_path):
    downloads = make(store=PartialFolder(tmp_path))
    downloads.start("h", DIGEST, len(CONTENT), 0.0)
    for index in (0, 1):
        downloads.on_chunk("h", serve(lookup, ChunkRequest(digest=DIGEST, index=index)), 0.0)
    revived = make(store=PartialFolder(tmp_path))
    effects = revived.start("h", DIGEST, len(CONTENT), 0.0)
    assert requests(effects) == [2, 3]
    assert answer(revived, effects) == [Finished("h", DIGEST, CONTENT)]
    assert list(tmp_path.iterdir()) == []


def test_a_chunk_spoilt_on_disk_costs_a_second_transfer_and_nothing_else(tmp_path):
    folder = PartialFolder(tmp_path)
    folder.save(DIGEST, 0, bytes(CHUNK_BYTES))
    downloads = make(store=folder)
    results = answer(downloads, downloads.start("h", DIGEST, len(CONTENT), 0.0))
    assert results == [Finished("h", DIGEST, CONTENT)]
    assert downloads.num_mismatches == 1


def test_a_torn_or_foreign_file_on_disk_is_ignored(tmp_path):
    folder = PartialFolder(tmp_path)
    folder.save(DIGEST, 0, b"torn")
    folder.save(DIGEST, 99, bytes(CHUNK_BYTES))
    (tmp_path / DIGEST / "1.part").write_bytes(bytes(CHUNK_BYTES))
    assert requests(make(store=folder).start("h", DIGEST, len(CONTENT), 0.0)) == [0, 1]


def test_the_folder_forgets_the_oldest_content_when_it_is_full(tmp_path):
    folder = PartialFolder(tmp_path, max_bytes=250)
    for number in (1, 2, 3):
        folder.save(f"{number:064x}", 0, bytes(100))
    kept = [number for number in (1, 2, 3) if folder.load(f"{number:064x}")]
    assert kept == [2, 3] == [n for n in (1, 2, 3) if PartialFolder(tmp_path).load(f"{n:064x}")]


def test_a_folder_that_cannot_be_written_costs_only_the_resuming(tmp_path, caplog):
    (tmp_path / "file").touch()
    downloads = make(store=PartialFolder(tmp_path / "file" / "partial"))
    results = answer(downloads, downloads.start("h", DIGEST, len(CONTENT), 0.0))
    assert results == [Finished("h", DIGEST, CONTENT)]
    assert len(caplog.records) == 1


def test_a_request_beyond_the_end_is_answered_with_gone():
    assert serve(lookup, ChunkRequest(digest=DIGEST, index=4)).num_chunks == 0


def test_a_full_chunk_fits_into_a_message():
    body = serve(lookup, ChunkRequest(digest=DIGEST, index=0))
    assert len(
        encode(Envelope(schema=SCHEMA_VERSION, run="r", sender="a", boot_epoch=1, sequence=1, body=body))
    ) < (MAX_MESSAGE_BYTES)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 3 * CHUNK_BYTES))
def test_content_arrives_over_a_network_that_loses_repeats_and_reorders(seed, size_bytes):
    rng = random.Random(seed)
    content = rng.randbytes(size_bytes)
    digest = digest_of(content)
    downloads = Downloads(rng, silence_s=1e9)
    effects, under_way, now_s = downloads.start("h", digest, size_bytes, 0.0), [], 0.0
    for _ in range(10_000):
        for effect in effects:
            if isinstance(effect, Finished):
                assert effect.data == content
                return
            under_way += [effect.message] * rng.choice([0, 1, 1, 2])
        rng.shuffle(under_way)
        if under_way:
            effects = downloads.on_chunk("h", serve(lambda _: content, under_way.pop()), now_s)
        else:
            now_s = downloads.next_timer_s()
            effects = downloads.on_timer(now_s)
    pytest.fail("the download never finished")


@pytest.mark.parametrize(("size_bytes", "count"), [(0, 0), (1, 1), (CHUNK_BYTES, 1), (CHUNK_BYTES + 1, 2)])
def test_the_number_of_chunks_follows_from_the_size(size_bytes, count):
    assert num_chunks(size_bytes) == count
