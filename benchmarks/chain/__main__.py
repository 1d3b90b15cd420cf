"""The whole way, with every process on this machine: a service, RabbitMQ, PostgreSQL, a mirror, Redis.

    python -m benchmarks.chain throughput [--database postgresql] [--rounds 3]
    python -m benchmarks.chain latency [--seconds 6] [--history git]
    python -m benchmarks.chain shards
    python -m benchmarks.chain growth
    python -m benchmarks.chain histories

*throughput*: a service of four threads commits as fast as it can, transactions of 1 and of 100 new records, until the
last is durable: in the state and in a file on the disk (`disk`), on a RAM disk (`ram`), or there and in Redis
(`redis`). Beside it the same service without eventbus (`bare`), and a loop that only creates such files. The memory of
each process is told too.
*latency*: a service of four threads commits one row at a time at a rising rate; from when the commit was due, so that a
late one counts as late, to the visible file. It is broken where p99 passes a second or the rate is not reached.
*shards*: one, two and four mirrors share a queue's records.
*growth*: what a record costs the mirror, from a thousand records to a million.
*histories*: what a history costs the mirror that drains a queue.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from benchmarks import places
from benchmarks.chain import growth, histories, latency, shards, throughput

PARTS = {
    "throughput": throughput.main,
    "latency": latency.main,
    "shards": shards.main,
    "growth": growth.main,
    "histories": histories.main,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--database", choices=places.DATABASES, default="postgresql")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each rate")
    parser.add_argument("--history", choices=histories.KINDS, default="off", help="that the mirror of `latency` keeps")
    parser.add_argument("--quick", action="store_true", help="a short form")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was made is removed then too
    PARTS[options.part](options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
