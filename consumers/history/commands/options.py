"""What the commands share: their options, how they open the history, and how they find a record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click
import orjson

from consumers.history.errors import NotInHistory
from consumers.history.reading import moments
from consumers.history.reading.history import History
from consumers.history.settings import HistorySettings
from consumers.json_mirror import filenames
from eventbus.errors import ConfigurationError
from eventbus.events import naming
from eventbus.redaction import printable

MODEL: Final = click.argument("model", metavar="MODEL")
KEY: Final = click.argument("key", metavar="KEY")
AS_JSON: Final = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


def data_dir(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--data-dir`."""
    path = click.Path(file_okay=False, path_type=Path)
    return click.option("--data-dir", type=path, help="Where the mirror's files are. [DATA_DIR]")(command)


def settings_of(data_dir: Path | None) -> HistorySettings:
    """From the environment; the option wins."""
    settings = HistorySettings.from_env()
    return replace(settings, data_dir=data_dir) if data_dir is not None else settings


@contextmanager
def opened(data_dir: Path | None) -> Iterator[History]:
    """The history, to be asked."""
    with History(settings_of(data_dir).history_file) as history:
        yield history


def directory_of(model: str) -> str:
    """`crm.contact` → `crm/contact`."""
    service, dot, entity = model.partition(".")
    if not (service and dot and entity) or "." in entity:
        raise ConfigurationError(f"{model!r} is no model: write service.entity, for example crm.contact")
    return filenames.directory(service, entity)


def path_of(model: str, key: str, history: History | None = None) -> str:
    """The record's file. A key that may be a number or a text is what the history knows it as."""
    candidates = paths_of(model, key)
    if history is None:
        return candidates[0]
    for candidate in candidates:
        if history.stored(candidate) is not None:
            return candidate
    raise NotInHistory(f"the history has no {model} {key}")


def paths_of(model: str, key: str) -> list[str]:
    """Each file that the record may have: one, or two where the key may be a number or a text."""
    return [f"{directory_of(model)}/{filenames.filename(pk)}" for pk in _keys(key)]


def _keys(text: str) -> list[Any]:
    """What a key on the command line may mean: a JSON number or list, or the text as it stands."""
    try:
        read = orjson.loads(text)
    except orjson.JSONDecodeError:
        return [text]
    return [read, text] if isinstance(read, int | float | list) and naming.record_key(read) == text else [text]


def position_of(history: History, text: str) -> int:
    """A moment on the command line: a time, or a position as `#12`."""
    if text.startswith("#") and text[1:].isdecimal():
        return moments.at_position(history, int(text[1:]))
    return moments.at_time(history, moments.parse(text))


def json_text(value: Any) -> str:
    """Compact JSON that cannot drive a terminal."""
    return printable(orjson.dumps(value).decode())


def say(line: str) -> None:
    """Print a line, or several. Much of what a history holds was said by others: nothing of it drives a terminal."""
    click.echo("\n".join(map(printable, line.split("\n"))))
