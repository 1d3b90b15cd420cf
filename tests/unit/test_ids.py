"""Ids: rising, unique across threads and forks, of the promised form."""

import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from eventbus.events import ids


def test_uuid7_is_a_version_7_uuid_of_now() -> None:
    value = uuid.UUID(ids.uuid7())
    assert (value.version, value.variant) == (7, uuid.RFC_4122)


def test_later_ids_of_a_process_are_greater_also_within_a_millisecond() -> None:
    made = [ids.uuid7() for _ in range(20_000)]
    assert made == sorted(set(made))


def test_the_time_comes_first_and_the_rest_is_random(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    monkeypatch.setattr(ids.time, "time_ns", lambda: now + 60_000_000_000)
    made = [uuid.UUID(ids.uuid7()).int for _ in range(2000)]
    assert {value >> 80 for value in made} == {now // 1_000_000 + 60_000}
    random = [value & (1 << 62) - 1 for value in made]
    assert len(set(random)) == len(random)
    for bit in range(62):
        assert 700 < sum(value >> bit & 1 for value in random) < 1300


def test_threads_never_make_the_same_id() -> None:
    with ThreadPoolExecutor(8) as pool:
        made = [one for part in pool.map(lambda _: [ids.uuid7() for _ in range(2000)], range(8)) for one in part]
    assert len(set(made)) == len(made)


def test_a_forked_child_makes_other_ids_than_its_parent() -> None:
    ids.uuid7()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, " ".join(ids.uuid7() for _ in range(200)).encode())
        os._exit(0)
    os.close(writer)
    mine = {ids.uuid7() for _ in range(200)}
    os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        theirs = set(pipe.read().split())
    assert len(theirs) == 200
    assert not {one[-16:] for one in mine} & {one[-16:] for one in theirs}, "random bits of the parent"


def test_short_ids_keep_to_their_alphabet_and_length() -> None:
    made = ids.short_id(12)
    assert len(made) == 12
    assert set(made) <= set(ids.SHORT_ID_ALPHABET)
