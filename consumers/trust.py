"""Whether a sender may speak for the service an event claims to come from. Both checks are optional and independent.

*Users*: RabbitMQ lets a message carry `user_id` only if it is the login of the connection that published it. A consumer
that knows which login belongs to which service refuses what one service says in another's name.
*Signatures*: see `eventbus.events.signing`; they hold through shovels, bridges and restored backups, where the login is
lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from eventbus.errors import BadEvent, ConfigurationError
from eventbus.events import naming, signing
from eventbus.events.envelope import Event

ANY_SERVICE: Final = "*"
USER_HEADER: Final = "x-eventbus-user"
"""Who first published a message that came back from the dead letters; believed only if we sent it back ourselves."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What a consumer believes. The default believes everybody, and costs nothing.

    `users` maps a broker login to the services (quoted names) it may speak for; `own_user` is the consumer's own login.
    """

    users: Mapping[str, frozenset[str]] = field(default_factory=dict)
    keys: tuple[signing.Key, ...] = ()
    own_user: str | None = None

    def __bool__(self) -> bool:
        return bool(self.users or self.keys)

    def check(self, event: Event, body: bytes, properties: Mapping[str, Any]) -> None:
        """Return if the sender may say this, else raise BadEvent with the reason."""
        headers = properties.get("application_headers") or {}
        if self.keys:
            signing.verify(body, headers, self.keys)
        if self.users:
            self._check_user(event, self._sender(properties, headers))

    def _sender(self, properties: Mapping[str, Any], headers: Mapping[str, Any]) -> object:
        user = properties.get("user_id")
        if user is not None and user == self.own_user and USER_HEADER in headers:
            return headers[USER_HEADER]
        return user

    def _check_user(self, event: Event, user: object) -> None:
        if not isinstance(user, str) or not user:
            raise BadEvent("sender unknown", "the message carries no user id")
        services = self.users.get(user, frozenset())
        claimed = {event.service, event.source.removeprefix("/"), event.type.partition(".")[0]}
        if ANY_SERVICE not in services and not claimed <= services:
            raise BadEvent("sender may not speak for the source", f"{user} claims {', '.join(sorted(claimed))}")


def parse_users(text: str) -> dict[str, frozenset[str]]:
    """`user=service` pairs, separated by white space or commas; a user may stand in several, `*` is any service.

    Raises ConfigurationError for a pair that is not one.
    """
    users: dict[str, frozenset[str]] = {}
    for pair in text.replace(",", " ").split():
        user, equals, service = pair.partition("=")
        if not user or not equals or not service:
            raise ConfigurationError(f"EVENTBUS_TRUSTED_USERS: {pair!r} is not user=service, as in crm_writer=crm")
        name = service if service == ANY_SERVICE else naming.quote(service)
        users[user] = users.get(user, frozenset()) | {name}
    return users
