"""`python -m tests.faults.chaos`. Exit code 0: nothing lost, nothing invented, nothing changed, files equal tables."""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.faults import chaos
from tests.faults.chaos.run import Plan, run
from tests.support.nodes.base import Node
from tests.support.nodes.mariadb import MariaNode
from tests.support.nodes.postgres import PostgresNode
from tests.support.nodes.rabbitmq import RabbitNode

KINDS: dict[str, type[Node]] = {"postgres": PostgresNode, "mariadb": MariaNode}


def main(argv: Sequence[str] | None = None) -> int:
    """The long run."""
    options = _options(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers go with it
    first = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    with contextlib.ExitStack() as stack:
        nodes = _nodes(options, stack)
        return max([_one(options, seed, *nodes) for seed in range(first, first + options.seeds)])


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.chaos",
        description=chaos.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--seeds", type=int, default=1, help="so many runs, with this seed and those that follow")
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--relays", type=int, default=2)
    parser.add_argument("--ordering", choices=["fast", "strict"], default="fast")
    parser.add_argument("--delivery", choices=["thread", "relay"], default="thread", help="of the writers")
    parser.add_argument("--kind", choices=KINDS, default="postgres", help="of the private database")
    parser.add_argument(
        "--database", help="a URL in place of a private server, which is not killed; tables are dropped"
    )
    parser.add_argument("--broker", help="a URL in place of a private server, which is not killed")
    return parser.parse_args(argv)


def _nodes(options: argparse.Namespace, stack: contextlib.ExitStack) -> tuple[Node | None, Node | None]:
    database = None if options.database else stack.enter_context(KINDS[options.kind]())
    if isinstance(database, MariaNode):
        database.make_database("chaos")
    return database, None if options.broker else stack.enter_context(RabbitNode())


def _one(options: argparse.Namespace, seed: int, database: Node | None, broker: Node | None) -> int:
    print(f"seed {seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix=f"eventbus-chaos-{seed}-"))
    plan = Plan(
        _url(database) or options.database,
        broker.url if broker else options.broker,
        directory,
        options.seconds,
        seed,
        options.writers,
        options.relays,
        options.ordering,
        options.delivery,
        database,
        broker,
    )
    verdict = run(plan)
    print(verdict)
    for kind, found in verdict.faults.items():
        print(kind, *found[:20], sep="\n  ")
    print("errors of the writers:", *_errors(directory / "processes.log"), sep="\n  ")
    print(f"logs and files: {directory}", flush=True)
    return 0 if verdict.good else 1


def _url(node: Node | None) -> str:
    if node is None:
        return ""
    return node.database_url("chaos") if isinstance(node, MariaNode) else node.url


def _errors(log: Path) -> list[str]:
    """What transactions ended with, and how often: deadlocks, lost connections, and what should not be there."""
    told = re.findall(r"^error (\w+ .*)$", log.read_text(errors="replace"), re.MULTILINE)
    return [
        f"{count:6} {text}"
        for text, count in Counter(re.sub(r"\d+|'[^']*'", "…", each) for each in told).most_common(30)
    ]


if __name__ == "__main__":
    raise SystemExit(main())
