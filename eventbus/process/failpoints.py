"""Places where a test may kill the process: `EVENTBUS_FAILPOINTS="before_commit=3; after_confirm=p0.01,seed7"`.

Each of `after_flush`, `before_commit`, `after_commit`, `after_publish`, `after_confirm`, `before_delete` may name the
pass that kills (`=3`, default 1) or a probability (`=p0.01`, with `,seedN` for a run that repeats). The action is
`kill -9` of the own process: nothing is cleaned up. Without the variable, `hit` does nothing at all.

The variable is read when the first point is passed, the one exception to "only entry points read the environment": a
test sets it for a process whose code it does not control.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from typing import Final

from eventbus.errors import ConfigurationError

NAMES: Final = ("after_flush", "before_commit", "after_commit", "after_publish", "after_confirm", "before_delete")
VARIABLE: Final = "EVENTBUS_FAILPOINTS"

Trigger = Callable[[], bool]


def parse(text: str) -> dict[str, Trigger]:
    """What to do at which point. Raises ConfigurationError for a name or trigger it does not know."""
    points: dict[str, Trigger] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, _, trigger = part.partition("=")
        if name.strip() not in NAMES:
            raise ConfigurationError(f"{VARIABLE}: no failpoint {name.strip()!r}; there are {', '.join(NAMES)}")
        points[name.strip()] = _trigger(trigger.strip() or "1")
    return points


def _trigger(text: str) -> Trigger:
    try:
        if not text.startswith("p"):
            return _nth(int(text))
        chance, _, seed = text[1:].partition(",seed")
        return _random(float(chance), int(seed) if seed else None)
    except ValueError as error:
        raise ConfigurationError(f"{VARIABLE}: {text!r} is neither a count nor p<probability>[,seed<n>]") from error


def _nth(count: int) -> Trigger:
    passes = iter(range(1, count + 1))
    return lambda: next(passes, 0) == count


def _random(chance: float, seed: int | None) -> Trigger:
    source = random.Random(seed)  # noqa: S311  # decides when to die
    return lambda: source.random() < chance


def _arm(name: str) -> None:
    """The first point of this process decides what `hit` is from now on."""
    global hit  # noqa: PLW0603  # a point that is off must cost no more than an empty call
    points = parse(os.environ.get(VARIABLE, ""))

    def pull(name: str) -> None:
        trigger = points.get(name)
        if trigger is not None and trigger():
            os.kill(os.getpid(), signal.SIGKILL)

    hit = pull if points else _nothing
    hit(name)


def _nothing(name: str) -> None:
    """No failpoint is set in this process."""


hit: Callable[[str], None] = _arm
"""`failpoints.hit(name)`: the process is at that point. Always called through the module."""
