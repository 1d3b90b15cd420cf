"""Which beginnings of the log are states of the database."""

from __future__ import annotations

from pathlib import Path

import pytest

from consumers.history.reading import moments
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
