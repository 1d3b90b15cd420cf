"""Deliveries are read over TLS as they are in plain text."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from consumers.base import ConsumerSettings
from eventbus.events.reading import Limits
from tests.conftest import StartRabbitNode
from tests.support.consuming import Collector, Running, event_body, publish, ready, wait_for
from tests.support.nodes.base import free_port


def certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate of its own authority, made out to localhost, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    made, key = directory / "server.pem", directory / "server.key"
    new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([openssl, *new, *names, "-keyout", key, "-out", made], check=True, capture_output=True)
    for path in (made, key, directory):
        path.chmod(0o755)
    return made, key


def test_small_and_large_messages_arrive_over_tls(
    private_rabbitmq: StartRabbitNode, tmp_path: Path, unique: str
) -> None:
    made, key = certificate(tmp_path)
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
