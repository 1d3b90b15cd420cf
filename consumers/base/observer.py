"""Moments in a consumer's life, for metrics, probes and status pages."""

from __future__ import annotations


class Observer:
    """Does nothing; override what you want to know. Called in the consumer's thread, so be quick and do not raise."""

    def connected(self) -> None:
        """The queue is being consumed, or waited for behind another consumer; for the first time or again."""

    def disconnected(self, reason: str) -> None:
        """The broker was lost, could not be reached or serves another; `reason` says which. Another try follows."""

    def turned(self) -> None:
        """The loop goes round: at least about once a second, also while idle or waiting to try again.

        It does not turn while the handler works. A liveness probe that wants to tell a consumer that hangs looks here.
        """

    def handled(self, count: int, seconds: float) -> None:
        """So many deliveries were settled for good by a call of the handler that took so long."""

    def waiting(self, reason: str, seconds: float) -> None:
        """The handler could not take some deliveries; they are given to it again after so many seconds."""

    def dead_lettered(self, reason: str) -> None:
        """One delivery is in the dead-letter queue, confirmed."""
