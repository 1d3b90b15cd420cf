"""A dump out of a mirror's directory: its files, one record each, as one list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import orjson

from eventbus.dumps.dumping.dumped import Dumped
from eventbus.dumps.reading import files
from eventbus.errors import ConfigurationError, LoadError


def records_of_mirror(directory: str, only: Sequence[str], dumped: Dumped) -> Iterator[bytes]:
    """The records of the named models (`crm.contact` or `contact`; none: all), in the order of their files' names.

    A file without its record's content is told as broken. Raises LoadError for a file that is no record, and
    ConfigurationError for a model of which there is none.
    """
    met: set[str] = set()
    for batch in files.read([directory]):
        for item in batch.records:
            path, record = files.origin(batch.path, item)
            try:
                model, pk, fields = record["model"], record["pk"], record["fields"]
                short = model.rpartition(".")[2]
            except (TypeError, KeyError, AttributeError):
                raise LoadError(f"{path}: not a record of a mirror", path=path) from None
            met.update((model, short))
            if only and model not in only and short not in only:
                continue
            if "stub" in record:
                dumped.broken.append(f"{model} {pk!r}: a stub, of which only the key was published")
                continue
            dumped.objects += 1
            dumped.models[model] += 1
            yield orjson.dumps({"fields": fields, "model": model, "pk": pk}, option=orjson.OPT_SORT_KEYS)
    for name in only:
        if name not in met:
            raise ConfigurationError(f"there is no record of {name} in {directory}")
