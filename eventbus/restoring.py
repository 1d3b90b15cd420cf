"""Writing a record back through a Session, with events: what `eventbus history restore --apply` does."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.orm import Session

from eventbus import cli
from eventbus.bus import installed
from eventbus.dumps.facts import Facts
from eventbus.dumps.forms import form_of
from eventbus.dumps.targets import Target, Targets
from eventbus.errors import ConfigurationError, LoadError
from eventbus.events.context import acting_as
from eventbus.events.notes import annotate
from eventbus.loaddata import loaddata


def restore(record: Mapping[str, Any], *, session: str, models: str | None, author: str, reason: str) -> None:
    """Make a record what it was: `record` is one of a dump. Returns once the broker has its event.

    `session` names what `eventbus.install()` was called for (`myapp.db:Session`), `models` the models. The record is
    loaded within a savepoint, as loaddata does it; what the ORM reads of it there goes onto the real object, once the
    savepoint is gone. So the change is one of that Session, seen by its listeners.
    """
    factory = cli.find("--apply", session, "Session")
    bus = installed(factory)
    with acting_as(author), annotate(reason=reason), factory() as opened:
        if not isinstance(opened, Session):
            raise ConfigurationError(f"--apply {session}: a synchronous Session is needed to restore a record")
        found = cli.models_named(models)
        _write(opened, record, found, bus.settings.service)
        opened.commit()
    bus.close()


def _write(session: Session, record: Mapping[str, Any], models: Any, service: str) -> None:
    target = Targets(models, service=service).find(record["model"])
    if target is None or target.entity.mapper is None:
        raise LoadError(f"there is no mapped class for {record['model']}", model=record["model"])
    with session.no_autoflush:
        savepoint = session.begin_nested()
        with tempfile.TemporaryDirectory(prefix="eventbus-") as directory:
            path = Path(directory, "record.json")
            path.write_bytes(orjson.dumps([record]))
            loaddata(session, [path], models=models, service=service)
        values = _values(target, _find(session, target, record["pk"]))
        savepoint.rollback()
        session.expire_all()
        _put(session, target, record["pk"], values)


def _find(session: Session, target: Target, pk: Any) -> Any:
    mapper, connection = target.entity.mapper, session.connection()
    assert mapper is not None
    facts = Facts(connection)
    conditions = []
    for key, part in zip(target.primary, pk if isinstance(pk, list) else [pk], strict=True):
        column = target.entity.columns[target.entity.keys.index(key)]
        form = form_of(column, connection.dialect, facts.of(column.table).column(column.name))
        value = part if form is None else form.read(part)
        conditions.append(column == sa.bindparam(None, value, type_=sa.types.NULLTYPE))
    return session.scalars(sa.select(mapper.class_).where(*conditions)).one_or_none()


def _values(target: Target, found: Any) -> dict[str, Any]:
    return {key: getattr(found, key) for key in target.entity.keys if key not in target.computed}


def _put(session: Session, target: Target, pk: Any, values: Mapping[str, Any]) -> None:
    found = _find(session, target, pk)
    if found is None:
        mapper = target.entity.mapper
        assert mapper is not None
        found = mapper.class_manager.new_instance()
        for key, value in values.items():
            setattr(found, key, value)
        session.add(found)
        return
    for key, value in values.items():
        if getattr(found, key) != value:
            setattr(found, key, value)
