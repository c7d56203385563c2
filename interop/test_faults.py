"""What a server does with a disk, a file, an address or a clock that lets it down: says so, loses nothing, goes on."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

import pytest
from harness import Agent, Server, wait_until
from test_plugins import PLUGIN, built  # noqa: F401

REALM = "spiffe://example.org"
PARENT = f"{REALM}/parent"
UID = f"unix:uid:{os.getuid()}"
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


def refuses_to_start(server, *words):
    """It ends by itself, once, with these words in its log; gives what it logged."""
    log = server.folder / "server.log"
    size = log.stat().st_size if log.exists() else 0
    server.start(wait=False)
    try:
        assert server.daemon.process.wait(timeout=30) == 1
    finally:
        server.daemon.kill()
    said = log.read_text()[size:]
    for word in words:
        assert word in said, said
    return said


def log_of(server):
    return (server.folder / "server.log").read_text()


def authorities(server):
    return [state["authority_id"] for state in server.json("localauthority", "x509", "show").values() if state]


def create(server, name, padding=""):
    """Tries to make an entry whose ID is its name."""
    return server.cli(
        "entry", "create", "-entryID", name, "-parentID", PARENT, "-spiffeID", f"{REALM}/{name}",
        "-selector", f"a:{padding}{name}", check=False,
    )


def entries(server):
    return {it["id"] for it in server.json("entry", "show")["entries"]}


def replaced(server, old, new):
    text = server.config.read_text()
    assert old in text
    server.config.write_text(text.replace(old, new))


# Addresses and sockets


def test_a_port_that_is_taken_is_named_as_spire_names_it(tmp_path):
    server = Server(tmp_path / "server")
    with socket.socket() as other:
        # Its own choice of a port, so that nobody is in the way.
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        replaced(server, f'bind_port = "{server.port}"', f'bind_port = "{port}"')
        refuses_to_start(server, "Fatal run error", f"listen tcp 127.0.0.1:{port}: bind: address already in use")
        assert not server.socket.exists()


@pytest.mark.parametrize(
    "old,new,words",
    [
        ('bind_address = "127.0.0.1"', 'bind_address = "203.0.113.9"', "cannot assign requested address"),
        ('bind_address = "127.0.0.1"', 'bind_address = "no..host"', "no..host"),
        ('bind_port = "', 'bind_port = "7', "invalid port"),
    ],
)
def test_an_address_that_cannot_be_bound_is_named(old, new, words, tmp_path):
    server = Server(tmp_path / "server")
    replaced(server, old, new)
    refuses_to_start(server, words)


def test_a_socket_path_that_cannot_be_is_named_and_what_is_there_stays(tmp_path):
    server = Server(tmp_path / "server")
    server.socket.write_text("precious")
    refuses_to_start(server, "exists and is not a socket", str(server.socket))
    assert server.socket.read_text() == "precious"
    long = tmp_path / ("x" * 120) / "server.sock"
    replaced(server, str(server.socket), str(long))
    refuses_to_start(server, "path must be shorter than SUN_LEN", str(long))


def test_a_socket_left_by_a_killed_server_is_taken_over(tmp_path, keep):
    server = keep(Server(tmp_path / "server").start())
    server.daemon.kill()
    assert server.socket.exists()
    server.start()
    assert entries(server) == set()


# Files


def test_a_key_file_of_another_server_makes_a_new_ca_and_says_which_is_gone(tmp_path, keep):
    server, other = (keep(Server(tmp_path / name).start()) for name in ["server", "other"])
    assert create(server, "kept").returncode == 0
    before, foreign = authorities(server), authorities(other)
    assert server.stop() == 0 and other.stop() == 0
    own = server.keys.read_bytes()
    server.keys.write_bytes(other.keys.read_bytes())
    server.start()
    # It never signs with a key that its journal does not know.
    [active] = authorities(server)
    assert active not in before and active not in foreign
    assert "The key manager holds CA keys, but the database knows no CA journal of theirs" in log_of(server)
    # The old root is still trusted: SVIDs under it are out there.
    assert len(server.json("bundle", "show")["x509_authorities"]) == 2
    assert entries(server) == {"kept"}
    # With its own file back it goes on where it was.
    assert server.stop() == 0
    server.keys.write_bytes(own)
    server.start()
    assert authorities(server) == before
    assert entries(server) == {"kept"}


@pytest.mark.parametrize("what", ["keys", "database"])
def test_a_folder_where_a_file_should_be_is_named(what, tmp_path):
    server = Server(tmp_path / "server")
    path = getattr(server, what)
    path.mkdir()
    refuses_to_start(server, "Fatal run error", str(path))
    assert path.is_dir()


def test_a_file_that_is_no_database_is_refused_and_stays(tmp_path):
    server = Server(tmp_path / "server")
    server.database.write_bytes(b"no database" * 1000)
    refuses_to_start(server, 'datastore-sql', "file is not a database")
    assert server.database.read_bytes() == b"no database" * 1000


def test_a_data_folder_that_cannot_be_made_is_named(tmp_path):
    server = Server(tmp_path / "server")
    (server.folder / "data").write_text("a file")
    refuses_to_start(server, "unable to create data directory", f"{server.folder}/data")


def test_a_damaged_journal_in_a_shared_database_is_named_and_stays(postgres, tmp_path, keep):
    """As in SQLite, which test_ca_faults.py has."""
    name = postgres.new_database()
    where = (postgres.database_type, postgres.connection_string(name))
    server, other = (keep(Server(tmp_path / it, database=where).start()) for it in ["server", "other"])
    [before] = authorities(server)
    assert server.stop() == 0
    rows = postgres.sql(name, "SELECT id, encode(data, 'hex') FROM ca_journals ORDER BY id").split("\n")
    row, good = rows[0].split("|")
    postgres.sql(name, f"UPDATE ca_journals SET data = '\\xffffff' WHERE id = {row}")
    refuses_to_start(server, "unable to unmarshal entries from CA journal record")
    # The other server has its own row and does not mind.
    assert create(other, "meanwhile").returncode == 0
    other.stop()
    other.start()
    postgres.sql(name, f"UPDATE ca_journals SET data = decode('{good}', 'hex') WHERE id = {row}")
    server.start()
    assert authorities(server) == [before]
    assert entries(server) == {"meanwhile"}


# Disks


@pytest.fixture
def disk(tmp_path):
    """A file system of 4 MiB; takes root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no mount here: {mounted.stderr.strip()}")

    def remount(options):
        subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)

    yield folder, remount
    subprocess.run(["umount", "-l", folder], check=False)


def fill(folder):
    """Takes what is left of the disk; gives the file."""
    path = folder / "filler"
    with open(path, "wb", buffering=0) as file:
        for size in [65536, 4096, 1]:
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass
    return path


def test_a_full_disk_fails_writes_and_nothing_else_until_there_is_room(tmp_path, disk, keep):
    folder, _ = disk
    server = keep(Server(tmp_path / "server"))
    for path in [server.database, server.keys]:
        replaced(server, str(path), str(folder / path.name))
    server.start()
    agent = keep(Agent(tmp_path / "agent", server).start(server.token()))
    server.entry("/served", agent.id(), UID, options=["-x509SVIDTTL", "20"])
    wait_until(lambda: agent.ids() == [f"{REALM}/served"], "an identity")
    made = {it for it in (f"before-{number}" for number in range(3)) if create(server, it).returncode == 0}
    assert len(made) == 3
    filler = fill(folder)
    failed = None
    for number in range(200):
        tried = create(server, f"full-{number}", "x" * 200)
        if tried.returncode:
            failed = tried.stderr + tried.stdout
            break
        made.add(f"full-{number}")
    assert failed and "full" in failed.lower(), failed
    # Reading and signing go on.
    assert made <= entries(server)
    assert agent.ids() == [f"{REALM}/served"]
    server.cli("x509", "mint", "-spiffeID", f"{REALM}/minted")
    # An authority cannot be replaced; the one that is there stays in use.
    before = authorities(server)
    assert server.cli("localauthority", "x509", "prepare", check=False).returncode == 1
    assert authorities(server)[0] == before[0]
    filler.unlink()
    wait_until(lambda: create(server, "room").returncode == 0, "room to be noticed")
    made.add("room")
    server.cli("localauthority", "x509", "prepare")
    server.daemon.kill()
    server.start()
    assert made <= entries(server), "an acknowledged entry was lost"
    assert authorities(server)[0] == before[0]


def test_a_server_on_a_full_disk_says_so_at_the_start(tmp_path, disk):
    folder, _ = disk
    server = Server(tmp_path / "server")
    for path in [server.database, server.keys]:
        replaced(server, str(path), str(folder / path.name))
    filler = fill(folder)
    refuses_to_start(server, "database or disk is full")
    filler.unlink()
    server.start()
    server.daemon.kill()


def test_a_disk_that_can_only_be_read_is_told_and_used_again_when_it_can_be_written(tmp_path, disk, keep):
    folder, remount = disk
    server = keep(Server(tmp_path / "server"))
    for path in [server.database, server.keys]:
        replaced(server, str(path), str(folder / path.name))
    server.start()
    assert create(server, "before").returncode == 0
    assert server.stop() == 0
    remount("ro")
    try:
        # SQLite's words at the start; nothing is made beside what is there.
        refuses_to_start(server, "datastore-sql")
    finally:
        remount("rw")
    server.start()
    assert entries(server) == {"before"}


def test_a_key_file_that_cannot_be_written_keeps_the_ca_that_there_is(tmp_path, disk, keep):
    folder, remount = disk
    server = keep(Server(tmp_path / "server"))
    replaced(server, str(server.keys), str(folder / "keys.json"))
    server.start()
    [before] = authorities(server)
    remount("ro")
    failed = server.cli("localauthority", "x509", "prepare", check=False)
    assert failed.returncode == 1
    assert "ead-only file system" in failed.stderr + failed.stdout, failed
    assert authorities(server) == [before]
    assert create(server, "meanwhile").returncode == 0
    server.cli("x509", "mint", "-spiffeID", f"{REALM}/minted")
    remount("rw")
    server.cli("localauthority", "x509", "prepare")
    assert len(authorities(server)) == 2


def test_a_database_that_another_program_has_locked_is_waited_for_and_then_named(tmp_path, keep):
    server = keep(Server(tmp_path / "server").start())
    lock = sqlite3.connect(server.database, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    failed = create(server, "locked")
    assert failed.returncode == 1 and "locked" in failed.stderr + failed.stdout, failed
    assert time.monotonic() - began < 28
    assert entries(server) == set()
    lock.execute("ROLLBACK")
    lock.close()
    assert create(server, "free").returncode == 0
    assert entries(server) == {"free"}


# Databases over the network


@pytest.fixture(params=["postgres", "mysql"])
def database(request):
    return request.getfixturevalue(request.param)


def cut(database, name):
    """Ends the server's connections to the database, whatever they are in the middle of."""
    if database.kind == "postgres":
        database.sql("", f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        return
    shown = database.sql("", f"SELECT id FROM information_schema.processlist WHERE db = '{name}'").split()
    for it in shown:
        try:
            database.sql("", f"KILL CONNECTION {it}")
        except RuntimeError:
            pass  # it is gone already


def half_made(database, name):
    """Entries without selectors or events: parts of a transaction."""
    return database.sql(
        name,
        "SELECT entry_id FROM registered_entries e WHERE NOT EXISTS"
        " (SELECT 1 FROM selectors s WHERE s.registered_entry_id = e.id) OR NOT EXISTS"
        " (SELECT 1 FROM registered_entries_events v WHERE v.entry_id = e.entry_id)",
    )


def test_connections_cut_in_the_midst_of_transactions_lose_nothing_acknowledged(database, tmp_path, keep):
    name = database.new_database()
    where = (database.database_type, database.connection_string(name))
    server = keep(Server(tmp_path / "server", database=where).start())
    acknowledged, refused, stop = [], [], threading.Event()

    def load(worker):
        number = 0
        while not stop.is_set():
            number += 1
            made = create(server, f"w{worker}-{number}")
            if made.returncode == 0:
                acknowledged.append(f"w{worker}-{number}")
            else:
                refused.append(made.stderr + made.stdout)

    workers = [threading.Thread(target=load, args=(it,)) for it in range(2)]
    for worker in workers:
        worker.start()
    try:
        end = time.monotonic() + 5
        while time.monotonic() < end or len(acknowledged) < 10:
            assert time.monotonic() < end + 30, refused[-3:]
            cut(database, name)
            time.sleep(0.05)
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    wait_until(lambda: create(server, "after").returncode == 0, "the server to recover", 10)
    assert server.daemon.alive()
    assert set(acknowledged) <= entries(server), "an acknowledged entry was lost"
    assert half_made(database, name) == ""
    for text in refused:
        assert text.strip() and "panicked" not in text
    # What the index learnt in all this is what is in the database.
    agent = keep(Agent(tmp_path / "agent", server).start(server.token()))
    server.entry("/served", agent.id(), UID)
    wait_until(lambda: agent.ids() == [f"{REALM}/served"], "an identity")


def threads_of(server):
    return len(os.listdir(f"/proc/{server.daemon.process.pid}/task"))


def connections_of(server):
    """Open sockets of the server."""
    folder = Path(f"/proc/{server.daemon.process.pid}/fd")
    count = 0
    for fd in folder.iterdir():
        try:
            count += os.readlink(fd).startswith("socket:")
        except OSError:
            pass
    return count


def test_a_database_that_hangs_holds_up_its_own_calls_and_nothing_else(database, tmp_path, keep):
    name = database.new_database()
    where = (database.database_type, database.connection_string(name))
    server = keep(Server(tmp_path / "server", database=where).start())
    agent = keep(Agent(tmp_path / "agent", server).start(server.token()))
    server.entry("/kept", agent.id(), UID, options=["-x509SVIDTTL", "10"])
    wait_until(lambda: agent.ids() == [f"{REALM}/kept"], "an identity")
    threads, sockets = threads_of(server), connections_of(server)
    database.pause()
    try:
        answers = []

        def ask(number):
            began = time.monotonic()
            answers.append((create(server, f"hung-{number}"), time.monotonic() - began))

        asking = [threading.Thread(target=ask, args=(it,)) for it in range(20)]
        for it in asking:
            it.start()
        # Meanwhile the agent renews by what the server has in memory.
        serial = serial_number(agent)
        wait_until(lambda: serial_number(agent) not in (None, serial), "a renewal", 25)
        for it in asking:
            it.join()
        for answer, seconds in answers:
            assert answer.returncode == 1 and seconds < 29, (answer, seconds)
            assert (answer.stderr + answer.stdout).strip()
        # The gate is closed by now: what comes later is refused at once.
        began = time.monotonic()
        assert create(server, "late").returncode == 1
        assert time.monotonic() - began < 15
        assert threads_of(server) < threads + 40, "threads pile up"
        assert connections_of(server) < sockets + 60, "connections pile up"
    finally:
        database.resume()
    wait_until(lambda: create(server, "after").returncode == 0, "the server to recover", 15)
    server.entry("/more", agent.id(), UID)
    wait_until(lambda: f"{REALM}/more" in agent.ids(), "what was made after it")


def serial_number(agent):
    folder = agent.folder / "fetched"
    folder.mkdir(exist_ok=True)
    if agent.cli("api", "fetch", "x509", "-write", folder, check=False).returncode:
        return None
    shown = subprocess.run(
        ["openssl", "x509", "-in", folder / "svid.0.pem", "-noout", "-serial"], capture_output=True, text=True
    )
    return shown.stdout


# Clocks


class Clock:
    """A clock for the programs that are started under it; it can be set."""

    def __init__(self, folder):
        self.file = folder / "clock"
        self.offset = 0
        self.set(0)

    def set(self, hours):
        self.offset = hours * 3600
        fresh = self.file.with_suffix(".new")
        fresh.write_text(f"{self.offset:+d}\n")
        fresh.rename(self.file)

    def now(self):
        return time.time() + self.offset

    def environment(self):
        return {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


@pytest.fixture
def clock(tmp_path, monkeypatch):
    if FAKETIME is None:
        pytest.skip("no libfaketime here (Debian's package faketime)")
    clock = Clock(tmp_path)
    for key, value in clock.environment().items():
        monkeypatch.setenv(key, value)
    return clock


def validity(agent):
    """From when to when the agent's caller has an identity, in the clock's seconds."""
    folder = agent.folder / "fetched"
    folder.mkdir(exist_ok=True)
    if agent.cli("api", "fetch", "x509", "-write", folder, check=False).returncode:
        return None
    shown = subprocess.run(
        ["openssl", "x509", "-in", folder / "svid.0.pem", "-noout", "-dates", "-dateopt", "iso_8601"],
        capture_output=True, text=True, check=True,
    ).stdout
    begin, end = (line.split("=")[1].rstrip("Z") for line in shown.split("\n")[:2])
    return tuple(time.mktime(time.strptime(it, "%Y-%m-%d %H:%M:%S")) - time.timezone for it in (begin, end))


def test_clocks_set_by_hours_either_way_leave_everybody_with_valid_identities(tmp_path, clock, keep):
    server = keep(Server(tmp_path / "server", ca_ttl="168h", extra='agent_ttl = "48h"').start())
    agent = keep(Agent(tmp_path / "agent", server).start(server.token()))
    server.entry("/timely", agent.id(), UID)

    def holds():
        shown = validity(agent)
        return shown and shown[0] <= clock.now() <= shown[1]

    wait_until(holds, "an identity")
    for hours in [5, 0, 11, 3]:
        clock.set(hours)
        # SVIDs of the other time are over, or not valid yet.
        wait_until(holds, f"an identity that is valid {hours} hours on", 30)
        assert server.daemon.alive() and agent.daemon.alive()
        # The server proves itself to who comes new.
        wait_until(lambda: attests_anew(tmp_path, server, keep), f"a new agent to attest {hours} hours on", 60)
        # Nothing is forgotten: all of this is within the life of the CA.
        assert len(server.json("bundle", "show")["x509_authorities"]) == 1
    assert "panicked" not in log_of(server)


def attests_anew(tmp_path, server, keep):
    number = sum(it.name.startswith("new") for it in tmp_path.iterdir())
    agent = keep(Agent(tmp_path / f"new{number}", server).start(server.token(), wait=False))
    try:
        for _ in range(100):
            if not agent.daemon.alive():
                return False
            if agent.cli("healthcheck", check=False).returncode == 0:
                return True
            time.sleep(0.1)
        return False
    finally:
        agent.daemon.kill()


def test_a_clock_set_before_the_ca_or_behind_its_end_makes_a_new_one(tmp_path, clock, keep):
    server = keep(Server(tmp_path / "server").start())
    for hours in [-6, 60]:
        clock.set(hours)
        before = authorities(server)[0]
        wait_until(lambda: authorities(server)[0] != before, f"another CA {hours} hours on", 30)
        minted = server.json("x509", "mint", "-spiffeID", f"{REALM}/minted")
        assert minted
        wait_until(lambda: attests_anew(tmp_path, server, keep), f"a new agent to attest {hours} hours on", 60)
    assert server.daemon.alive()
    # A start in yet another time finds its way too.
    server.daemon.kill()
    clock.set(1)
    server.start()
    wait_until(lambda: attests_anew(tmp_path, server, keep), "a new agent to attest", 60)
    assert "panicked" not in log_of(server)


def test_two_servers_rotate_and_prune_at_once_and_lose_no_authority_in_use(postgres, tmp_path, clock, keep, monkeypatch):
    # Timers run by this clock too, as on a machine that slept: those of both servers fall due together.
    monkeypatch.delenv("FAKETIME_DONT_FAKE_MONOTONIC")
    where = (postgres.database_type, postgres.connection_string(postgres.new_database()))
    servers = [keep(Server(tmp_path / f"server{it}", database=where).start()) for it in range(2)]
    wait_until(lambda: len(roots_and_keys(servers[0])) == 4, "both servers' authorities")
    first = roots_and_keys(servers[0])
    # The first authorities end after a day, and a day later they may go. A look that the jump of
    # the clock itself breaks off is made again after the next.
    for hours in range(7, 200, 7):
        clock.set(hours)
        for server, other in [servers, servers[::-1]]:
            wait_until(lambda: trusts_what_it_signs(other, server), f"trust between servers {hours} hours on", 60)
        if hours > 49:
            time.sleep(1)
            if pruned(servers[0], first):
                break
    else:
        raise AssertionError("what is long over was not pruned")
    lines = [line for server in servers for line in log_of(server).splitlines()]
    assert not [it for it in lines if "panicked" in it]
    # One of them did it, and the other found it done.
    assert any("Expired certificates were successfully pruned from bundle" in it for it in lines)


def pruned(server, old):
    left = roots_and_keys(server)
    return left and not old & left


def trusts_what_it_signs(server, signer):
    """Who knows the bundle of one accepts what the other signs. A lost authority never comes back."""
    active = signer.cli("localauthority", "jwt", "show", "-output", "json", check=False)
    if active.returncode:
        return False  # the clock jumped over a deadline
    key = json.loads(active.stdout)["active"]["authority_id"]
    return key in roots_and_keys(server) and is_verified(mint(signer), server)


def roots_and_keys(server):
    shown = server.cli("bundle", "show", "-output", "json", check=False)
    if shown.returncode:
        return set()
    bundle = json.loads(shown.stdout)
    return {it["asn1"] for it in bundle["x509_authorities"]} | {it["key_id"] for it in bundle["jwt_authorities"]}


def mint(server):
    folder = server.folder / "minted"
    folder.mkdir(exist_ok=True)
    minted = server.cli("x509", "mint", "-spiffeID", f"{REALM}/minted", "-write", folder, check=False)
    return None if minted.returncode else folder / "svid.pem"


def is_verified(svid, server):
    shown = server.cli("bundle", "show", check=False)
    if svid is None or shown.returncode:
        return False
    roots = server.folder / "roots.pem"
    roots.write_text(shown.stdout)
    return subprocess.run(["openssl", "verify", "-CAfile", roots, svid], capture_output=True).returncode == 0


# Plugins


def test_a_key_manager_that_begins_to_hang_holds_up_signing_alone(tmp_path, keep):
    mode = tmp_path / "mode.hcl"
    mode.write_text("")
    server = keep(Server(tmp_path / "server"))
    replaced(
        server, f'KeyManager "disk" {{ plugin_data {{ keys_path = "{server.keys}" }} }}',
        f'KeyManager "gokeys" {{\n plugin_cmd = "{PLUGIN}"\n plugin_args = ["server-keymanager"]\n'
        f' plugin_data_file = "{mode}"\n }}',
    )
    server.start()

    def become(text):
        mode.write_text(text)
        size = len(log_of(server))
        os.kill(server.daemon.process.pid, signal.SIGUSR1)
        wait_until(lambda: "Plugin reconfigured" in log_of(server)[size:], "the plugin to be told")

    become('mode = "hang"\n')
    answers = []

    def prepare():
        began = time.monotonic()
        made = subprocess.run(
            [server.bins / "spire-server", "localauthority", "x509", "prepare", "-socketPath", server.socket],
            capture_output=True, text=True, timeout=120,
        )
        answers.append((made, time.monotonic() - began))

    waiting = threading.Thread(target=prepare)
    waiting.start()
    for number in range(5):
        began = time.monotonic()
        assert create(server, f"meanwhile-{number}").returncode == 0
        assert time.monotonic() - began < 10
    waiting.join()
    [(made, seconds)] = answers
    assert made.returncode == 1 and made.stderr + made.stdout, answers
    become("")
    wait_until(
        lambda: server.cli("x509", "mint", "-spiffeID", f"{REALM}/minted", check=False).returncode == 0, "a signature"
    )
    assert len(entries(server)) == 5
