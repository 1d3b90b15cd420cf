"""What befalls network and servers while the writers work."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Self

from tests.faults.chaos.troop import Troop
from tests.support.nodes.base import Node
from tests.support.tcp_proxy import Mode, TcpProxy

_SPOILT = (Mode.RESET, Mode.BLACK_HOLE, Mode.REPLIES_LOST, Mode.REFUSE, Mode.SILENT)


def rage(troop: Troop, broker: TcpProxy, database: TcpProxy, *, seconds: float, seed: int) -> int:
    """Kill processes, cut and freeze connections, for so long. How often connections were spoilt."""
    source, cuts = random.Random(seed), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(source.uniform(0.1, 0.8))
        troop.replace_dead()
        dice = source.random()
        if dice < 0.5:
            troop.kill_one()
        else:
            proxy = broker if dice < 0.8 else database
            proxy.mode = source.choice(_SPOILT)
            time.sleep(source.uniform(0.05, 0.8))
            proxy.mode = Mode.PASS
            cuts += 1
    broker.mode = database.mode = Mode.PASS
    return cuts


class ServerFaults:
    """`with ServerFaults({"broker": node}, seed) as faults`: one server after another is killed, restarted, or silent.

    Silent is stopped by SIGSTOP: connections stay open, are accepted even, and nobody answers. All are well afterwards.
    """

    def __init__(self, nodes: Mapping[str, Node | None], seed: int) -> None:
        self._nodes = {name: node for name, node in nodes.items() if node is not None}
        self._source = random.Random(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._failure: BaseException | None = None
        self.done: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while self._nodes and not self._over.wait(self._source.uniform(1, 5)):
                self._strike()
        except BaseException as error:  # noqa: BLE001 - told by the thread that waits
            self._failure = error

    def _strike(self) -> None:
        name, node = self._source.choice(list(self._nodes.items()))
        faults: Mapping[str, Callable[[Node], None]] = {
            "killed": self._kill,
            "restarted": lambda node: node.restart() and None,
            "silent": self._silence,
        }
        kind = self._source.choice([*faults, "silent"])
        faults[kind](node)
        self.done[f"{name} {kind}"] += 1

    def _kill(self, node: Node) -> None:
        node.kill()
        time.sleep(self._source.uniform(0, 2))
        node.start()

    def _silence(self, node: Node) -> None:
        node.pause()
        try:
            self._over.wait(self._source.uniform(1, 13))
        finally:
            node.resume()
