"""What every consumer needs: connection, topology, limits, batches, outcomes, back-off, a watch, a graceful end.

from consumers.base import DONE, ConsumerSettings, run

def handle(batch):                       # called with one delivery or many, in the order of the queue
    for delivery in batch:
        print(delivery.event.subject)
    return [DONE] * len(batch)           # only now is the batch acknowledged

raise SystemExit(run(ConsumerSettings.from_env(), handle))
"""

from consumers.base.delivery import Delivery
from consumers.base.outcome import DONE, DeadLetter, Done, Outcome, Retry

__all__ = ["DONE", "DeadLetter", "Delivery", "Done", "Outcome", "Retry"]
