"""What every consumer needs: connection, topology, limits, batches, outcomes, back-off, a watch, a graceful end.

    from consumers.base import DONE, ConsumerSettings, run

    def handle(batch):                       # one delivery or many, in the order of the queue
        for delivery in batch:
            print(delivery.event.subject)
        return [DONE] * len(batch)           # only now is the batch acknowledged

    raise SystemExit(run(ConsumerSettings.from_env, handle))

The way of a delivery: `wire` reads it, `screen` looks at it, the `worklist` gives it to the handler, the `session`
acknowledges it or puts it into the `dead_letter_box`; the `runner` opens a session again whenever the broker was lost.
Who keeps records keeps what `merge` makes of their events, in whatever order they come.
"""

from consumers.base.merging import Merged, merge
from consumers.base.observer import Observer
from consumers.base.reading.delivery import Delivery
from consumers.base.settings import ConsumerSettings, Shard
from consumers.base.working.outcome import DONE, DeadLetter, Done, Outcome, Retry
from consumers.base.working.runner import EXIT_CONFIGURATION, EXIT_FAILED, EXIT_OK, run
from consumers.base.working.worklist import Handler

__all__ = [
    "DONE",
    "EXIT_CONFIGURATION",
    "EXIT_FAILED",
    "EXIT_OK",
    "ConsumerSettings",
    "DeadLetter",
    "Delivery",
    "Done",
    "Handler",
    "Merged",
    "Observer",
    "Outcome",
    "Retry",
    "Shard",
    "merge",
    "run",
]
