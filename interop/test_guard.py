"""What stands before the APIs: an operator's policy, limits per caller, and proxies."""

import json
import re
import subprocess

import pytest
from harness import HERE, Server, binaries
from test_differential import PROGRAM, build

POLICY = """package spire
result = {
    "allow": false, "allow_if_admin": false, "allow_if_local": ok,
    "allow_if_downstream": false, "allow_if_agent": false,
}
default ok = false
ok = true if input.full_method == data.open[_]
# Who deletes may delete what is temporary.
ok = true if {
    input.full_method == "/spire.api.server.entry.v1.Entry/BatchDeleteEntry"
    count([id | id := input.req.ids[_]; not startswith(id, "tmp")]) == 0
}
ok = true if {
    input.full_method == "/spire.api.server.agent.v1.Agent/CountAgents"
    endswith(input.caller_file_path, "spire-server")
}
twice = 1 if input.full_method == "/spire.api.server.bundle.v1.Bundle/CountBundles"
twice = 2 if input.full_method == "/spire.api.server.bundle.v1.Bundle/CountBundles"
ok = twice == 1 if input.full_method == "/spire.api.server.bundle.v1.Bundle/CountBundles"
"""

DATA = {"open": ["/grpc.health.v1.Health/Check"] + [
    f"/spire.api.server.entry.v1.Entry/{method}" for method in ("BatchCreateEntry", "CountEntries")
]}

VERBS = [
    ["entry", "count"],
    ["entry", "show"],
    ["entry", "delete", "-entryID", "tmp1"],
    ["entry", "delete", "-entryID", "keep"],
    ["agent", "count"],
    ["agent", "list"],
    ["bundle", "count"],
    ["token", "generate", "-ttl", "5"],
]


def under_policy(folder, bins, module=POLICY, data=DATA):
    folder.mkdir()
    (folder / "policy.rego").write_text(module)
    (folder / "data.json").write_text(json.dumps(data))
    engine = f'local {{ rego_path = "{folder}/policy.rego" policy_data_path = "{folder}/data.json" }}'
    return Server(
        folder / "server", bins=bins,
        extra=f"audit_log_enabled = true\nexperimental {{ auth_opa_policy_engine {{ {engine} }} }}",
    )


def verdicts(server):
    """What each verb exits with, and says when it may not."""
    server.start()
    try:
        for name in ("tmp1", "keep"):
            server.cli("entry", "create", "-entryID", name, "-parentID", "spiffe://example.org/p",
                       "-spiffeID", f"spiffe://example.org/{name}", "-selector", "a:b")
        results = [server.cli(*verb, check=False) for verb in VERBS]
        return [(result.returncode, result.stderr) for result in results]
    finally:
        server.stop()


def test_a_policy_of_ones_own_decides_by_method_request_and_program(tmp_path):
    found = verdicts(under_policy(tmp_path / "ours", binaries()))
    denied = "rpc error: code = PermissionDenied desc = authorization denied for method /spire.api.server"
    assert [code for code, _ in found] == [0, 1, 0, 1, 0, 1, 1, 1]
    for at, method in ((1, "entry.v1.Entry/ListEntries"), (3, "entry.v1.Entry/BatchDeleteEntry"),
                       (5, "agent.v1.Agent/ListAgents"), (7, "agent.v1.Agent/CreateJoinToken")):
        assert f"{denied}.{method}" in found[at][1]
    assert "eval_conflict_error: complete rules must not produce multiple outputs" in found[6][1]


def test_a_policy_has_the_same_effect_on_both(tmp_path, spire):
    assert verdicts(under_policy(tmp_path / "ours", binaries())) == verdicts(under_policy(tmp_path / "theirs", spire))


@pytest.mark.parametrize(
    "module, reason",
    [
        ('package spire\nresult = {"allow": true}', 'policy: result did not contain "allow_if_admin" bool value'),
        ("package spire\nx = 1", "policy: no matching policies found"),
        ("package spire\nresult = 1", "unexpected type in evaluating policy result expression"),
    ],
)
def test_a_policy_that_cannot_decide_keeps_the_server_from_starting(module, reason, tmp_path):
    server = under_policy(tmp_path / "bad", binaries(), module).start(wait=False)
    assert server.daemon.process.wait(timeout=30) == 1
    log = (server.folder / "server.log").read_text()
    assert "unable to obtain authpolicy engine: authpolicy engine failed to validate on sample test inputs" in log
    assert reason in log.replace('\\"', '"')


def test_a_policy_that_loops_denies_its_calls_and_stops_nothing(tmp_path):
    module = POLICY + """
xs := numbers.range(1, 1000)
ok = true if {
    input.full_method == "/spire.api.server.agent.v1.Agent/ListAgents"
    some a in xs; some b in xs; some c in xs
    a * b * c == -1
}
"""
    server = under_policy(tmp_path / "loop", binaries(), module).start()
    try:
        lists = [server.cli("agent", "list", check=False) for _ in range(3)]
        assert all("evaluation took longer than" in found.stderr for found in lists)
        assert server.cli("entry", "count").stdout == "0 registration entries\n"
    finally:
        server.stop()


def test_the_sample_policy_is_the_built_in_one(tmp_path):
    folder = HERE.parent / "conf" / "server" / "policy"
    module, data = (folder / "policy.rego").read_text(), json.loads((folder / "policy_data.json").read_text())
    found = verdicts(under_policy(tmp_path / "sample", binaries(), module, data))
    assert [code for code, _ in found] == [0] * len(VERBS)


@pytest.fixture(scope="module")
def guard():
    """Calls GetBundle without an identity: (server, header, calls, milliseconds each) -> answers."""
    build()

    def call(server, header="", calls=1, patience=2000):
        result = subprocess.run(
            [PROGRAM, "guard", f"127.0.0.1:{server.port}", header, str(calls), str(patience)],
            capture_output=True, text=True, timeout=60, check=True,
        )
        return [json.loads(line) for line in result.stdout.splitlines()]

    return call


def test_a_caller_above_its_rate_is_told_when_to_come_again(pair, guard):
    server, _ = pair(extra="ratelimit { limits { bundle = 1 } }")
    # More than one call has no second left to it, however slow the machine is.
    first, *others = guard(server, calls=8, patience=600)
    assert first["code"] == "OK"
    second = next(answer for answer in others if answer["code"] == "ResourceExhausted")
    assert second["message"] == (
        "rejecting request due to bundle rate limiting: rate: Wait(n=1) would exceed context deadline"
    )
    assert second["retry_after"] == ["1"]
    assert second["details"] == ["type.googleapis.com/google.rpc.RetryInfo"]
    # Who can wait is served, as by SPIRE; and nobody waits on the Unix socket.
    assert [answer["code"] for answer in guard(server, calls=2, patience=10000)] == ["OK", "OK"]
    for _ in range(5):
        server.cli("bundle", "show")


def header(address):
    return f"PROXY TCP4 {address} 127.0.0.1 4711 443\r\n"


def test_clients_behind_a_trusted_proxy_are_themselves_in_limits_and_audit(pair, guard):
    server, _ = pair(
        extra='proxy_protocol_trusted_cidrs = ["127.0.0.0/8"]\naudit_log_enabled = true\n'
        "ratelimit { limits { bundle = 1 } }"
    )
    for address in ("192.0.2.1", "192.0.2.2"):
        first, *others = [answer["code"] for answer in guard(server, header(address), calls=8, patience=500)]
        assert first == "OK" and "ResourceExhausted" in others, address
    assert guard(server)[0]["code"] == "OK", "a connection without a header"
    log = (server.folder / "server.log").read_text()
    assert 'msg="PROXY protocol enabled on TCP listener"' in log
    lines = [line for line in log.splitlines() if "type=audit" in line and "method=GetBundle" in line]
    assert any('caller_addr="192.0.2.1:4711"' in line and "status=success" in line for line in lines)
    assert any('caller_addr="192.0.2.2:4711"' in line and "status_code=ResourceExhausted" in line for line in lines)
    assert guard(server, "PROXY nonsense\r\n")[0]["code"] == "Unavailable"


def test_a_header_from_an_untrusted_source_ends_the_connection(pair, guard):
    server, _ = pair(extra='proxy_protocol_trusted_cidrs = ["10.0.0.0/8"]')
    assert guard(server, header("192.0.2.1"))[0]["code"] == "Unavailable"
    assert guard(server)[0]["code"] == "OK"


def test_both_treat_proxies_alike(pair, guard, spire):
    for trusted in ("127.0.0.0/8", "10.0.0.0/8"):
        codes = []
        for bins in (binaries(), spire):
            server, _ = pair(server_bins=bins, extra=f'proxy_protocol_trusted_cidrs = ["{trusted}"]')
            codes.append([guard(server, text)[0]["code"] for text in ("", header("192.0.2.1"), "PROXY UNKNOWN\r\n")])
        assert codes[0] == codes[1], trusted


def test_post_quantum_key_exchange_can_be_insisted_on(pair):
    server, agent = pair(extra="experimental { require_pq_kem = true }")
    agent.start(server.token())
    # A hello of TLS 1.2 is refused with an alert, and no handshake.
    result = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_2"],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20,
    )
    assert re.search("protocol version|alert", result.stderr), result.stderr
    result = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_3", "-groups", "P-256"],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20,
    )
    assert re.search("handshake failure|alert", result.stderr), result.stderr
