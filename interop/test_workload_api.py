"""Four public SPIFFE libraries on our Workload API."""

import base64
import json
import subprocess
import time

import pytest
from conftest import LANGUAGES
from harness import wait_until


@pytest.mark.parametrize("language", LANGUAGES)
def test_fetches_its_x509_svid_and_bundle(language, domain, workloads):
    _, agent = domain
    answer = workloads[language].json(agent, "fetch-x509")
    assert [svid["id"] for svid in answer["svids"]] == [workloads[language].spiffe_id]
    if language != "python":  # py-spiffe drops the hint
        assert answer["svids"][0]["hint"] == language
    assert answer["bundles"] == ["example.org"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_fetches_a_jwt_svid_that_the_others_validate(language, domain, workloads):
    _, agent = domain
    answer = workloads[language].json(agent, "fetch-jwt", "audience-of-" + language)
    assert answer["id"] == workloads[language].spiffe_id
    claims = json.loads(base64.urlsafe_b64decode(answer["token"].split(".")[1] + "=="))
    assert claims["sub"] == workloads[language].spiffe_id
    assert claims["aud"] == ["audience-of-" + language]
    assert claims["exp"] > time.time()
    for other in LANGUAGES:
        checked = workloads[other].json(agent, "validate-jwt", "audience-of-" + language, answer["token"])
        assert checked["id"] == workloads[language].spiffe_id


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_jwt_svid_for_somebody_else_is_refused(language, domain, workloads):
    _, agent = domain
    token = workloads[language].json(agent, "fetch-jwt", "me")["token"]
    assert workloads[language].run(agent, "validate-jwt", "you", token, check=False).returncode != 0


@pytest.mark.parametrize("language", LANGUAGES)
def test_sees_its_svid_rotate(language, domain, workloads):
    server, agent = domain
    workload = workloads[language]
    entries = server.json("entry", "show", "-spiffeID", workload.spiffe_id)["entries"]
    entry = entries[0]
    process = subprocess.Popen(
        [*workload.command, "watch", "3"], env=workload.environment(agent), stdout=subprocess.PIPE, text=True
    )
    try:
        first = json.loads(process.stdout.readline())
        parent = f"spiffe://{entry['parent_id']['trust_domain']}{entry['parent_id']['path']}"
        server.cli(
            "entry", "update", "-entryID", entry["id"], "-parentID", parent, "-spiffeID", workload.spiffe_id,
            "-selector", f"unix:path:{workload.path}", "-hint", language, "-x509SVIDTTL", "20",
        )
        second = json.loads(process.stdout.readline())
        third = json.loads(process.stdout.readline())
    finally:
        process.kill()
    assert {first["id"], second["id"], third["id"]} == {workload.spiffe_id}
    assert len({first["serial"], second["serial"], third["serial"]}) == 3


def test_a_stranger_gets_no_identity(domain):
    _, agent = domain
    result = agent.cli("api", "fetch", "x509", check=False)
    assert result.returncode == 1
    assert "no identity issued" in result.stderr


def test_a_deleted_entry_leaves_open_streams(domain, workloads):
    server, agent = domain
    workload = workloads["go"]
    entry = server.entry("/short-lived", agent.id(), f"unix:path:{workload.path}", options=["-hint", "second"])

    def ids():
        return {svid["id"] for svid in workload.json(agent, "fetch-x509")["svids"]}

    wait_until(lambda: "spiffe://example.org/short-lived" in ids(), "the entry")
    server.cli("entry", "delete", "-entryID", entry)
    wait_until(lambda: "spiffe://example.org/short-lived" not in ids(), "the entry to go")
