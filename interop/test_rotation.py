"""A forced rotation of both kinds of authority, seen by a workload."""

import base64
import json
import os

from harness import wait_until


def test_authorities_are_replaced_under_a_running_workload(pair):
    server, agent = pair()
    agent.start(server.token())
    server.entry("/kept", agent.id(), f"unix:uid:{os.getuid()}")
    wait_until(agent.ids, "the identity")

    def issuer():
        answer = agent.cli("api", "fetch", "x509", "-output", "json")
        chain = base64.b64decode(json.loads(answer.stdout)["svids"][0]["x509_svid"])
        return next((id for id in authorities if bytes.fromhex(id) in chain), None)

    def kid():
        token = json.loads(agent.cli("api", "fetch", "jwt", "-audience", "a", "-output", "json").stdout)
        head = token[0]["svids"][0]["svid"].split(".")[0]
        return json.loads(base64.urlsafe_b64decode(head + "=="))["kid"]

    def step(kind, verb, *flags):
        return server.json("localauthority", kind, verb, *flags)

    old = {kind: step(kind, "show")["active"]["authority_id"] for kind in ["x509", "jwt"]}
    new = {kind: step(kind, "prepare")["prepared_authority"]["authority_id"] for kind in ["x509", "jwt"]}
    authorities = [old["x509"], new["x509"]]
    assert issuer() == old["x509"] and kid() == old["jwt"]
    for kind in ["x509", "jwt"]:
        step(kind, "activate", "-authorityID", new[kind])
        step(kind, "taint", "-authorityID", old[kind])
    wait_until(lambda: issuer() == new["x509"], "an SVID of the new CA", seconds=60)
    wait_until(lambda: kid() == new["jwt"], "a token of the new key", seconds=60)
    for kind in ["x509", "jwt"]:
        step(kind, "revoke", "-authorityID", old[kind])
    bundle = server.json("bundle", "show")
    assert len(bundle["x509_authorities"]) == 1
    assert [key["key_id"] for key in bundle["jwt_authorities"]] == [new["jwt"]]
    assert agent.ids() == ["spiffe://example.org/kept"]
    log = (agent.folder / "agent.log").read_text()
    assert "New tainted X.509 authorities found" in log
    assert "Agent SVID is tainted by a root authority, forcing rotation" in log
