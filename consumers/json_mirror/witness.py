"""The mirror as `eventbus status`, `why` and `doctor` see it: its files, its state, its sign of life."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import orjson

from consumers.json_mirror import filenames
from consumers.json_mirror.disk import documents, lock
from consumers.json_mirror.disk.files import Files
from consumers.json_mirror.errors import StateDamaged, StateUnavailable
from consumers.json_mirror.heartbeat import Heartbeat
from consumers.json_mirror.settings import MirrorSettings
from consumers.json_mirror.state import Record, State
from eventbus.errors import EventBusError
from eventbus.inspection.witness import Absent, Evidence, Finding, Options, Report, Subject, Witness
from eventbus.redaction import shown


@contextmanager
def opened(options: Options) -> Iterator[Witness]:
    """The mirror in DATA_DIR."""
    settings = MirrorSettings.from_env()
    if options.data_dir is not None:
        settings = replace(settings, data_dir=Path(options.data_dir))
    if not settings.state_file.exists():
        raise Absent(f"not asked: no mirror has run in {settings.data_dir} (DATA_DIR)")
    yield MirrorWitness(settings)


@final
class MirrorWitness(Witness):
    """Reads state and files, also while the mirror runs."""

    def __init__(self, settings: MirrorSettings) -> None:
        self._settings = settings
        # Without the directory the command would begin another mirror, in the default one.
        command = f"eventbus mirror --data-dir {shlex.quote(str(settings.data_dir))}"
        self._start = f"start it: `{command}`"
        self._rebuild = f"`{command} --rebuild`, with the mirror stopped"
        self._verify = f"`{command} --verify --repair`, with the mirror stopped"

    def status(self) -> Report:
        """Records, the last event, the last sign of life, and what it waits for."""
        figures: dict[str, Any] = {"data_dir": str(self._settings.data_dir)}
        try:
            with State(self._settings.state_file, read_only=True) as state:
                entities = state.figures()
        except (StateUnavailable, StateDamaged) as error:
            return Report(figures, (Finding("wrong", str(error), self._rebuild),))
        figures |= {
            "records": sum(each.live for each in entities),
            "last_event": max((each.time for each in entities), default=None),
            "sign_of_life_seconds": self._age,
        }
        return Report(figures, tuple(self._life()))

    def why(self, subject: Subject, evidence: Evidence) -> Iterable[Finding]:
        """What state and file say of the record, and whether they are the row."""
        try:
            record = self._record(subject)
        except EventBusError as error:
            yield Finding("wrong", str(error), self._rebuild)
            return
        yield from self._life()
        if record is None:
            evidence.document = False
            yield Finding("note", f"the mirror has never seen an event of {subject.service}.{subject.name}")
            return
        if record.document is None:
            evidence.document = False
            yield Finding("note", f"the mirror knows it as deleted, at version {record.version}")
            return
        yield from self._about_file(record, evidence)

    def examine(self) -> Iterable[Finding]:
        """The directory and the state."""
        report = self.status()
        yield from report.findings or (Finding("ok", f"the mirror in {self._settings.data_dir} lives"),)

    @property
    def _age(self) -> float | None:
        age = Heartbeat(self._settings.heartbeat_file).age()
        return None if age is None else round(age, 1)

    def _life(self) -> Iterator[Finding]:
        age, trouble = self._age, Heartbeat(self._settings.heartbeat_file).trouble()
        since = "no sign of life" if age is None else f"its last sign of life was {age:,.0f} s ago"
        if lock.died(self._settings.lock_file):
            told = f"the mirror in {self._settings.data_dir} is dead: it was killed, or crashed; {since}"
            yield Finding("wrong", told, self._start)
        elif age is None or age > self._settings.health_max_age:
            yield Finding("wrong", f"the mirror in {self._settings.data_dir} does not run: {since}", self._start)
        elif trouble:
            yield Finding("wrong", f"the mirror waits: {shown(trouble)}", "mend that; the mirror goes on by itself")

    def _record(self, subject: Subject) -> Record | None:
        directory = filenames.directory(subject.service, subject.entity)
        with State(self._settings.state_file, read_only=True) as state:
            for pk in subject.keys:
                found = state.get(directory, filenames.filename(pk))
                if found is not None:
                    return found
        return None

    def _about_file(self, record: Record, evidence: Evidence) -> Iterator[Finding]:
        path = self._settings.data_dir / record.path
        with Files(self._settings.data_dir) as files:
            content = files.read(record.directory, record.filename)
        if content is None:
            evidence.document = False
            yield Finding("wrong", f"the mirror has the record, and its file {path} is gone", self._verify)
            return
        if content != record.document:
            yield Finding("wrong", f"the file {path} is not what the mirror wrote", self._verify)
        else:
            yield Finding("note", f"the file {path} is there, at version {record.version}")
        stub = orjson.loads(record.document or b"{}").get("stub")
        if stub:
            yield Finding(
                "wrong",
                f"the service could not publish the record: {shown(str(stub))}",
                "mend the value in the row; its next change goes out whole",
            )
        evidence.document = documents.decode(record.document or b"").fields
