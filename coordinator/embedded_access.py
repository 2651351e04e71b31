"""The access rules of `broker_access` as plugins of the embedded broker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from amqtt.contexts import Action, BaseContext
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session

from coordinator.broker_access import (
    may_publish,
    may_subscribe,
    may_use_client_id,
    password_is,
    read_passwords,
)


class Anyone(BaseAuthPlugin):
    """Lets every client in. amqtt's own plugin marks such clients anonymous and then loses their messages."""

    async def authenticate(self, *, session: Session) -> bool:
        """Yes."""
        return session is not None


class Passwords(BaseAuthPlugin):
    """Lets in the users of a passwords file, each under client ids of its own only."""

    @dataclass
    class Config(BaseAuthPlugin.Config):
        """Where the passwords file is."""

        passwords_path: str

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        path = Path(self.config.passwords_path)
        self._hashes = read_passwords(path.read_text(encoding="utf-8"), str(path))

    async def authenticate(self, *, session: Session) -> bool:
        """Whether name and password are right and the client id is the user's."""
        user, password = session.username or "", session.password or ""
        stored = self._hashes.get(user)
        return (
            stored is not None
            and password_is(password, stored)
            and may_use_client_id(user, session.client_id or "")
        )


class FleetTopics(BaseTopicPlugin):
    """Holds every user to its own topics."""

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool:
        """Whether the session's user may do this; a checked subscription needs no check at receipt."""
        if session is None or session.username is None or topic is None:
            return False
        if action == Action.PUBLISH:
            return may_publish(session.username, topic)
        if action == Action.SUBSCRIBE:
            return may_subscribe(session.username, topic)
        return action == Action.RECEIVE
