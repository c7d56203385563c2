"""kill -9, fifty times in a row, under load: nothing acknowledged is lost."""

import os
import random
import threading
import time

from harness import wait_until

ROUNDS = 50


def test_a_server_killed_fifty_times_loses_nothing_and_makes_no_second_ca(pair):
    server, agent = pair()
    agent.start(server.token())
    bundle = server.json("bundle", "show")
    random.seed(7)
    acknowledged, stop = [], threading.Event()

    def load():
        number = 0
        while not stop.is_set():
            number += 1
            try:
                acknowledged.append(server.entry(f"/load/{number}", "spiffe://example.org/parent", f"a:{number}"))
            except (AssertionError, OSError, ValueError):
                time.sleep(0.02)  # the server is down: that is the point

    workers = [threading.Thread(target=load) for _ in range(1)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(ROUNDS):
            time.sleep(random.uniform(0.02, 0.4))
            server.daemon.kill()
            server.start(wait=False)
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    server.wait()
    kept = {entry["id"] for entry in server.json("entry", "show")["entries"]}
    assert set(acknowledged) <= kept, f"lost {len(set(acknowledged) - kept)} of {len(acknowledged)}"
    assert len(acknowledged) > 20, "the load did not run"
    after = server.json("bundle", "show")
    assert after["x509_authorities"] == bundle["x509_authorities"], "a second CA was made"
    assert after["jwt_authorities"] == bundle["jwt_authorities"]
    server.entry("/after", agent.id(), f"unix:uid:{os.getuid()}")
    wait_until(lambda: "spiffe://example.org/after" in agent.ids(), "the agent after the storm")


def test_an_agent_killed_fifty_times_keeps_its_identity(pair):

    server, agent = pair()
    agent.start(server.token())
    identity = agent.id()
    server.entry("/kept", identity, f"unix:uid:{os.getuid()}", options=["-x509SVIDTTL", "20"])
    wait_until(lambda: agent.ids() == ["spiffe://example.org/kept"], "the identity")
    random.seed(11)
    for _ in range(ROUNDS):
        time.sleep(random.uniform(0.02, 0.3))
        agent.daemon.kill()
        agent.start(wait=False)
    agent.wait()
    wait_until(lambda: agent.ids() == ["spiffe://example.org/kept"], "the identity after the storm")
    assert agent.id() == identity, "it attested again"


def test_an_agent_serves_what_it_has_while_the_server_is_away(pair):

    server, agent = pair()
    agent.start(server.token())
    server.entry("/cached", agent.id(), f"unix:uid:{os.getuid()}")
    wait_until(lambda: agent.ids() == ["spiffe://example.org/cached"], "the identity")
    server.daemon.kill()
    for _ in range(5):
        assert agent.ids() == ["spiffe://example.org/cached"]
        time.sleep(0.2)
    server.start()
    entry = server.entry("/fresh", agent.id(), f"unix:uid:{os.getuid()}")
    wait_until(lambda: "spiffe://example.org/fresh" in agent.ids(), "an entry made after the outage", seconds=60)
    assert entry


def test_a_missing_database_beside_keys_is_told_loudly(pair):
    server, _ = pair()
    server.stop()
    for name in ["", "-wal", "-shm"]:
        path = server.folder / (server.database.name + name)
        if path.exists():
            path.unlink()
    server.start()
    log = (server.folder / "server.log").read_text()
    assert "level=error" in log and "database" in log.rsplit("level=error", 1)[-1], log[-2000:]
