"""`python -m desk.reader`: a consumer that counts the tickets of each state."""

from collections import Counter
from collections.abc import Sequence

from consumers.base import DONE, ConsumerSettings, DeadLetter, Delivery, Merged, Outcome, merge, run

tickets: dict[str, Merged] = {}


def handle(batch: Sequence[Delivery]) -> list[Outcome]:
    """One outcome for each delivery."""
    return [take(delivery) for delivery in batch]


def take(delivery: Delivery) -> Outcome:
    """Keep what is known of one ticket."""
    event = delivery.event
    if event.entity != "ticket":
        return DeadLetter(f"a {event.entity} is no ticket")
    tickets[event.record] = merge(tickets.get(event.record), event)
    return DONE


def states() -> Counter[str]:
    """How many tickets there are of each state."""
    return Counter(str(each.fields["state"]) for each in tickets.values() if each.fields is not None)


def main() -> int:
    """Read until the queue is empty, and print the counts."""
    code = run(ConsumerSettings.from_env, handle, drain=True)
    print(dict(states()))
    return code


if __name__ == "__main__":
    raise SystemExit(main())
