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
from eventbus.redaction import shown

ANY_SERVICE: Final = "*"
SENDER_UNKNOWN: Final = "sender unknown"
SENDER_MAY_NOT: Final = "sender may not speak for the source"
REASONS: Final = frozenset({SENDER_UNKNOWN, SENDER_MAY_NOT, *signing.REASONS})
"""Why a message was refused for who sent it, and not for what it holds."""
USER_HEADER: Final = "x-eventbus-user"
"""Who first published a message that came back from the dead letters, empty if unknown; believed only if we sent it."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What a consumer believes. The default believes everybody, and costs nothing.

    `users` maps a broker login to the services (quoted names) it may speak for.
    """

    users: Mapping[str, frozenset[str]] = field(default_factory=dict)
    keys: tuple[signing.Key, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.users or self.keys)

    def check(self, event: Event, body: bytes, properties: Mapping[str, Any], *, resent: bool = False) -> None:
        """Return if the sender may say this, else raise BadEvent with the reason.

        `resent` says that this consumer's own command sent it again: then a header tells who sent it first.
        """
        headers = properties.get("application_headers") or {}
        if self.keys:
            self._check_key(event, signing.verify(body, headers, self.keys))
        if self.users:
            user = properties.get("user_id")
            self._check_user(event, headers.get(USER_HEADER, user) if resent else user)

    def _check_key(self, event: Event, key: signing.Key) -> None:
        if key.service is not None and claimed(event) != {key.service}:
            detail = f"the key {key.id} is for {key.service}, not {_listed(claimed(event))}"
            raise BadEvent(signing.FOREIGN_KEY, detail)

    def _check_user(self, event: Event, user: object) -> None:
        if not isinstance(user, str) or not user:
            raise BadEvent(SENDER_UNKNOWN, "the message carries no user id")
        services = self.users.get(user, frozenset())
        if ANY_SERVICE not in services and not claimed(event) <= services:
            raise BadEvent(SENDER_MAY_NOT, f"{shown(user, 80)} claims {_listed(claimed(event))}")


def claimed(event: Event) -> set[str]:
    """The services an event claims to come from, quoted; one, if it agrees with itself."""
    return {event.service, event.source.removeprefix("/"), event.type.partition(".")[0]}


def _listed(names: set[str]) -> str:
    return ", ".join(shown(name, 80) for name in sorted(names))


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
