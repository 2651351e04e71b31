"""Content in chunks: the receiver pulls, so it sets the pace, resumes where it was, trusts only the digest.

No socket, thread or clock. The runtime calls `start`, `on_chunk`, `on_timer` (when `next_timer_s` is
due) and `on_reconnect`, and carries out what they return: a `Request` is sent as a ChunkRequest, a
`Finished` or `Failed` is told to the core. The holder answers requests with `serve`, one by one,
without any state.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from device_agent.wire.codec import digest_of
from device_agent.wire.messages import Chunk, ChunkRequest

CHUNK_BYTES = 64 * 1024
"""Part of the protocol. With a window of 2 it kept 200 B messages at 45 ms median on a 20 Mbit/s link."""

MAX_MISMATCHES = 3
"""Transfers whose content has the wrong digest before a download fails."""

_MAX_WAITING_PER_HOLDER = 64


@dataclass(frozen=True)
class Request:
    """Send `message` to `holder`, on its plain topic, QoS 1."""

    holder: str
    message: ChunkRequest


@dataclass(frozen=True)
class Finished:
    """The content is here; its SHA-256 is `digest`."""

    holder: str
    digest: str
    data: bytes


@dataclass(frozen=True)
class Failed:
    """This holder does not give us the content; the reason is a clause a person understands."""

    holder: str
    digest: str
    reason: str


DownloadEffect = Request | Finished | Failed


class PartialStore(Protocol):
    """Where chunks survive a restart; see `partial.PartialFolder`. What it returns is not trusted."""

    def load(self, digest: str) -> dict[int, bytes]:
        """Return the chunks kept of this content by index."""
        ...

    def save(self, digest: str, index: int, data: bytes) -> None:
        """Keep a chunk, if there is room."""
        ...

    def forget(self, digest: str) -> None:
        """Forget all chunks of this content."""
        ...


class _NoStore:
    """Keeps nothing."""

    def load(self, digest: str) -> dict[int, bytes]:  # noqa: ARG002
        return {}

    def save(self, digest: str, index: int, data: bytes) -> None:
        pass

    def forget(self, digest: str) -> None:
        pass


@dataclass
class _Asked:
    """A chunk that was requested and has not come."""

    retry_at_s: float
    num_asked: int = 1


@dataclass
class _Download:
    holder: str
    digest: str
    size_bytes: int
    heard_at_s: float  # start, or the last chunk that was new
    active: bool = False
    next_index: int = 0  # lower ones are here or were asked for
    num_mismatches: int = 0
    chunks: dict[int, bytes] = field(default_factory=dict)
    asked: dict[int, _Asked] = field(default_factory=dict)

    @property
    def num_chunks(self) -> int:
        return num_chunks(self.size_bytes)


class Downloads:
    """All downloads of one process.

    Downloads of one holder share its window and run one after another where they exceed the bounds
    together. The same content asked of the same holder twice is one download.

    Args:
        rng: jitter of the retries.
        store: keeps chunks across restarts.
        window: requests under way per holder.
        max_blob_bytes: larger content is refused, and one holder's running downloads stay below it.
        max_total_bytes: all running downloads together; others wait.
        retry_s, retry_cap_s: a chunk is asked for again after uniform(1/2, 1) * min(cap, retry * 2**n).
        silence_s: a holder that sends nothing new for so long has failed; chunks are kept in the store.

    Attributes:
        num_mismatches: transfers whose content had the wrong digest.
        num_ignored: chunks that nobody had asked for: late repeats, mostly.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        store: PartialStore | None = None,
        window: int = 2,
        max_blob_bytes: int = 256 * 2**20,
        max_total_bytes: int = 512 * 2**20,
        retry_s: float = 5.0,
        retry_cap_s: float = 60.0,
        silence_s: float = 900.0,
    ) -> None:
        self.num_mismatches = 0
        self.num_ignored = 0
        self._rng = rng
        self._store: PartialStore = store or _NoStore()
        self._window = window
        self._max_blob_bytes = max_blob_bytes
        self._max_total_bytes = max_total_bytes
        self._retry_s = retry_s
        self._retry_cap_s = retry_cap_s
        self._silence_s = silence_s
        self._downloads: dict[tuple[str, str], _Download] = {}  # in order of starting

    def start(self, holder: str, digest: str, size_bytes: int, now_s: float) -> list[DownloadEffect]:
        """Begin to fetch content, or resume it from the store.

        Args:
            holder: id of who has it; only chunks from there count.
            digest: SHA-256 in hex.
            size_bytes: its size as announced. Untrusted.
            now_s: seconds of a monotonic clock, as everywhere here.
        """
        if (holder, digest) in self._downloads:
            return []
        if size_bytes > self._max_blob_bytes:
            return [
                Failed(holder, digest, f"{size_bytes} bytes are more than {self._max_blob_bytes} allowed")
            ]
        if sum(other.holder == holder for other in self._downloads.values()) >= _MAX_WAITING_PER_HOLDER:
            return [Failed(holder, digest, f"{_MAX_WAITING_PER_HOLDER} downloads from there wait already")]
        self._downloads[holder, digest] = _Download(holder, digest, size_bytes, now_s)
        return self._advance(now_s)

    def cancel(self, holder: str, digest: str, now_s: float) -> list[DownloadEffect]:
        """Stop a download; its chunks stay in the store. Unknown ones are ignored."""
        self._downloads.pop((holder, digest), None)
        return self._advance(now_s)

    def on_chunk(self, sender: str, chunk: Chunk, now_s: float) -> list[DownloadEffect]:
        """Take in a chunk from a peer; whatever it holds, nothing but effects comes of it."""
        download = self._downloads.get((sender, chunk.digest))
        if download is None or not download.active:
            self.num_ignored += 1
            return []
        if chunk.num_chunks == 0:
            return [self._fail(download, "the holder does not have it any more"), *self._advance(now_s)]
        if chunk.index not in download.asked:
            self.num_ignored += 1
            return []
        if chunk.num_chunks != download.num_chunks or len(chunk.data) != _chunk_bytes(download, chunk.index):
            reason = (
                f"chunk {chunk.index} of {chunk.num_chunks} with {len(chunk.data)} bytes does not fit"
                f" {download.size_bytes} bytes in {download.num_chunks} chunks"
            )
            return [self._fail(download, reason), *self._advance(now_s)]
        del download.asked[chunk.index]
        download.chunks[chunk.index] = chunk.data
        download.heard_at_s = now_s
        self._store.save(download.digest, chunk.index, chunk.data)
        return self._advance(now_s)

    def on_timer(self, now_s: float) -> list[DownloadEffect]:
        """Ask again for chunks that did not come; give up holders silent for too long."""
        effects: list[DownloadEffect] = []
        for download in [download for download in self._downloads.values() if download.active]:
            if now_s >= download.heard_at_s + self._silence_s:
                effects.append(self._fail(download, f"nothing came for {self._silence_s:.0f} s"))
                continue
            for index, asked in download.asked.items():
                if now_s >= asked.retry_at_s:
                    asked.retry_at_s = now_s + self._retry_delay_s(asked.num_asked)
                    asked.num_asked += 1
                    effects.append(_request(download, index))
        return effects + self._advance(now_s)

    def on_reconnect(self, now_s: float) -> list[DownloadEffect]:
        """Ask at once for what was under way when the connection was lost."""
        for download in self._downloads.values():
            for asked in download.asked.values():
                asked.retry_at_s, asked.num_asked = now_s, 0
        return self.on_timer(now_s)

    def next_timer_s(self) -> float | None:
        """Return when `on_timer` is due, None if nothing runs."""
        due_s = [
            time_s
            for download in self._downloads.values()
            if download.active
            for time_s in (
                download.heard_at_s + self._silence_s,
                *(asked.retry_at_s for asked in download.asked.values()),
            )
        ]
        return min(due_s, default=None)

    def _advance(self, now_s: float) -> list[DownloadEffect]:
        """Finish what is complete, admit what waits, fill the windows."""
        effects: list[DownloadEffect | None] = []
        changed = True
        while changed:  # what finishes makes room; what is admitted may be complete in the store
            complete = [d for d in self._downloads.values() if d.active and len(d.chunks) == d.num_chunks]
            effects += [self._finish(download) for download in complete]
            admitted = [self._admit(d, now_s) for d in self._downloads.values() if not d.active]
            changed = bool(complete) or any(admitted)
        for download in self._downloads.values():
            if download.active:
                effects += self._fill_window(download, now_s)
        return [effect for effect in effects if effect is not None]

    def _admit(self, download: _Download, now_s: float) -> bool:
        running = [other for other in self._downloads.values() if other.active]
        total_bytes = download.size_bytes + sum(other.size_bytes for other in running)
        holder_bytes = download.size_bytes + sum(
            other.size_bytes for other in running if other.holder == download.holder
        )
        if running and (total_bytes > self._max_total_bytes or holder_bytes > self._max_blob_bytes):
            return False
        download.active = True
        download.heard_at_s = now_s
        kept = self._store.load(download.digest)
        download.chunks = {
            index: data
            for index, data in kept.items()
            if 0 <= index < download.num_chunks and len(data) == _chunk_bytes(download, index)
        }
        return True

    def _finish(self, download: _Download) -> Finished | Failed | None:
        data = b"".join(download.chunks[index] for index in range(download.num_chunks))
        if digest_of(data) == download.digest:
            del self._downloads[download.holder, download.digest]
            self._store.forget(download.digest)
            return Finished(download.holder, download.digest, data)
        self.num_mismatches += 1
        download.num_mismatches += 1
        download.chunks.clear()
        self._store.forget(download.digest)
        if download.num_mismatches >= MAX_MISMATCHES or not download.num_chunks:
            return self._fail(download, f"its SHA-256 was wrong {download.num_mismatches} times")
        download.next_index = 0
        return None

    def _fill_window(self, download: _Download, now_s: float) -> list[DownloadEffect]:
        under_way = sum(
            len(other.asked) for other in self._downloads.values() if other.holder == download.holder
        )
        effects: list[DownloadEffect] = []
        while under_way < self._window and download.next_index < download.num_chunks:
            index = download.next_index
            download.next_index += 1
            if index not in download.chunks:
                download.asked[index] = _Asked(now_s + self._retry_delay_s(0))
                effects.append(_request(download, index))
                under_way += 1
        return effects

    def _fail(self, download: _Download, reason: str) -> Failed:
        del self._downloads[download.holder, download.digest]
        return Failed(download.holder, download.digest, reason)

    def _retry_delay_s(self, num_asked: int) -> float:
        ceiling_s = min(self._retry_cap_s, self._retry_s * 2.0 ** min(num_asked, 30))
        # Not full jitter down to 0: a retry at once would only repeat what is still under way.
        return self._rng.uniform(ceiling_s / 2, ceiling_s)


def serve(lookup: Callable[[str], bytes | None], request: ChunkRequest) -> Chunk:
    """Answer a request: the chunk, or "gone" (num_chunks 0) where there is no such content or chunk.

    Args:
        lookup: returns content by digest, None where the holder does not have it (any more).
        request: from a peer.
    """
    data = lookup(request.digest)
    total = 0 if data is None else num_chunks(len(data))
    if data is None or request.index >= total:
        return Chunk(digest=request.digest, index=request.index, num_chunks=0, data=b"")
    start = request.index * CHUNK_BYTES
    return Chunk(
        digest=request.digest, index=request.index, num_chunks=total, data=data[start : start + CHUNK_BYTES]
    )


def num_chunks(size_bytes: int) -> int:
    """Return how many chunks content of this size travels in."""
    return -(-size_bytes // CHUNK_BYTES)


def _chunk_bytes(download: _Download, index: int) -> int:
    return min(CHUNK_BYTES, download.size_bytes - index * CHUNK_BYTES)


def _request(download: _Download, index: int) -> Request:
    return Request(download.holder, ChunkRequest(digest=download.digest, index=index))
