"""The order of the log, and which beginnings of it are states of the database."""

from __future__ import annotations

from pathlib import Path

import pytest

from consumers.history.reading import moments, past
from consumers.history.reading.history import History
from consumers.history.store.rows import Step
from eventbus.errors import ConfigurationError
from tests.support.histories import Event, keep


def test_a_position_inside_a_transaction_is_refused_and_the_one_behind_it_named(tmp_path: Path) -> None:
    path = tmp_path / ".eventbus" / "history.sqlite3"
    path.parent.mkdir()
    keep(path, [Event("t1", "first", 10, "c", {"n": 1}, ("n",))])
    for number, pk in enumerate("abc"):  # each is a part: the others did not come in time
        keep(path, [Event("t2", pk, 20 + number, "c", {"n": 2}, ("n",), size=3)])
    keep(path, [Event("t3", "last", 30, "c", {"n": 3}, ("n",))])
    for position in (2, 3):
        with pytest.raises(ConfigurationError, match="ask for position 4"):
            next(moments.records(tmp_path, position=position))
    assert [len(list(moments.records(tmp_path, position=position))) for position in (0, 1, 4, 5)] == [0, 1, 4, 5]


def test_what_waits_together_goes_in_by_version_however_it_came(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite3"
    keep(path, [Event(f"t{version}", f"r{version}", version, "c", {"n": 1}, ("n",)) for version in (30, 10, 20)])
    with History(path) as history:
        assert [(each.id, each.late) for each in history.log()] == [("t10", False), ("t20", False), ("t30", False)]


def test_of_a_moment_shortly_ago_only_what_came_later_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "history.sqlite3"
    keep(path, [Event(f"t{n}", "a", n, "u", {"n": n}, ("n",), second=n / 10) for n in range(1, 300)])
    made: list[Step] = []

    class Counted(Step):
        def __init__(self, *_: object) -> None:
            made.append(self)

    monkeypatch.setattr(past, "Step", Counted)
    with History(path) as history:
        assert [each.content.fields for each in past.records(history, 297)] == [{"n": 297}]
    assert [step.version for step in made] == [299, 298]
