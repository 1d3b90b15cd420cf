"""The publisher of users' tests does as told, and otherwise as a broker that is well."""

from __future__ import annotations

import threading

import pytest

from eventbus.errors import BrokerUnavailable
from eventbus.events.envelope import Message
from eventbus.publishers import MemoryPublisher, Outcome

MESSAGES = [Message("crm.contact.updated", f"t-{index}", b'{"n":%d}' % index, "t") for index in range(4)]


def test_an_answer_decides_each_message_and_only_what_is_confirmed_is_kept() -> None:
    publisher = MemoryPublisher()
    fates = dict(zip([message.id for message in MESSAGES], [*Outcome, Outcome.CONFIRMED], strict=True))
    publisher.answer = lambda message: fates[message.id]
    assert publisher.publish(MESSAGES) == list(fates.values())
    assert publisher.messages == [MESSAGES[0], MESSAGES[3]]


def test_unavailable_takes_nothing_and_says_so() -> None:
    publisher = MemoryPublisher()
    publisher.available = False
    with pytest.raises(BrokerUnavailable) as caught:
        publisher.publish(MESSAGES)
    assert caught.value.outcomes == [None] * 4
    publisher.available = True
    assert publisher.publish(MESSAGES) == [Outcome.CONFIRMED] * 4


def test_a_loss_leaves_some_known_some_arrived_unknown_and_some_lost() -> None:
    publisher = MemoryPublisher()
    publisher.lose(confirmed=1, arrived=2)
    with pytest.raises(BrokerUnavailable) as caught:
        publisher.publish(MESSAGES)
    assert caught.value.outcomes == [Outcome.CONFIRMED, None, None, None]
    assert publisher.messages == MESSAGES[:3]
    assert publisher.publish(MESSAGES[1:]) == [Outcome.CONFIRMED] * 3, "a loss happens once"


def test_wait_for_returns_when_another_thread_has_published() -> None:
    publisher = MemoryPublisher()
    thread = threading.Thread(target=lambda: [publisher.publish([message]) for message in MESSAGES])
    thread.start()
    assert publisher.wait_for(4) == MESSAGES
    thread.join()


def test_wait_for_gives_up_with_what_came() -> None:
    publisher = MemoryPublisher()
    publisher.publish(MESSAGES[:1])
    with pytest.raises(TimeoutError, match="1 of 2 messages"):
        publisher.wait_for(2, timeout=0.01)
