"""Deliveries are read over TLS as they are in plain text."""

from __future__ import annotations

from pathlib import Path

from consumers.base import ConsumerSettings
from eventbus.events.reading import Limits
from tests.conftest import StartRabbitNode
from tests.support.certificates import self_signed
from tests.support.consuming import Collector, Running, event_body, publish, ready, wait_for
from tests.support.nodes.base import free_port


def test_small_and_large_messages_arrive_over_tls(
    private_rabbitmq: StartRabbitNode, tmp_path: Path, unique: str
) -> None:
    made, key = self_signed(tmp_path, "localhost")
    port = free_port()
    files = [
        f"ssl_options.{name} = {path}" for name, path in (("cacertfile", made), ("certfile", made), ("keyfile", key))
    ]
    private_rabbitmq(config=[f"listeners.ssl.1 = 127.0.0.1:{port}", "ssl_options.verify = verify_none", *files])
    settings = ConsumerSettings(
        url=f"amqps://guest:guest@localhost:{port}//?cacertfile={made}",
        queue=unique,
        limits=Limits(body=8 << 20),
        prefetch=200,
    )
    collector = Collector()
    large = event_body(version=5001).replace(b"+32", b"x" * (5 << 20))
    with Running(settings, collector) as consumer:
        publish(settings, [event_body(version=version) for version in range(1, 5001)])
        publish(settings, [large, event_body(version=5002)])
        wait_for(lambda: len(collector.versions) == 5002, timeout=60)
        assert consumer.moments.losses == []
    assert collector.versions == list(range(1, 5003))
    assert ready(settings, unique) == 0
