"""What the history needs to know, read from the environment once, by its commands only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from consumers.base.complaints import Complaints
from consumers.base.settings import ConsumerSettings
from consumers.history.assembly.assembly import Tempo
from consumers.json_mirror.disk.directories import PRIVATE
from consumers.json_mirror.settings import DEFAULT_DATA_DIR, HISTORY_FILE, HISTORY_KINDS
from consumers.json_mirror.state import STATE_FILE
from eventbus.errors import ConfigurationError
from eventbus.settings import reading_environment

GIT_DIR: Final = "history.git"
DEFAULT: Final = Tempo()


@dataclass(frozen=True, slots=True, kw_only=True)
class HistorySettings:
    """Immutable. `git_dir` None means the default, beside the history's file.

    `days` is how long versions are kept that a newer one has replaced; 0 is for ever. `omit` names models
    (`crm.contact`) and fields (`crm.contact.notes`) that never enter git.
    """

    kind: str = "off"
    data_dir: Path = Path(DEFAULT_DATA_DIR)
    git_dir: Path | None = None
    tempo: Tempo = DEFAULT
    days: float = 0
    omit: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        wrong = Complaints()
        if self.kind not in HISTORY_KINDS:
            wrong.add(f"EVENTBUS_HISTORY is {self.kind!r}: use {', '.join(HISTORY_KINDS)}")
        if not 0 <= self.tempo.settle <= self.tempo.patience:
            wrong.add(
                f"EVENTBUS_HISTORY_SETTLE is {self.tempo.settle}, EVENTBUS_HISTORY_PATIENCE {self.tempo.patience}: "
                "use seconds, the first not more than the second"
            )
        if self.days < 0:
            wrong.add(f"EVENTBUS_HISTORY_DAYS is {self.days}: use 0 (for ever) or more")
        for name in sorted(self.omit):
            if name.count(".") not in (1, 2):
                wrong.add(f"EVENTBUS_HISTORY_GIT_OMIT: {name!r} is neither a model (crm.contact) nor a field of one")
        wrong.tell()

    @property
    def private_dir(self) -> Path:
        """Where the mirror keeps what is not a record."""
        return self.data_dir / PRIVATE

    @property
    def history_file(self) -> Path:
        """The history."""
        return self.private_dir / HISTORY_FILE

    @property
    def state_file(self) -> Path:
        """The mirror's state, with the journal."""
        return self.private_dir / STATE_FILE

    @property
    def repository(self) -> Path:
        """The git repository, bare."""
        return self.git_dir or self.private_dir / GIT_DIR

    @classmethod
    def from_env(cls) -> Self:
        """Read `DATA_DIR` and `EVENTBUS_HISTORY…`; raises ConfigurationError that names every wrong variable."""
        wrong = Complaints()
        values: dict[str, Any] = {}
        sums = True
        with wrong.taken():
            consumer = ConsumerSettings.from_env()
            sums = consumer.shard is None and "#" in consumer.bindings
        with wrong.taken(), reading_environment() as env:
            git_dir = env.str("EVENTBUS_HISTORY_GIT", "")
            values = {
                "kind": env.str("EVENTBUS_HISTORY", "off"),
                "data_dir": Path(env.str("DATA_DIR", DEFAULT_DATA_DIR)),
                "git_dir": Path(git_dir) if git_dir else None,
                "tempo": Tempo(
                    settle=env.float("EVENTBUS_HISTORY_SETTLE", DEFAULT.settle),
                    patience=env.float("EVENTBUS_HISTORY_PATIENCE", DEFAULT.patience),
                    sums=sums,
                ),
                "days": env.float("EVENTBUS_HISTORY_DAYS", 0),
                "omit": frozenset(env.str("EVENTBUS_HISTORY_GIT_OMIT", "").replace(",", " ").split()),
            }
        with wrong.taken():
            made = cls(**values)
        wrong.tell()
        return made


def require_on(settings: HistorySettings) -> None:
    """Raise ConfigurationError where no history is kept."""
    if settings.kind == "off":
        raise ConfigurationError("EVENTBUS_HISTORY is off: set it to sqlite or git where the mirror runs")


def git_environment() -> Mapping[str, str]:
    """What git may know of the environment: no configuration of a user or a system changes what is made."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {**kept, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C.UTF-8"}
