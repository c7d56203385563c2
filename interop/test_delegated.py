"""The delegated identity API, called with spire-api-sdk's Go module, beside SPIRE's agent where it is there; and our
own method for many workloads on one stream.
"""

import os
import signal
import subprocess
import time

import pytest

from delegated import Holding, PROGRAM, agent_with, build, calls, copy_of_program, resident, spiffe_id, start
from harness import Agent, Server, spire_binaries, wait_until

DELEGATE = spiffe_id("/delegate")
SLEEP = os.path.realpath("/bin/sleep")


@pytest.fixture(scope="module", autouse=True)
def built():
    build()


def configuration(folder):
    return f'admin_socket_path = "{folder}/private/admin.sock"\n    authorized_delegates = ["{DELEGATE}"]'


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    """A server, an agent of each kind that there is, and what the delegate may have."""
    folder = tmp_path_factory.mktemp("delegated")
    server = Server(folder / "server").start()
    made = {"steeple": None, "spire": spire_binaries()}
    agents = {}
    for name, bins in made.items():
        if name == "spire" and bins is None:
            continue
        agents[name] = start(agent_with(folder / name, server, configuration(folder / name), bins=bins))
    delegate = server.entry("/delegate", Agent.NODE, f"unix:path:{PROGRAM}")
    # Made in the same second perhaps: then the entry's ID decides.
    server.entry("/one", Agent.NODE, "many:one", options=["-hint", "first", "-entryID", "one"])
    server.entry("/two", Agent.NODE, "many:one", options=["-hint", "first", "-entryID", "two"])
    server.entry("/admin", Agent.NODE, "many:one", options=["-admin"])
    server.entry("/downstream", Agent.NODE, "many:one", options=["-downstream"])
    server.entry("/sleeper", Agent.NODE, f"unix:path:{SLEEP}")
    stranger = copy_of_program(folder / "stranger")
    registered = copy_of_program(folder / "registered")
    server.entry("/registered", Agent.NODE, f"unix:path:{registered}")
    for agent in agents.values():
        ready(agent)
    yield server, agents, {"delegate": delegate, "stranger": stranger, "registered": registered}
    for agent in agents.values():
        agent.stop()
    server.stop()


def ready(agent):
    """Waits until the agent knows the last entry that was made."""
    with subprocess.Popen([SLEEP, "60"]) as sleeper:

        def known():
            answers = calls(["delegate", agent.admin], [{"method": "delegated.x509", "request": {"pid": sleeper.pid}}])
            return answers[0].get("messages") and answers[0]["messages"][0]["svids"]

        wait_until(known, "the delegate's entries")
        sleeper.kill()


ONE = [{"type": "many", "value": "one"}]


def requests(pid, dead):
    one, none = ONE, [{"type": "many", "value": "nothing"}]
    return [
        {"method": "delegated.x509", "request": {"selectors": one}},
        {"method": "delegated.x509", "request": {"selectors": none}},
        {"method": "delegated.x509", "request": {"pid": pid}},
        {"method": "delegated.x509", "request": {"pid": pid, "selectors": one}},
        {"method": "delegated.x509", "request": {}},
        {"method": "delegated.x509", "request": {"pid": dead}},
        {"method": "delegated.x509", "request": {"pid": -1}},
        {"method": "delegated.x509", "request": {"selectors": [{"type": "", "value": "x"}]}},
        {"method": "delegated.x509", "request": {"selectors": [{"type": "a:b", "value": "x"}]}},
        {"method": "delegated.x509", "request": {"selectors": [{"type": "a", "value": ""}]}},
        {"method": "delegated.x509", "selectors": 100_000},
        {"method": "delegated.x509", "selectors": 400_000},
        {"method": "delegated.x509_bundles"},
        {"method": "delegated.jwt_bundles"},
        {"method": "delegated.jwt", "request": {"selectors": one, "audience": ["a", "b"]}},
        {"method": "delegated.jwt", "request": {"pid": pid, "audience": ["a"]}},
        {"method": "delegated.jwt", "request": {"selectors": one}},
        {"method": "delegated.jwt", "request": {"selectors": none, "audience": ["a"]}},
        {"method": "delegated.jwt", "request": {"audience": ["a"]}},
        {"method": "delegated.jwt", "request": {"pid": dead, "audience": ["a"]}},
        {"method": "unknown"},
    ]


def test_a_delegate_gets_what_it_asks_for_and_no_more(domain, processes):
    _, agents, _ = domain
    answers = calls(["delegate", agents["steeple"].admin], requests(*processes))
    one, none, by_pid, both, neither, dead, negative, *malformed = answers[:10]
    assert [it["id"] for it in one["messages"][0]["svids"]] == sorted(
        [spiffe_id("/one"), spiffe_id("/two")], key=[it["id"] for it in one["messages"][0]["svids"]].index
    ), "neither admin nor downstream"
    assert all(it["key_fits"] and it["expires_fits"] for it in one["messages"][0]["svids"])
    assert none["messages"] == [{"svids": [], "federates_with": None}]
    assert [it["id"] for it in by_pid["messages"][0]["svids"]] == [spiffe_id("/sleeper")]
    text = "must provide either selectors or non-zero PID, but not both"
    assert both == neither == {"code": "InvalidArgument", "message": text}
    assert dead == negative == {"code": "Unavailable", "message": "workload attestation failed"}
    assert malformed == [{"code": "InvalidArgument", "message": "could not parse provided selectors"}] * 3
    many, too_many, x509_bundles, jwt_bundles, jwt = answers[10:15]
    assert many["messages"][0]["svids"] == []
    assert too_many["code"] == "ResourceExhausted"
    assert list(x509_bundles["messages"][0]) == list(jwt_bundles["messages"][0]) == ["spiffe://example.org"]
    assert {it["id"] for it in jwt["messages"][0]} == {spiffe_id("/one"), spiffe_id("/two")}
    assert all(it["claims"]["aud"] == ["a", "b"] and it["times"] for it in jwt["messages"][0])
    assert [it.get("code") for it in answers[15:]] == [
        None, "InvalidArgument", "PermissionDenied", "InvalidArgument", "Unavailable", "Unimplemented",
    ]


def test_spires_agent_answers_the_same(domain, processes):
    _, agents, _ = domain
    if "spire" not in agents:
        pytest.skip("SPIRE_BIN_DIR not set")
    ours, theirs = [calls(["delegate", agent.admin], requests(*processes)) for agent in agents.values()]
    for request, our, their in zip(requests(*processes), ours, theirs, strict=True):
        assert our == their, request


@pytest.mark.parametrize(
    "who, text", [("stranger", "no identity issued"), ("registered", "caller not configured as an authorized delegate")]
)
def test_others_are_no_delegates(domain, processes, who, text):
    _, agents, made = domain
    for agent in agents.values():
        answers = calls(["delegate", agent.admin], requests(*processes), program=made[who])
        refused = {"code": "PermissionDenied", "message": text}
        whole = [it for it in answers if it.get("code") not in ("InvalidArgument", "ResourceExhausted", "Unimplemented")]
        assert whole == [refused] * len(whole) and len(whole) > 10
    line = {"stranger": "No identity issued", "registered": "caller not configured as an authorized delegate."}[who]
    for agent in agents.values():
        assert line in agent.daemon.log.read_text()


def test_without_delegates_in_the_configuration_nobody_is_one(tmp_path, domain):
    server, _, _ = domain
    agent = start(agent_with(tmp_path / "agent", server, f'admin_socket_path = "{tmp_path}/agent/private/admin.sock"'))
    try:
        def refused():
            answer = calls(["delegate", agent.admin], [{"method": "delegated.x509", "request": {"selectors": ONE}}])[0]
            return "authorized delegate" in answer["message"] and answer

        assert wait_until(refused, "the caller's entry")["code"] == "PermissionDenied"
    finally:
        agent.daemon.kill()


@pytest.fixture
def apart(tmp_path):
    """A server and an agent of a test's own."""
    server = Server(tmp_path / "server").start()
    agent = start(agent_with(tmp_path / "agent", server, configuration(tmp_path / "agent")))
    delegate = server.entry("/delegate", Agent.NODE, f"unix:path:{PROGRAM}")
    server.entry("/sleeper", Agent.NODE, f"unix:path:{SLEEP}")
    ready(agent)
    yield server, agent, delegate
    agent.daemon.kill()
    server.daemon.kill()


def test_a_delegate_whose_entry_goes_loses_its_streams(apart):
    server, agent, delegate = apart
    streams, watch = Holding("many", agent.admin, 3), Holding("watch", agent.admin, 3)
    assert streams.opened["broken"] == 0
    server.cli("entry", "delete", "-entryID", delegate)
    ended = streams.until(lambda now: now["broken"] == 3, "the streams' end")
    assert set(ended["first_broken"]) == {"no identity issued"}
    watch.until(lambda now: now["end"] == "PermissionDenied: no identity issued", "the stream's end")
    streams.close()
    watch.close()


def test_a_process_that_was_named_keeps_its_subscription_until_it_ends(apart):
    _, agent, _ = apart
    watch = Holding("watch", agent.admin, 0)
    sleeper = subprocess.Popen([SLEEP, "300"])
    watch.ask(id=1, pid=sleeper.pid)
    watch.until(lambda now: now["identities"] == 1, "the sleeper's identity")
    watch.ask(id=1, pid=sleeper.pid)
    assert watch.until(lambda now: now["failed"], "the refusal")["failed"] == {
        "1": "6: the subscription's number is in use"
    }
    watch.ask(id=2, pid=2**31 - 1)
    watch.ask(id=3)
    watch.ask(id=4, selectors=[""])
    watch.until(lambda now: len(now["failed"]) == 4, "the other refusals")
    sleeper.kill()
    sleeper.wait()
    ended = watch.until(lambda now: now["failed"]["1"] != "6: the subscription's number is in use", "its end")
    assert ended["failed"]["1"] == "14: the process has ended"
    assert ended["failed"]["2"] == "14: workload attestation failed"
    assert ended["failed"]["3"].startswith("3: must provide either selectors")
    assert ended["failed"]["4"] == "3: could not parse provided selectors"
    assert ended["end"] == "", "the stream goes on"
    watch.close()


def test_changes_come_to_every_subscription_by_difference(apart):
    server, agent, _ = apart
    watch = Holding("watch", agent.admin, 500)
    assert watch.opened["subscriptions"] == 500
    first = server.entry("/all", Agent.NODE, "many:all")
    server.entry("/seven", Agent.NODE, "many:7")
    now = watch.until(lambda now: now["identities"] == 501, "the new identities", 60)
    assert now["upserts"] == 501, "nothing was said twice"
    watch.ask(unsubscribe=8)
    server.cli("entry", "delete", "-entryID", first)
    watch.until(lambda now: now["identities"] == 0, "the end of the identity", 60)
    watch.close()


def test_ten_thousand_subscriptions_on_one_connection(apart):
    server, agent, _ = apart
    server.entry("/all", Agent.NODE, "many:all")
    wait_until(
        lambda: calls(["delegate", agent.admin], [
            {"method": "delegated.x509", "request": {"selectors": [{"type": "many", "value": "all"}]}}
        ])[0]["messages"][0]["svids"], "the common entry",
    )
    count = 10_000
    before = resident(agent.daemon.process.pid)
    streams = Holding("many", agent.admin, count)
    with_streams = resident(agent.daemon.process.pid)
    per_stream = (with_streams - before) / count
    attested = agent.daemon.log.read_text().count("PID attested to have selectors")
    print(f"\n{count} streams: {streams.opened['milliseconds']} ms, {per_stream:.1f} KiB each, {attested} attestations")
    assert streams.opened["broken"] == 0 and streams.opened["updates"] >= count
    assert per_stream < 16
    server.entry("/more", Agent.NODE, "many:all")
    begun = time.monotonic()
    streams.until(lambda now: now["updates"] >= 2 * count, "an update on every stream", 120)
    print(f"an update on each: {(time.monotonic() - begun) * 1000:.0f} ms")
    streams.close()
    # What the streams left behind is used again.
    before = resident(agent.daemon.process.pid)
    watch = Holding("watch", agent.admin, count)
    per_subscription = max(0, resident(agent.daemon.process.pid) - before) / count
    print(f"one stream, {count} subscriptions: {watch.opened['milliseconds']} ms, {per_subscription:.1f} KiB more each")
    watch.until(lambda now: now["identities"] == 2 * count, "every identity", 60)
    assert watch.ask()["largest"] < 4 * 1024 * 1024
    watch.close()


def test_subscriptions_that_come_and_go_leave_nothing(apart):
    _, agent, _ = apart
    pid = agent.daemon.process.pid

    def files():
        return len(os.listdir(f"/proc/{pid}/fd"))

    before = files()
    for _ in range(5):
        Holding("many", agent.admin, 1000).close()
    wait_until(lambda: files() <= before + 2, "the connections' end")
    settled = resident(pid)
    for _ in range(10):
        Holding("many", agent.admin, 1000).close()
    wait_until(lambda: files() <= before + 2, "the connections' end")
    assert resident(pid) - settled < 24 * 1024, "no memory is lost per subscription"


def test_a_reader_that_stopped_holds_up_nobody(apart):
    server, agent, _ = apart
    stuck = Holding("many", agent.admin, 200)
    stuck.process.send_signal(signal.SIGSTOP)
    other = Holding("many", agent.admin, 5)
    before = resident(agent.daemon.process.pid)
    for i in range(6):
        seen = other.ask()["updates"]
        server.entry(f"/e{i}", Agent.NODE, "many:all")
        other.until(lambda now, seen=seen: now["updates"] >= seen + 5, "updates of somebody else")
    assert other.ask()["broken"] == 0
    assert resident(agent.daemon.process.pid) - before < 32 * 1024
    stuck.process.send_signal(signal.SIGCONT)
    stuck.until(lambda now: now["updates"] >= 400, "what it missed, once")
    stuck.close()
    other.close()
