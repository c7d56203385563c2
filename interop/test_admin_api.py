"""The public API module drives the server; openssl judges what it issues."""

import json
import re
import subprocess

from harness import BUILD, TRUST_DOMAIN


def openssl(*arguments, check=True):
    result = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    if check and result.returncode:
        raise AssertionError(f"openssl {arguments}: {result.stderr}{result.stdout}")
    return result.stdout


def test_the_public_api_module_drives_entries_tokens_and_mints(domain):
    server, _ = domain
    result = subprocess.run(
        [BUILD / "apisdk", server.socket, TRUST_DOMAIN], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr + result.stdout
    steps = [json.loads(line)["step"] for line in result.stdout.splitlines()]
    assert steps == [
        "create", "create again", "get", "update", "list", "delete", "token", "mint", "forged csr", "mint jwt",
    ]


def test_openssl_verifies_the_chain_names_and_usages_of_an_svid(domain, tmp_path):
    server, _ = domain
    server.cli(
        "x509", "mint", "-spiffeID", f"spiffe://{TRUST_DOMAIN}/checked", "-dns", "checked.example.org",
        "-ttl", "1h", "-write", tmp_path,
    )
    verified = openssl("verify", "-x509_strict", "-CAfile", tmp_path / "bundle.pem", tmp_path / "svid.pem")
    assert verified.strip().endswith("OK")
    text = openssl("x509", "-in", tmp_path / "svid.pem", "-noout", "-text")
    for expected in [
        "Subject: C = US, O = SPIRE, CN = checked.example.org",
        f"DNS:checked.example.org, URI:spiffe://{TRUST_DOMAIN}/checked",
        "X509v3 Key Usage: critical\n                Digital Signature, Key Encipherment, Key Agreement\n",
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "X509v3 Basic Constraints: critical\n                CA:FALSE\n",
        "X509v3 Subject Key Identifier",
        "X509v3 Authority Key Identifier",
    ]:
        assert expected in text, text
    root = openssl("x509", "-in", tmp_path / "bundle.pem", "-noout", "-text")
    assert f"URI:spiffe://{TRUST_DOMAIN}\n" in root
    assert "CA:TRUE" in root and "Certificate Sign, CRL Sign" in root
    assert re.search(r"Subject: C = US, O = SPIFFE, serialNumber = \d+", root), root
    public = openssl("x509", "-in", tmp_path / "svid.pem", "-noout", "-pubkey")
    assert public == openssl("pkey", "-in", tmp_path / "key.pem", "-pubout")
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
