"""What the mirror needs to know, read from the environment once, by its command only."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from consumers.base import ConsumerSettings
from consumers.base.complaints import Complaints
from consumers.json_mirror.disk.directories import PRIVATE
from consumers.json_mirror.heartbeat import DEFAULT_MAX_AGE
from consumers.json_mirror.state import MOST_ENTITIES, STATE_FILE, Bounds
from eventbus.errors import ConfigurationError
from eventbus.events.naming import DEFAULT_QUEUE
from eventbus.settings import reading_environment

KIND: Final = DEFAULT_QUEUE
DEFAULT_DATA_DIR: Final = "data"
DEFAULT_TOMBSTONE_DAYS: Final = 30
HISTORY_KINDS: Final = ("off", "sqlite", "git")
HISTORY_FILE: Final = "history.sqlite3"
DEFAULT_JOURNAL_MB: Final = 1024

_NUMBERS: Final = ("tombstone_days", "health_max_age", "journal_mb", "max_entities")


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorSettings:
    """Immutable. `cache_url` empty means the default, the state itself.

    `tombstone_days` must exceed the longest time an event may still be on its way: in the outbox of a service that is
    down, in the queue, in the dead letters before somebody retries them. An update older than a forgotten deletion
    would bring the record back. 0 keeps tombstones for ever, at some 100 bytes each.

    `durable_files` syncs each file before it appears: see `files`.

    `history` says whether the events are kept for the historian, which the mirror then starts and watches, and whether
    that makes a git repository of them. `journal_mb` is how many MiB of events may wait for it; then the queue is held.

    `max_entities` bounds those of one service, and ten times as many those of all; 0 is no bound.
    """

    data_dir: Path = Path(DEFAULT_DATA_DIR)
    cache_url: str = ""
    tombstone_days: float = DEFAULT_TOMBSTONE_DAYS
    durable_files: bool = False
    history: str = "off"
    journal_mb: float = DEFAULT_JOURNAL_MB
    health_max_age: float = DEFAULT_MAX_AGE
    max_entities: int = MOST_ENTITIES
    consumer: ConsumerSettings = field(default_factory=lambda: ConsumerSettings(kind=KIND))

    def __post_init__(self) -> None:
        if self.tombstone_days < 0:
            raise ConfigurationError(f"EVENTBUS_TOMBSTONE_DAYS is {self.tombstone_days}: use 0 (for ever) or more")
        if self.history not in HISTORY_KINDS:
            raise ConfigurationError(f"EVENTBUS_HISTORY is {self.history!r}: use {', '.join(HISTORY_KINDS)}")
        if self.max_entities < 0:
            raise ConfigurationError(f"EVENTBUS_MAX_ENTITIES is {self.max_entities}: use 0 (no bound) or more")
        if self.journal_mb <= 0:
            raise ConfigurationError(f"EVENTBUS_HISTORY_JOURNAL_MB is {self.journal_mb}: use more than 0")

    @property
    def private_dir(self) -> Path:
        """Where the mirror keeps what is not a record."""
        return self.data_dir / PRIVATE

    @property
    def state_file(self) -> Path:
        return self.private_dir / STATE_FILE

    @property
    def lock_file(self) -> Path:
        return self.private_dir / "lock"

    @property
    def heartbeat_file(self) -> Path:
        return self.private_dir / "heartbeat"

    @property
    def history_file(self) -> Path:
        """The historian's file."""
        return self.private_dir / HISTORY_FILE

    @property
    def caught_up_file(self) -> Path:
        """Its modification time is when nothing waited for the mirror for the last time."""
        return self.private_dir / "caught-up"

    @property
    def lateness_file(self) -> Path:
        """How late files were in each minute of the last hour."""
        return self.private_dir / "lateness.json"

    @property
    def bounds(self) -> Bounds:
        """How far the state may grow by ever new fields and entities."""
        return Bounds(record=2 * self.consumer.limits.body, entities=self.max_entities)

    @property
    def tombstone_age(self) -> float:
        """Seconds."""
        return self.tombstone_days * 24 * 3600

    @classmethod
    def from_env(cls) -> Self:
        """Read `DATA_DIR` and `EVENTBUS_*`; raises ConfigurationError that names every wrong variable."""
        wrong = Complaints()
        values: dict[str, Any] = {}
        with wrong.taken():
            values["consumer"] = replace(ConsumerSettings.from_env(), kind=KIND)
        with wrong.taken(), reading_environment() as env:
            values |= {
                "data_dir": Path(env.str("DATA_DIR", DEFAULT_DATA_DIR)),
                "cache_url": env.str("EVENTBUS_CACHE_URL", ""),
                "tombstone_days": env.float("EVENTBUS_TOMBSTONE_DAYS", DEFAULT_TOMBSTONE_DAYS),
                "durable_files": env.bool("EVENTBUS_DURABLE_FILES", False),
                "history": env.str("EVENTBUS_HISTORY", "off"),
                "journal_mb": env.float("EVENTBUS_HISTORY_JOURNAL_MB", DEFAULT_JOURNAL_MB),
                "max_entities": env.int("EVENTBUS_MAX_ENTITIES", MOST_ENTITIES),
                "health_max_age": env.float("EVENTBUS_HEALTH_MAX_AGE", DEFAULT_MAX_AGE),
            }
        with wrong.taken():
            # What could not be read (None or still text) is complained of already: its default stands for it.
            unread = [name for name in _NUMBERS if isinstance(values.get(name), str)]
            made = cls(**{name: value for name, value in values.items() if value is not None and name not in unread})
        wrong.tell()
        return made
