"""Who is told of the bundle, and who has a say in credentials: with Go plugins of SPIRE's SDK."""

import re
import subprocess

import pytest

from harness import Server, wait_until
from test_plugins import bins, built, keep, lines, plugin  # noqa: F401 (fixtures)


def told(path):
    return path.read_text().splitlines() if path.exists() else []


def test_changes_by_the_server_itself_are_told_at_once(bins, keep, tmp_path):  # noqa: F811
    notified, published = tmp_path / "notified", tmp_path / "published"
    plugins = plugin("Notifier", "gonote", "notifier", f'file = "{notified}"')
    plugins += plugin("BundlePublisher", "gopub", "bundlepublisher", f'file = "{published}"')
    server = keep(Server(tmp_path / "server", bins=bins, plugins=plugins).start())
    wait_until(lambda: told(published), "the first publication")
    assert told(notified) == ["loaded example.org x509=1 identity=spiffe://example.org/spire/server"]

    # A second CA is prepared, takes over, and the first is tainted and revoked.
    first = server.json("localauthority", "x509", "show")["active"]["authority_id"]
    second = server.json("localauthority", "x509", "prepare")["prepared_authority"]["authority_id"]
    wait_until(lambda: told(notified)[-1] == "updated example.org x509=2", "the notification", seconds=20)
    wait_until(lambda: "x509=2" in told(published)[-1], "the publication", seconds=20)
    server.cli("localauthority", "x509", "activate", "-authorityID", second)
    server.cli("localauthority", "x509", "taint", "-authorityID", first)
    server.cli("localauthority", "x509", "revoke", "-authorityID", first)
    wait_until(lambda: "x509=1" in told(published)[-1], "the publication of what is left", seconds=20)
    assert lines(server, 'msg="Notifier handled event"', 'event="bundle updated"', "notifier=gonote")


def test_changes_by_another_server_on_the_database_are_told_too(keep, tmp_path):  # noqa: F811
    notified, published = tmp_path / "notified", tmp_path / "published"
    plugins = plugin("Notifier", "gonote", "notifier", f'file = "{notified}"')
    plugins += plugin("BundlePublisher", "gopub", "bundlepublisher", f'file = "{published}"')
    server = keep(Server(tmp_path / "one", plugins=plugins).start())
    wait_until(lambda: told(published), "the first publication")
    database = ("sqlite3", server.database)
    keep(Server(tmp_path / "two", database=database).start())
    wait_until(lambda: told(notified)[-1] == "updated example.org x509=2", "the notification", seconds=30)
    wait_until(lambda: re.search("x509=2 jwt=2", told(published)[-1]), "the publication", seconds=30)


def test_a_failing_publisher_is_named_and_tried_again(keep, tmp_path):  # noqa: F811
    plugins = plugin("BundlePublisher", "gopub", "bundlepublisher", 'mode = "fail"')
    server = keep(Server(tmp_path / "server", plugins=plugins).start())
    expected = ('msg="Failed to publish bundle"', "BundlePublisher=gopub", "told to fail", "bundle_publishing")
    wait_until(lambda: len(lines(server, *expected)) >= 3, "the third attempt", seconds=30)


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("no subject", "plugin returned invalid X509SVID attributes: subject: cannot be empty"),
        ("no oid", 'plugin returned invalid X509SVID attributes: extra extensions: invalid OID: non-integer part "x"'),
        ("fail", "told to fail"),
    ],
)
def test_what_a_composer_cannot_mean_is_not_issued(bins, keep, tmp_path, mode, reason):  # noqa: F811
    composer = plugin("CredentialComposer", "gocomp", "credentialcomposer", f'mode = "{mode}"')
    server = keep(Server(tmp_path / "server", bins=bins, plugins=composer).start())
    minted = server.cli("x509", "mint", "-spiffeID", "spiffe://example.org/web", check=False)
    assert minted.returncode != 0
    assert f"credentialcomposer(gocomp): {reason}" in minted.stderr, minted.stderr


def test_a_unique_id_is_the_one_that_spire_gives(bins, keep, tmp_path):  # noqa: F811
    uniqueid = 'CredentialComposer "uniqueid" { plugin_data {} }'
    server = keep(Server(tmp_path / "server", bins=bins, plugins=uniqueid).start())
    server.cli("x509", "mint", "-spiffeID", "spiffe://example.org/workload", "-dns", "a.b", "-write", tmp_path)
    subject = subprocess.run(
        ["openssl", "x509", "-noout", "-subject", "-nameopt", "RFC2253", "-in", tmp_path / "svid.pem"],
        capture_output=True,
        text=True,
    ).stdout
    assert subject.strip() == "subject=x500UniqueIdentifier=9329e28c9448787df0fcb3c655605e51,CN=a.b,O=SPIRE,C=US"
