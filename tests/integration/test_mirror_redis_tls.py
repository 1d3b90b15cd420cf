"""Redis over TLS, on a server of the test's own: the certificate and the host's name in it are checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from consumers.base import DONE
from consumers.json_mirror import cache
from consumers.json_mirror.cache.errors import CacheUnavailable
from consumers.json_mirror.cache.feed import Feed
from consumers.json_mirror.state import Record, State
from eventbus.errors import ConfigurationError
from tests.support.certificates import Certificate, issued, self_signed
from tests.support.consuming import wait_for
from tests.support.mirroring import contents, delivery, make_private, mirror
from tests.support.nodes.base import free_port
from tests.support.nodes.redis import RedisNode

StartRedis = Callable[..., RedisNode]
RECORD = Record("crm/contact", "a.json", 7, b"{}\n")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(directory: Path) -> Certificate:
    return self_signed(directory, "the-authority")


@pytest.fixture(scope="module")
def another(directory: Path) -> Certificate:
    return self_signed(directory, "another-authority")


def served(private_redis: StartRedis, certificate: Certificate) -> str:
    """The URL of a server that shows this certificate, without its parameters."""
    port = free_port()
    files = ["--tls-cert-file", str(certificate.file), "--tls-key-file", str(certificate.key)]
    private_redis("--tls-port", str(port), "--tls-auth-clients", "no", "--tls-ca-cert-file", certificate.file, *files)
    return f"rediss://localhost:{port}/0"


def store(url: str, *, insecure: bool = False) -> None:
    with cache.open(url, insecure_tls=insecure) as opened:
        opened.store([RECORD])
        assert opened.find("crm/contact", "a.json") == RECORD


def test_a_good_certificate_is_taken(private_redis: StartRedis, directory: Path, authority: Certificate) -> None:
    url = served(private_redis, issued(directory, "localhost", authority))
    store(f"{url}?ssl_ca_certs={authority.file}")
    store(f"{url}?ssl_ca_certs={authority.file}&ssl_cert_reqs=required&ssl_check_hostname=True")


@pytest.mark.parametrize("case", ["another host's", "another authority's", "its own", "one of no known authority"])
def test_any_other_certificate_is_refused(
    private_redis: StartRedis, directory: Path, authority: Certificate, another: Certificate, case: str
) -> None:
    certificate, trusted = {
        "another host's": (issued(directory, "redis.example", authority), authority),
        "another authority's": (issued(directory, "localhost", another), authority),
        "its own": (self_signed(directory, "localhost"), authority),
        "one of no known authority": (issued(directory, "localhost", authority), None),
    }[case]
    url = served(private_redis, certificate)
    checked = f"{url}?ssl_ca_certs={trusted.file}" if trusted else url
    complaint = "Hostname mismatch" if case == "another host's" else "certificate verify failed"
    with pytest.raises(CacheUnavailable, match=complaint):
        store(checked)
    unchecked = f"{url}?ssl_cert_reqs=none&ssl_check_hostname=false"
    with pytest.raises(ConfigurationError, match="EVENTBUS_INSECURE_TLS"):
        store(unchecked)
    store(unchecked, insecure=True)


def test_a_name_that_is_not_checked_is_insecure_too(
    private_redis: StartRedis, directory: Path, authority: Certificate
) -> None:
    url = served(private_redis, issued(directory, "redis.example", authority))
    checked = f"{url}?ssl_ca_certs={authority.file}"
    for unchecked in ("ssl_check_hostname=False", "ssl_check_hostname=0", "ssl_cert_reqs=optional"):
        with pytest.raises(ConfigurationError, match="EVENTBUS_INSECURE_TLS"):
            store(f"{checked}&{unchecked}")
    store(f"{checked}&ssl_check_hostname=False", insecure=True)
    with pytest.raises(CacheUnavailable, match="Hostname mismatch"):
        store(checked, insecure=True)


def test_plain_text_to_a_port_that_speaks_tls_and_the_other_way_round(
    private_redis: StartRedis, directory: Path, authority: Certificate
) -> None:
    url = served(private_redis, issued(directory, "localhost", authority))
    plain = private_redis().url
    for wrong in (url.replace("rediss:", "redis:"), plain.replace("redis:", "rediss:")):
        with pytest.raises(CacheUnavailable):
            store(wrong)


def test_a_mirror_goes_on_while_its_cache_cannot_be_trusted_and_says_so(
    private_redis: StartRedis, directory: Path, authority: Certificate, tmp_path: Path
) -> None:
    url = served(private_redis, self_signed(directory, "localhost")) + f"?ssl_ca_certs={authority.file}"
    make_private(tmp_path)
    feed = Feed(cache.open(url), lambda: State(tmp_path / ".eventbus/state.sqlite3", read_only=True), look=0.05)
    with mirror(tmp_path, feed=feed) as handle:
        assert handle([delivery("a", 1, {"id": "a"})]) == [DONE]
        wait_for(lambda: "certificate verify failed" in feed.trouble)
    feed.close()
    assert list(contents(tmp_path)) == ["crm/contact/a.json"]
