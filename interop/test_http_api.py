"""The Workload API as JSON over HTTP/1.1: the lines of docs/http-api.md, run as they stand there."""

import json
import os
import re
import shutil
import subprocess

import pytest
from harness import HERE, wait_until

DOCUMENT = HERE.parent / "docs" / "http-api.md"


def experimental(agent, text):
    agent.config.write_text(agent.config.read_text().replace('sync_interval = "1s"', f'sync_interval = "1s"\n{text}', 1))


def commands():
    return re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


@pytest.fixture
def shell(pair, tmp_path):
    """Runs lines as somebody who followed the page would."""
    if not shutil.which("curl") or not shutil.which("jq"):
        pytest.skip("curl or jq is not installed")
    server, agent = pair(extra='experimental { feature_flags = ["wit-svid"] }')
    experimental(agent, 'workload_http_api = true\nfeature_flags = ["wit-svid"]')
    agent.start(server.token())
    server.entry("/web", agent.id(), f"unix:uid:{os.getuid()}", options=["-hint", "db"])
    wait_until(lambda: agent.ids(), "the entry")
    first, *_ = commands()

    def run(text, check=True):
        script = f"set -eu -o pipefail\n{first}\n{text}"
        environment = {**os.environ, "SOCKET": str(agent.socket)}
        result = subprocess.run(
            ["bash", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        if check:
            assert result.returncode == 0, (text, result.stderr, result.stdout)
        return result

    run.agent, run.server = agent, server
    return run


def test_the_documented_lines_work(shell, tmp_path):
    _, *lines = commands()
    assert len(lines) >= 9
    answers = {line.strip(): shell(line).stdout for line in lines}
    svids = json.loads(answers["$SPIFFE http://localhost/v1/x509/svids"])["svids"]
    assert [(svid["spiffe_id"], svid["hint"]) for svid in svids] == [("spiffe://example.org/web", "db")]
    (tmp_path / "ca.pem").write_text(svids[0]["bundle"])
    checked = ["openssl", "verify", "-CAfile", "ca.pem", "svid.pem"]
    verified = subprocess.run(checked, cwd=tmp_path, capture_output=True, text=True)
    assert verified.returncode == 0, verified.stderr
    public = lambda *flags: subprocess.check_output(["openssl", *flags], cwd=tmp_path)
    assert public("x509", "-in", "svid.pem", "-noout", "-pubkey") == public("pkey", "-in", "svid.key", "-pubout")
    assert (tmp_path / "svid.key").stat().st_mode & 0o777 == 0o600
    events = next(out for line, out in answers.items() if "event-stream" in line)
    assert events.startswith("event: update\nid: ") and json.loads(events.split("data: ", 1)[1].split("\n")[0])["svids"]
    validated = next(out for line, out in answers.items() if "validate" in line)
    assert json.loads(validated)["claims"]["aud"] == ["db"]
    fetched = next(out for line, out in answers.items() if "--data-urlencode" in line)
    assert json.loads(fetched)["svids"][0]["svid"].count(".") == 2


def test_wit_svids_and_refusals(shell):
    svid = json.loads(shell("$SPIFFE http://localhost/v1/wit/svids").stdout)["svids"][0]
    assert svid["spiffe_id"] == "spiffe://example.org/web" and "d" in json.loads(svid["wit_svid_key"])
    bundles = json.loads(shell("$SPIFFE http://localhost/v1/wit/bundles").stdout)["bundles"]
    [authority] = shell.server.json("bundle", "show")["wit_authorities"]
    assert bundles["spiffe://example.org"]["keys"][0]["kid"] == authority["key_id"]
    curl = "curl -s -o /dev/null -w '%{http_code}' --unix-socket $SOCKET"
    for flags, status in [
        ("http://localhost/v1/x509/svids", "400"),
        ("-H workload.spiffe.io:true http://evil.example/v1/x509/svids", "403"),
        ("-H workload.spiffe.io:true -H Origin:http://localhost http://localhost/v1/x509/svids", "403"),
        ("-H workload.spiffe.io:true http://localhost/", "404"),
        ("-H workload.spiffe.io:true -X DELETE http://localhost/v1/x509/svids", "405"),
    ]:
        assert shell(f"{curl} {flags}").stdout == status, flags
    # gRPC on the same socket is as it was.
    assert shell.agent.ids() == ["spiffe://example.org/web"]


def test_a_stream_of_events_follows_the_entry(shell):
    agent, server = shell.agent, shell.server
    command = ["curl", "-sN", "--unix-socket", str(agent.socket), "-H", "workload.spiffe.io: true",
               "-H", "accept: text/event-stream", "http://localhost/v1/x509/svids"]
    stream = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        def following(name):
            for line in stream.stdout:
                if line.strip() == f"event: {name}":
                    for line in stream.stdout:
                        if line.startswith("data: "):
                            return json.loads(line[len("data: "):])
            raise AssertionError(f"the stream ended before {name}")

        assert len(following("update")["svids"]) == 1
        server.entry("/zeta", agent.id(), f"unix:uid:{os.getuid()}")
        while len(following("update")["svids"]) < 2:
            pass
        for entry in server.json("entry", "show")["entries"]:
            server.cli("entry", "delete", "-entryID", entry["id"])
        assert following("error") == {"code": "PermissionDenied", "message": "no identity issued"}
    finally:
        stream.kill()
        stream.wait()


def test_it_is_off_unless_it_is_asked_for(pair):
    server, agent = pair()
    agent.start(server.token())
    command = ["curl", "-s", "--unix-socket", str(agent.socket), "-H", "workload.spiffe.io: true", "http://localhost/v1/x509/svids"]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode != 0


@pytest.mark.parametrize("which", ["ours", "theirs"])
def test_rate_limits_are_spires(which, pair, request):
    """One call a second for each set of selectors; the others are told so, and the agent itself is exempt."""
    bins = request.getfixturevalue("spire") if which == "theirs" else None
    server, agent = pair(server_bins=bins, agent_bins=bins)
    experimental(agent, "ratelimit { fetch_x509_svid = 1 fetch_jwt_svid = 1 }")
    agent.start(server.token())
    server.entry("/web", agent.id(), f"unix:uid:{os.getuid()}")
    wait_until(lambda: agent.ids(), "the entry", seconds=60)
    log = agent.daemon.log.read_text()
    for method in ["FetchX509SVID", "FetchJWTSVID"]:
        line = next(it for it in log.splitlines() if "Workload API/SDS rate limiting enabled" in it and method in it)
        assert "limit=1" in line and f"method=/SpiffeWorkloadAPI/{method}" in line, line
    calls = [agent.cli("api", "fetch", "x509", check=False) for _ in range(8)]
    refused = [call.stderr + call.stdout for call in calls if call.returncode]
    assert refused, "eight calls do not take eight seconds"
    text = "rpc error: code = Unavailable desc = rate limit exceeded for /SpiffeWorkloadAPI/FetchX509SVID"
    assert all(text in it for it in refused), refused
    assert all(agent.cli("healthcheck", check=False).returncode == 0 for _ in range(4)), "it may always ask itself"
