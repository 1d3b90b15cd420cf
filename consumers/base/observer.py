"""Moments in a consumer's life, for metrics, probes and status pages."""

from __future__ import annotations

from typing import Any, final


class Observer:
    """Does nothing; override what you want to know. Called in the consumer's thread, so be quick and do not raise."""

    def served(self, registry: Any) -> None:
        """Figures are served: add your own to this `prometheus_client.CollectorRegistry`. Called once, at the start."""

    def connected(self) -> None:
        """The queue is being consumed, or waited for behind another consumer; for the first time or again."""

    def disconnected(self, reason: str) -> None:
        """The broker was lost, could not be reached or serves another; `reason` says which. Another try follows."""

    def turned(self) -> None:
        """The loop goes round: at least about once a second, also while idle or waiting to try again.

        It does not turn while the handler works. A liveness probe that wants to tell a consumer that hangs looks here.
        """

    def caught_up(self) -> None:
        """Nothing waits for this consumer at the moment, as far as the broker hands it over."""

    def handled(self, count: int, seconds: float) -> None:
        """So many deliveries were settled for good by a call of the handler that took so long."""

    def waiting(self, reason: str, seconds: float) -> None:
        """The handler could not take some deliveries; they are given to it again after so many seconds."""

    def dead_lettered(self, reason: str) -> None:
        """One delivery is in the dead-letter queue, confirmed."""


@final
class Observers(Observer):
    """Several observers as one: each is told of every moment, in their order."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def served(self, registry: Any) -> None:
        for each in self._observers:
            each.served(registry)

    def connected(self) -> None:
        for each in self._observers:
            each.connected()

    def disconnected(self, reason: str) -> None:
        for each in self._observers:
            each.disconnected(reason)

    def turned(self) -> None:
        for each in self._observers:
            each.turned()

    def caught_up(self) -> None:
        for each in self._observers:
            each.caught_up()

    def handled(self, count: int, seconds: float) -> None:
        for each in self._observers:
            each.handled(count, seconds)

    def waiting(self, reason: str, seconds: float) -> None:
        for each in self._observers:
            each.waiting(reason, seconds)

    def dead_lettered(self, reason: str) -> None:
        for each in self._observers:
            each.dead_lettered(reason)
