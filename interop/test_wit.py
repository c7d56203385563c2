"""WIT-SVIDs behind their feature flag."""

import base64
import json
import os
import subprocess

import pytest

FLAG = """experimental {
    feature_flags = ["wit-svid"]
    wit_key_type = "ec-p384"
    wit_issuer = "https://issuer"
}"""


def mint(server, *flags):
    command = [server.bins / "spire-server", "wit", "mint", "-socketPath", server.socket, *flags]
    env = {**os.environ, "SPIRE_SERVER_FFLAGS": "wit-svid"}
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, env=env)


def part(text, index):
    text = text.split(".")[index]
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


@pytest.fixture(params=["ours", "theirs"])
def server(request, pair):
    """Ours, and SPIRE's with the same expectations."""
    bins = request.getfixturevalue("spire") if request.param == "theirs" else None
    made, _ = pair(server_bins=bins, extra=FLAG)
    return made


def test_a_wit_svid_names_the_workloads_key(server):
    answer = mint(server, "-spiffeID", "spiffe://example.org/w", "-output", "json")
    minted = json.loads(answer.stdout)
    token, key = minted["svid"]["token"], json.loads(minted["private_key"])
    [authority] = server.json("bundle", "show")["wit_authorities"]
    assert part(token, 0) == {"alg": "ES384", "kid": authority["key_id"], "typ": "wit+jwt"}
    claims = part(token, 1)
    assert claims["exp"] - claims["iat"] == 3600
    assert (claims["sub"], claims["iss"]) == ("spiffe://example.org/w", "https://issuer")
    assert claims["cnf"]["jwk"] == {**{name: key[name] for name in ["kty", "crv", "x", "y"]}, "alg": "ES256"}
    assert "d" in key and "aud" not in claims
    text = mint(server, "-spiffeID", "spiffe://example.org/w", "-keyType", "rsa-2048", "-signingAlgorithm", "PS256").stdout
    token, key = text.splitlines()[:2]
    assert part(token, 1)["cnf"]["jwk"]["n"] == json.loads(key)["n"]


def test_what_is_wrong_with_a_wish_is_said(server):
    for flags, text in [
        ([], "spiffeID must be specified"),
        (["-spiffeID", "spiffe://other.org/w"], "is not a member of trust domain"),
        (["-spiffeID", "spiffe://example.org/w", "-keyType", "rsa-2048"], "unsupported key type 'rsa-2048' for 'ES256'"),
        (["-spiffeID", "spiffe://example.org/w", "-signingAlgorithm", "none"], "unsupported signing algorithm: none"),
    ]:
        answer = mint(server, *flags)
        assert answer.returncode == 1 and text in answer.stderr, answer.stderr


def test_without_the_flag_there_is_nothing(pair):
    server, _ = pair()
    answer = mint(server, "-spiffeID", "spiffe://example.org/w")
    assert "code = Unimplemented desc = WIT functionality is disabled" in answer.stderr
    assert server.json("bundle", "show")["wit_authorities"] == []
    assert server.cli("wit", "mint", check=False).returncode == 127
