"""Delays between tries: rising, capped, spread, and the same for the same seed."""

from __future__ import annotations

import pytest

from eventbus.backoff import Backoff


def test_delays_double_up_to_the_limit() -> None:
    backoff = Backoff(first=1, limit=5, jitter=0)
    assert [backoff.next() for _ in range(5)] == [1, 2, 4, 5, 5]


def test_reset_begins_again() -> None:
    backoff = Backoff(first=1, limit=5, jitter=0)
    backoff.next(), backoff.next()
    backoff.reset()
    assert backoff.next() == 1


def test_jitter_only_shortens_and_never_to_nothing() -> None:
    backoff = Backoff(first=1, limit=64, jitter=0.5, seed=1)
    for power in range(7):
        assert 2**power / 2 <= backoff.next() <= 2**power


def test_a_seed_makes_the_delays_repeatable_and_none_makes_services_differ() -> None:
    def delays(seed: int | None) -> list[float]:
        backoff = Backoff(seed=seed)
        return [backoff.next() for _ in range(5)]

    assert delays(7) == delays(7) != delays(8)
    assert delays(None) != delays(None)


def test_no_number_of_failures_overflows() -> None:
    backoff = Backoff(limit=30, jitter=0)
    backoff.failures = 1_000_000
    assert backoff.next() == 30


@pytest.mark.parametrize("wrong", [{"first": 0}, {"first": 2, "limit": 1}, {"jitter": 1}, {"jitter": -0.1}])
def test_impossible_numbers_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Backoff needs"):
        Backoff(**wrong)  # type: ignore[arg-type]
