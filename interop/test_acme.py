"""Certificates from a real ACME authority: Pebble checks the name, issues, and we renew."""

import json
import socket
import ssl
import subprocess

import pytest

from acme import Pebble, build_pebble, environment
from harness import HERE, Server, free_port, spire_binaries, wait_until
from oidc import DOMAIN, Named, Provider


@pytest.fixture(scope="module")
def pebble_binary():
    return build_pebble()


@pytest.fixture
def acme(tmp_path, pebble_binary):
    """Makes an authority, and a provider that has its certificate from it."""
    made = []

    def make(lifetime=7776000, more="", names=None):
        port = free_port()
        pebble = Pebble(tmp_path, pebble_binary, port, lifetime)
        made.append(pebble)
        settings = f"""
            file {{ path = "{tmp_path}/bundle.json" }}
            acme {{
                directory_url = "{pebble.directory}"
                email = "admin@oidc.test"
                tos_accepted = true
                addr = "127.0.0.1:PORT"
                cache_dir = "{tmp_path}/cache"
                {more}
            }}
        """
        provider = Provider(tmp_path / "oidc", settings, env=environment(pebble), port=port).start()
        made.append(provider)
        return pebble, provider

    (tmp_path / "bundle.json").write_text('{"keys": []}')
    yield make
    for it in reversed(made):
        it.stop()


def shown(port, name=DOMAIN, protocols=("http/1.1",), root=None):
    """The certificate that a handshake shows (DER), and whether it was verified; None if refused."""
    context = ssl.create_default_context(cafile=root) if root else ssl._create_unverified_context()
    context.set_alpn_protocols(list(protocols))
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as stream:
            with context.wrap_socket(stream, server_hostname=name) as tls:
                return tls.getpeercert(True)
    except (ssl.SSLError, ConnectionError, TimeoutError):
        return None


def test_a_certificate_is_had_kept_and_used_again(acme, tmp_path):
    pebble, provider = acme()
    wait_until(lambda: shown(provider.port), "the certificate", seconds=120)
    root = pebble.root()
    first = shown(provider.port, root=root)
    assert first, "it verifies for its name under the authority's root"
    status, _, body = provider.ask("/keys", connection=Named(provider.port, root))
    assert (status, body) == (501, b"jwt not supported/enabled in this service\n")
    assert shown(provider.port, "other.test") is None, "a name that is not ours is refused"
    assert "ACME Terms Of Service accepted" in provider.text()
    assert "VALID by completed challenge" in pebble.text(), "the name was really checked"

    cache = tmp_path / "cache"
    assert cache.stat().st_mode & 0o777 == 0o700
    names = sorted(it.name for it in cache.iterdir())
    assert names[0] == "acme_account+key" and DOMAIN in names, names
    assert not [name for name in names if name.endswith("+token")], "no check is left behind"
    for path in cache.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600

    provider.stop()
    orders = pebble.text().count("/order-plz")
    provider.start()
    assert shown(provider.port, root=root) == first, "the one from the cache serves at once"
    assert pebble.text().count("/order-plz") == orders


def test_a_certificate_is_renewed_before_it_ends(acme):
    pebble, provider = acme(lifetime=30)
    first = wait_until(lambda: shown(provider.port), "the certificate", seconds=120)
    root = pebble.root()

    def newer():
        der = shown(provider.port, root=root)
        return der if der != first else None

    assert wait_until(newer, "the next certificate", seconds=120)


def test_an_authority_that_cannot_be_had_yet_is_asked_again_and_nothing_is_served(acme, tmp_path):
    pebble, provider = acme()
    wait_until(lambda: shown(provider.port), "the certificate", seconds=120)
    provider.stop()
    pebble.stop()
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    provider.start()
    wait_until(lambda: "Failed to obtain certificate" in provider.text(), "the failure")
    assert shown(provider.port) is None
    assert "retry_in" in provider.text()
    assert provider.process.poll() is None


def test_an_authority_under_an_unknown_root_is_not_believed(acme, tmp_path):
    pebble, provider = acme()
    wait_until(lambda: shown(provider.port), "the certificate", seconds=120)
    provider.stop()
    provider.env.pop("SSL_CERT_FILE")
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    provider.start()
    wait_until(lambda: "Failed to obtain certificate" in provider.text(), "the failure")
    assert "UnknownIssuer" in provider.text() or "no usable root" in provider.text()


def test_autocert_finds_our_cache_and_we_find_its(acme, tmp_path):
    """SPIRE's provider keeps certificates with golang.org/x/crypto/acme/autocert."""
    pebble, provider = acme()
    ours = wait_until(lambda: shown(provider.port), "the certificate", seconds=120)
    provider.stop()
    program = HERE / "build" / "autocert"
    build = ["go", "build", "-o", str(program), "./autocert"]
    built = subprocess.run(build, cwd=HERE / "pebble", capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    cache = tmp_path / "cache"

    def theirs(domain):
        command = [str(program), str(cache), domain, pebble.directory]
        return subprocess.run(command, capture_output=True, timeout=60, env=environment(pebble))

    found = theirs(DOMAIN)
    assert found.returncode == 0, found.stderr
    assert found.stdout == ours

    # Their certificate in their file, under a name that ours asks for next.
    account = (cache / "acme_account+key").read_text()
    written = theirs("write:" + DOMAIN)
    assert written.returncode == 0, written.stderr
    provider.start()
    assert shown(provider.port) == written.stdout
    assert (cache / "acme_account+key").read_text() == account


@pytest.fixture
def endpoint(tmp_path, pebble_binary, monkeypatch):
    """A server whose bundle endpoint has its certificate from the authority beside it."""
    port = free_port()
    pebble = Pebble(tmp_path, pebble_binary, port)
    monkeypatch.setenv("SSL_CERT_FILE", str(pebble.trust))
    acme = f'directory_url = "{pebble.directory}" domain_name = "bundle.test" email = "a@bundle.test" tos_accepted = true'
    extra = f"""
        federation {{
            bundle_endpoint {{
                address = "127.0.0.1"
                port = {port}
                profile "https_web" {{ acme {{ {acme} }} }}
            }}
        }}
    """
    server = Server(tmp_path / "server", extra=extra).start()
    yield pebble, server, port
    server.stop()
    pebble.stop()


def test_the_bundle_endpoint_keeps_its_keys_in_the_key_manager(endpoint, spire_or_none):
    pebble, server, port = endpoint
    first = wait_until(lambda: shown(port, "bundle.test"), "the certificate", seconds=120)
    root = pebble.root()
    assert shown(port, "bundle.test", root=root) == first
    assert shown(port, "other.test") is None
    keys = json.loads(server.keys.read_text())["keys"]
    assert {"bundle-acme-acme_account+key", "bundle-acme-bundle.test"} <= set(keys)
    cache = server.folder / "data" / "bundle-acme"
    assert cache.stat().st_mode & 0o777 == 0o700
    assert [it.name for it in cache.iterdir()] == ["bundle.test"]
    assert "PRIVATE" not in (cache / "bundle.test").read_text()
    orders = pebble.text().count("/order-plz")

    # The next server, ours and then SPIRE's, serves what is in the cache.
    for bins in [None, *spire_or_none]:
        server.stop()
        if bins:
            server.bins = bins
        server.start()
        wait_until(lambda: shown(port, "bundle.test", root=root) == first, "the certificate of before")
    assert pebble.text().count("/order-plz") == orders


@pytest.fixture
def spire_or_none():
    folder = spire_binaries()
    return [folder] if folder else []
