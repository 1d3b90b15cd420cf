"""Who is tried again, who is given up, and on what evidence."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import pytest

from consumers.base import DONE, DeadLetter, Delivery, Outcome, Retry
from consumers.base.working.worklist import GIVEN_UP_AFTER, GUILTY_AFTER, SUSPECT_AFTER, Worklist
from tests.support.consuming import delivery


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


def deliveries(count: int) -> list[Delivery]:
    return [delivery(f"r{tag}", tag, tag=tag) for tag in range(1, count + 1)]


class Poisoned:
    """A handler that breaks on some tags while `broken`, and remembers its batches."""

    def __init__(self, *tags: int, error: Exception | None = None) -> None:
        self.tags = set(tags)
        self.error = error or KeyError("phone")
        self.batches: list[list[int]] = []

    def __call__(self, batch: Sequence[Delivery]) -> Sequence[Outcome]:
        self.batches.append([each.tag for each in batch])
        if any(each.tag in self.tags for each in batch):
            raise self.error
        return [DONE] * len(batch)


def test_outcomes_are_sorted_and_only_what_must_wait_is_kept() -> None:
    batch = deliveries(3)
    work = Worklist(lambda _: [DONE, Retry("disk full"), DeadLetter("no such record")], batch)
    turn = work.turn()
    assert turn.done == [batch[0]]
    assert turn.dead == [(batch[2], "no such record")]
    assert turn.waiting == "disk full"
    assert work.pending == [batch[1]]


def test_a_failed_batch_is_tried_whole_then_one_by_one() -> None:
    handler = Poisoned(2)
    work = Worklist(handler, deliveries(3))
    for _ in range(SUSPECT_AFTER):
        assert work.turn().done == []
    turn = work.turn()
    assert handler.batches == [[1, 2, 3]] * SUSPECT_AFTER + [[1], [2], [3]]
    assert [each.tag for each in turn.done] == [1, 3]
    assert turn.waiting == "handler failed: KeyError"


def test_one_that_keeps_failing_while_others_succeed_is_given_up() -> None:
    work = Worklist(Poisoned(2), deliveries(3))
    dead: list[tuple[Delivery, str]] = []
    turns = 0
    while work.pending:
        dead += work.turn().dead
        turns += 1
    assert [(each.tag, reason) for each, reason in dead] == [(2, "handler failed: KeyError")]
    assert turns == SUSPECT_AFTER + GUILTY_AFTER


def test_where_all_fail_the_handler_is_suspected_and_none_is_given_up_soon() -> None:
    work = Worklist(Poisoned(1, 2, 3), deliveries(3))
    for _ in range(SUSPECT_AFTER + GIVEN_UP_AFTER - 1):
        assert work.turn().dead == []
    assert len(work.turn().dead) == 3


def test_a_witness_that_succeeds_convicts_a_lone_delivery() -> None:
    work = Worklist(Poisoned(1), deliveries(1))
    for _ in range(GUILTY_AFTER):
        assert work.turn().dead == []
    assert work.isolating
    work.add([delivery("r9", 9, tag=9)])
    turn = work.turn()
    assert [each.tag for each in turn.done] == [9]
    assert [each.tag for each, _ in turn.dead] == [1]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ConnectionResetError(), MemoryError()])
def test_want_of_resources_is_never_a_deliverys_fault(error: Exception) -> None:
    work = Worklist(Poisoned(1, error=error), deliveries(2))
    for _ in range(GIVEN_UP_AFTER * 2):
        turn = work.turn()
        assert (turn.done, turn.dead, turn.waiting) == ([], [], type(error).__name__)


def test_retry_is_for_ever() -> None:
    work = Worklist(lambda batch: [Retry("database away")] * len(batch), deliveries(2))
    for _ in range(GIVEN_UP_AFTER * 2):
        assert work.turn().dead == []
    assert len(work.pending) == 2


@pytest.mark.parametrize("answer", [[], [DONE, DONE, DONE], [None, None], None])
def test_a_handler_that_returns_nonsense_settles_nothing(answer: object) -> None:
    work = Worklist(lambda _: answer, deliveries(2))  # type: ignore[arg-type, return-value]
    turn = work.turn()
    assert turn.done == []
    assert turn.waiting == "handler failed: TypeError"


def nothing(_batch: Sequence[Delivery]) -> None: ...


def too_few(_batch: Sequence[Delivery]) -> Sequence[Outcome]:
    return [DONE]


def no_outcomes(batch: Sequence[Delivery]) -> Sequence[object]:
    return batch


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (nothing, "the handler nothing returned None: return one outcome for each delivery"),
        (too_few, "the handler too_few returned 1 outcome to a batch of 2: return one for each delivery"),
        (no_outcomes, "the handler no_outcomes returned a Delivery as an outcome: use Done, Retry or DeadLetter"),
    ],
)
def test_a_handler_that_returns_nonsense_is_told_what_to_return(
    handler: Callable[[Sequence[Delivery]], object], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    Worklist(handler, deliveries(2)).turn()  # type: ignore[arg-type]
    assert said in caplog.text
    assert "+32" not in caplog.text  # no payload


def test_what_is_no_exception_comes_through() -> None:
    def leave(_batch: Sequence[Delivery]) -> Sequence[Outcome]:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        Worklist(leave, deliveries(1)).turn()
