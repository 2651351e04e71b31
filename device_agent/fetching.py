"""Content that the agent gets from the coordinator by its digest: from what it kept, or in chunks."""

from __future__ import annotations

from collections.abc import Callable

from device_agent.effects import Fetch, Send, StopFetch
from device_agent.kept_content import KeptContent
from device_agent.loop import Timers
from device_agent.wire.chunks import DownloadEffect, Downloads, Finished, Request
from device_agent.wire.messages import Chunk
from device_agent.wire.topics import COORDINATOR


class Fetching:
    """Carries out `Fetch` and `StopFetch`.

    Args:
        downloads: what is under way. kept: content that orders name again.
        timers: of the node; the key "downloads" is taken.
        ask: sends a request for a chunk; its `run` is filled in there.
        fetched: called with (digest, content). failed: called with (digest, reason).

    Attributes:
        is_online: whether asking has a use at this moment.
    """

    def __init__(
        self,
        *,
        downloads: Downloads,
        kept: KeptContent,
        timers: Timers,
        ask: Callable[[Send], None],
        run: Callable[[], str],
        fetched: Callable[[str, bytes], None],
        failed: Callable[[str, str], None],
    ) -> None:
        self._downloads, self._kept, self._timers = downloads, kept, timers
        self._ask, self._run, self._fetched, self._failed = ask, run, fetched, failed
        self._to_keep: set[str] = set()
        self.is_online = True

    def fetch(self, effect: Fetch) -> None:
        """Get content, then tell."""
        if effect.keep:
            content = self._kept.get(effect.digest)
            if content is not None:
                self._fetched(effect.digest, content)
                return
            self._to_keep.add(effect.digest)
        now_s = self._timers.now_s()
        self._transfer(self._downloads.start(effect.holder, effect.digest, effect.size_bytes, now_s))

    def stop(self, effect: StopFetch) -> None:
        """Nobody waits for it any more."""
        self._to_keep.discard(effect.digest)
        self._transfer(self._downloads.cancel(effect.holder, effect.digest, self._timers.now_s()))

    def on_chunk(self, sender: str, chunk: Chunk) -> None:
        """A chunk came."""
        self._transfer(self._downloads.on_chunk(sender, chunk, self._timers.now_s()))

    def on_reconnect(self) -> None:
        """What was asked for may be lost."""
        self._transfer(self._downloads.on_reconnect(self._timers.now_s()))

    def _transfer(self, effects: list[DownloadEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Request):
                self._ask(Send(to=COORDINATOR, body=effect.message, run=self._run()))
            elif isinstance(effect, Finished):
                if effect.digest in self._to_keep:
                    self._kept.put(effect.digest, effect.data)
                self._to_keep.discard(effect.digest)
                self._fetched(effect.digest, effect.data)
            else:
                self._to_keep.discard(effect.digest)
                self._failed(effect.digest, effect.reason)
        next_s = self._downloads.next_timer_s()
        if next_s is not None:
            self._timers.set_timer("downloads", max(0.0, next_s - self._timers.now_s()), self._on_due)

    def _on_due(self) -> None:
        if self.is_online:  # else `on_reconnect` asks again
            self._transfer(self._downloads.on_timer(self._timers.now_s()))
