"""A consumer of one's own: prints every change of every service, as it happens. Ends with Ctrl-C.

EVENTBUS_QUEUE=printer python examples/consumer_print.py
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from consumers.base import DONE, ConsumerSettings, Delivery, Outcome, run


def handle(batch: Sequence[Delivery]) -> Sequence[Outcome]:
    """Called with what is there, one change or many. What it returns Done for is never sent again."""
    for event in (delivery.event for delivery in batch):
        print(f"{event.time}  {event.type}  {event.record}  {event.after or 'gone'}", flush=True)
    return [DONE] * len(batch)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sys.exit(run(ConsumerSettings.from_env, handle))
