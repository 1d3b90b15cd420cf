"""A RabbitMQ node with its own name, ports, files and Erlang port mapper."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence

from tests.support import probes
from tests.support.nodes.base import Node, binary, free_port


class RabbitNode(Node):
    """`config` are lines of rabbitmq.conf (`vm_memory_high_watermark.absolute = 1MB`), `plugins` names to enable.

    RabbitMQ 3.10 writes down the existence of a new quorum queue some seconds late: killed before, it comes back with a
    queue that has no leader, and every question about it times out. So `restart` once between declaring and `kill`.
    """

    kind = "rabbitmq"

    def __init__(self, config: Sequence[str] = (), plugins: Sequence[str] = ()) -> None:
        self._server = binary("rabbitmq-server")
        self._ctl = binary("rabbitmqctl")
        super().__init__()
        self._config = config
        self._plugins = plugins
        self.name = f"eventbus-{uuid.uuid4().hex[:8]}@localhost"
        self._dist_port = free_port()
        self._epmd_port = free_port()
        self._epmd: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """As guest, on the loopback interface."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def command(self) -> Sequence[str]:
        """The node in the foreground."""
        return [self._server]

    def probe(self) -> str:
        """The version."""
        return probes.rabbitmq(self.url)

    def prepare(self) -> None:
        """Write the configuration; start a port mapper that ends with this node instead of outliving the tests."""
        lines = ["loopback_users.guest = true", "log.console = true", "log.file = false", *self._config]
        (self.directory / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self.directory / "enabled_plugins").write_text(f"[{','.join(self._plugins)}].\n")
        self._epmd = self.spawn([binary("epmd"), "-port", str(self._epmd_port), "-address", "127.0.0.1"])

    def environment(self) -> Mapping[str, str]:
        """Everything that tells one node from another on the same host."""
        return {
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.directory / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(self.directory / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(self.directory / "rabbitmq.pid"),
            # Two schedulers that sleep when idle: several nodes share the machine with the tests.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
        }

    def rabbitmqctl(self, *arguments: str) -> str:
        """Output of `rabbitmqctl` on this node. Raises Unavailable when it fails."""
        return self.run([self._ctl, "--quiet", "--node", self.name, *arguments])

    def destroy(self) -> None:
        """Also ends the port mapper."""
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait(timeout=10)
            self._epmd = None
        shutil.rmtree(self.directory, ignore_errors=True)
