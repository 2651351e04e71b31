"""Who subscribed to what: filters in a tree, so that a message costs its depth, not the number of filters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_LEVELS = 32
"""No topic of ours is deeper, and a filter of a million slashes must not build a million nodes."""


@dataclass
class _Node:
    """One level of the tree: the levels below it, and the clients whose filter ends here with their QoS."""

    below: dict[str, _Node] = field(default_factory=dict)
    clients: dict[str, int] = field(default_factory=dict)


def is_filter(pattern: str) -> bool:
    """Whether a subscription filter is legal and one we carry: no `$share`, `#` last, wildcards alone."""
    levels = pattern.split("/")
    return (
        0 < len(pattern) <= 1024
        and len(levels) <= MAX_LEVELS
        and "\0" not in pattern
        and levels[0] != "$share"
        and all(
            "#" not in level or (level == "#" and index == len(levels) - 1)
            for index, level in enumerate(levels)
        )
        and all("+" not in level or level == "+" for level in levels)
    )


def is_topic(topic: str) -> bool:
    """Whether a topic may be published to: no wildcards, nothing of the broker's own (`$`)."""
    return (
        0 < len(topic) <= 1024
        and topic[0] != "$"
        and topic.count("/") < MAX_LEVELS
        and not any(sign in topic for sign in "#+\0")
    )


class Subscriptions:
    """The filters of all clients. Filters must satisfy `is_filter`."""

    def __init__(self) -> None:
        self._root = _Node()
        self._filters: dict[str, set[str]] = {}

    def add(self, client: str, pattern: str, qos: int) -> None:
        """Subscribe; a repeat replaces the QoS."""
        node = self._root
        for level in pattern.split("/"):
            node = node.below.setdefault(level, _Node())
        node.clients[client] = qos
        self._filters.setdefault(client, set()).add(pattern)

    def remove(self, client: str, pattern: str) -> None:
        """Unsubscribe; nothing happens where there was no such subscription."""
        filters = self._filters.get(client, set())
        if pattern not in filters:
            return
        filters.discard(pattern)
        if not filters:
            del self._filters[client]
        path = [self._root]
        levels = pattern.split("/")
        for level in levels:
            path.append(path[-1].below[level])
        del path[-1].clients[client]
        for parent, level in zip(reversed(path[:-1]), reversed(levels), strict=True):
            node = parent.below[level]
            if node.below or node.clients:
                break
            del parent.below[level]

    def remove_all(self, client: str) -> None:
        """Forget a client."""
        for pattern in tuple(self._filters.get(client, ())):
            self.remove(client, pattern)

    def of(self, client: str) -> frozenset[str]:
        """The filters of one client."""
        return frozenset(self._filters.get(client, ()))

    def matching(self, topic: str) -> dict[str, int]:
        """The clients a message goes to, once each, with the highest QoS among their matching filters."""
        found: dict[str, int] = {}
        for clients in _walk(self._root, topic.split("/"), 0):
            for client, qos in clients.items():
                if qos >= found.get(client, 0):
                    found[client] = qos
        return found


def _walk(node: _Node, levels: list[str], depth: int) -> Iterator[dict[str, int]]:
    wildcards = depth > 0 or not levels[0].startswith("$")
    if wildcards and "#" in node.below:
        yield node.below["#"].clients
    if depth == len(levels):
        yield node.clients
        return
    if levels[depth] in node.below:
        yield from _walk(node.below[levels[depth]], levels, depth + 1)
    if wildcards and "+" in node.below and levels[depth] != "+":
        yield from _walk(node.below["+"], levels, depth + 1)
