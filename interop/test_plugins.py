"""External plugins in Go, built with SPIRE's plugin SDK: every kind works, dies, hangs and lies.

The same tests run on SPIRE's own binaries when SPIRE_BIN_DIR is set.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import time

import pytest
from harness import BUILD, HERE, Agent, Server, binaries, free_port, scrape, spire_binaries, wait_until

PLUGIN = BUILD / "testplugin"
REALM = "spiffe://example.org"


@pytest.fixture(scope="session", autouse=True)
def built():
    BUILD.mkdir(exist_ok=True)
    result = subprocess.run(
        ["go", "build", "-o", str(PLUGIN), "."], cwd=HERE / "plugins", capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-4000:]


@pytest.fixture(params=["ours", "spire"])
def bins(request):
    if request.param == "ours":
        return binaries()
    if spire_binaries() is None:
        pytest.skip("SPIRE_BIN_DIR not set")
    return spire_binaries()


@pytest.fixture
def keep(tmp_path):
    """Stops what the test started, in the opposite order."""
    started = []

    def add(daemon):
        started.append(daemon)
        return daemon

    yield add
    for it in reversed(started):
        if it.daemon:
            it.daemon.kill()


def plugin(kind, name, word, data="", options="", data_file=None):
    settings = f'plugin_data_file = "{data_file}"' if data_file else f"plugin_data {{\n{data}\n}}"
    return f'{kind} "{name}" {{\n plugin_cmd = "{PLUGIN}"\n plugin_args = ["{word}"]\n {options}\n {settings}\n}}\n'


def configured(daemon, kind, text):
    """Puts a plugin in place of the harness' own of that kind."""
    lines = daemon.config.read_text().splitlines()
    kept = [line for line in lines if not line.strip().startswith(f'{kind} "')]
    at = next(i for i, line in enumerate(kept) if line.startswith("plugins {"))
    daemon.config.write_text("\n".join([*kept[: at + 1], text, *kept[at + 1 :]]) + "\n")
    return daemon


def log(daemon):
    name = "server.log" if isinstance(daemon, Server) else "agent.log"
    return (daemon.folder / name).read_text()


def lines(daemon, *parts):
    """The lines of the log that have all the parts."""
    return [line for line in log(daemon).splitlines() if all(part in line for part in parts)]


def logged(text):
    """How the server's log begins what it answers a call with."""
    return text[0].upper() + text[1:]


def children(daemon, word):
    """The plugin processes of a daemon that were started with this word."""
    found = []
    for folder in os.listdir("/proc"):
        if not folder.isdigit():
            continue
        try:
            stat = open(f"/proc/{folder}/stat").read()
            arguments = open(f"/proc/{folder}/cmdline").read().split("\0")
        except OSError:
            continue
        parent = int(stat.rsplit(")", 1)[1].split()[1])
        if parent == daemon.daemon.process.pid and arguments[1:2] == [word]:
            found.append(int(folder))
    return found


def kill(daemon, word):
    victims = children(daemon, word)
    assert len(victims) == 1, victims
    os.kill(victims[0], signal.SIGKILL)
    wait_until(lambda: not children(daemon, word), f"the end of {word}")
    wait_until(lambda: lines(daemon, "plugin process exited", "signal: killed"), "the line about its end")


def fails_to_start(folder, bins, plugins, kind=None):
    """Starts a server that must not start; gives its last words."""
    server = Server(folder, bins=bins, plugins="" if kind else plugins)
    if kind:
        configured(server, kind, plugins)
    server.start(wait=False)
    try:
        code = server.daemon.process.wait(timeout=30)
    finally:
        server.daemon.kill()
    assert code == 1, log(server)
    return log(server)


def agent_of(folder, server, bins, mode="", attestor_mode="", extra=""):
    """An agent whose node attestor and key manager are the Go plugins."""
    agent = Agent(folder, server, bins=bins)
    configured(agent, "NodeAttestor", plugin("NodeAttestor", "gotest", "agent-nodeattestor", f'payload = "node"\nmode = "{mode}"'))
    configured(agent, "WorkloadAttestor", plugin("WorkloadAttestor", "gowork", "workloadattestor", f'mode = "{attestor_mode}"') + extra)
    return agent


def test_identities_are_issued_through_plugins_of_every_kind(bins, keep, tmp_path):
    told, published, minted = tmp_path / "told", tmp_path / "published", tmp_path / "minted"
    attested = tmp_path / "attested"
    server = keep(Server(
        tmp_path / "server",
        bins=bins,
        plugins=plugin("NodeAttestor", "gotest", "server-nodeattestor", f'file = "{attested}"')
        + plugin("UpstreamAuthority", "goup", "upstreamauthority", f'file = "{minted}"')
        + plugin("CredentialComposer", "gocomp", "credentialcomposer")
        + plugin("Notifier", "gonote", "notifier", f'file = "{told}"')
        + plugin("BundlePublisher", "gopub", "bundlepublisher", f'file = "{published}"'),
    ))
    configured(server, "KeyManager", plugin("KeyManager", "gokeys", "server-keymanager"))
    server.start()
    agent = keep(agent_of(tmp_path / "agent", server, bins))
    configured(agent, "KeyManager", plugin("KeyManager", "gokeys", "agent-keymanager"))
    agent.start()

    # The node, by challenge and response; what the judge was told beside the evidence.
    assert agent.id() == f"{REALM}/spire/agent/gotest/node"
    assert attested.read_text().splitlines() == ["attest node known=false host=127.0.0.1 ip=127.0.0.1"]
    node = server.json("agent", "show", "-spiffeID", agent.id())
    assert sorted((it["type"], it["value"]) for it in node["selectors"]) == [("gotest", "known:false"), ("gotest", "name:node")]
    assert node["can_reattest"]

    # A workload, by the attestor's selectors, with the composer's mark and the upstream's root.
    server.entry("/composed", agent.id(), "gowork:go:yes")
    wait_until(lambda: agent.ids() == [f"{REALM}/composed"], "the identity")
    agent.cli("api", "fetch", "x509", "-write", tmp_path)
    text = subprocess.run(["openssl", "x509", "-in", tmp_path / "svid.0.pem", "-noout", "-subject"], capture_output=True, text=True).stdout
    assert f"OU = {REALM}/composed" in text, text
    chain = (tmp_path / "svid.0.pem").read_text()
    assert chain.count("BEGIN CERTIFICATE") == 2, "the server's CA comes with the SVID"
    (tmp_path / "ca.pem").write_text(chain[chain.rindex("-----BEGIN CERTIFICATE") :])
    verified = subprocess.run(
        ["openssl", "verify", "-CAfile", tmp_path / "bundle.0.pem", "-untrusted", tmp_path / "ca.pem", tmp_path / "svid.0.pem"],
        capture_output=True, text=True,
    )
    assert verified.returncode == 0, verified.stderr
    subject = subprocess.run(["openssl", "x509", "-in", tmp_path / "ca.pem", "-noout", "-subject"], capture_output=True, text=True)
    assert "OU = composed" in subject.stdout

    token = json.loads(agent.cli("api", "fetch", "jwt", "-audience", "a", "-output", "json").stdout)[0]["svids"][0]["svid"]
    claims = json.loads(__import__("base64").urlsafe_b64decode(token.split(".")[1] + "=="))
    assert (claims["composed_for"], claims["answer"]) == (f"{REALM}/composed", 42)

    # Whom the server tells, and what it offers back.
    assert told.read_text().splitlines()[0] == f"loaded example.org x509=1 identity={REALM}/spire/server"
    wait_until(lambda: published.exists() and published.read_text(), "the published bundle")
    assert re.match(r"published example.org x509=1 jwt=\d", published.read_text())
    assert minted.read_text().splitlines()[0] == f"mint [{REALM}]"
    assert any(line.startswith("publish ") for line in minted.read_text().splitlines())

    # The plugins' own lines are in the log, and all end with their host.
    line = lines(server, "Test plugin configured", "plugin_name=gokeys")[0]
    for field in ["level=info", "external=true", "plugin_type=KeyManager", "subsystem_name=gokeys.testplugin", "size="]:
        assert field in line, line
    for name in ["gokeys", "gotest", "goup", "gocomp", "gonote", "gopub"]:
        assert lines(server, "Plugin loaded", f"plugin_name={name}", "external=true")
        assert lines(server, "Plugin checksum not configured", f"plugin_name={name}", "level=warning")
    pids = [pid for word in ["server-keymanager", "notifier", "upstreamauthority"] for pid in children(server, word)]
    assert len(pids) == 3
    assert agent.stop() == 0
    assert server.stop() == 0
    assert len(lines(server, "Plugin unloaded", "external=true")) == 6
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_an_agent_attests_again_by_its_plugin(bins, keep, tmp_path):
    server = keep(Server(tmp_path / "server", bins=bins, plugins=plugin("NodeAttestor", "gotest", "server-nodeattestor")).start())
    agent = keep(agent_of(tmp_path / "agent", server, bins).start())
    agent.stop()
    for file in (tmp_path / "agent" / "data").iterdir():
        file.unlink()
    agent.start()
    node = server.json("agent", "show", "-spiffeID", agent.id())
    assert ("gotest", "known:true") in [(it["type"], it["value"]) for it in node["selectors"]]


def test_a_killed_key_manager_is_reported_and_the_server_goes_on(bins, keep, tmp_path):
    server = keep(Server(tmp_path / "server", bins=bins))
    configured(server, "KeyManager", plugin("KeyManager", "gokeys", "server-keymanager")).start()
    mint = ["x509", "mint", "-spiffeID", f"{REALM}/x"]
    assert server.cli(*mint).returncode == 0
    kill(server, "server-keymanager")
    failed = server.cli(*mint, check=False)
    assert failed.returncode == 1
    assert (
        'failed to sign X509 SVID: rpc error: code = Unavailable desc = keymanager(gokeys): connection error: desc = '
        '"transport: error while dialing: dial unix /tmp/plugin' in failed.stderr
    ), failed.stderr
    assert server.cli("healthcheck").returncode == 0
    assert server.entry("/still", f"{REALM}/parent", "unix:uid:1")
    assert server.stop() == 0
    assert lines(server, "Failed to deinitialize plugin", "gokeys")


def test_killed_attestors_fail_their_calls_and_nothing_else(bins, keep, tmp_path):
    server = keep(Server(tmp_path / "server", bins=bins, plugins=plugin("NodeAttestor", "gotest", "server-nodeattestor")).start())
    agent = keep(agent_of(tmp_path / "agent", server, bins, extra='WorkloadAttestor "unix" { plugin_data {} }\n').start())
    server.entry("/byuid", agent.id(), f"unix:uid:{os.getuid()}")
    server.entry("/bygo", agent.id(), "gowork:go:yes")
    wait_until(lambda: agent.ids() == [f"{REALM}/bygo", f"{REALM}/byuid"], "both identities")
    kill(agent, "workloadattestor")
    wait_until(lambda: agent.ids() == [f"{REALM}/byuid"], "what the other attestor finds")
    assert lines(agent, "workloadattestor(gowork): connection error")
    kill(server, "server-nodeattestor")
    agent.stop()
    for file in (tmp_path / "agent" / "data").iterdir():
        file.unlink()
    agent.start(wait=False)
    wait_until(lambda: lines(server, logged("nodeattestor(gotest): connection error")), "the refusal")
    assert server.cli("healthcheck").returncode == 0


@pytest.mark.parametrize("mode,expected", [
    ("no id", "nodeattestor(gotest): plugin response missing agent ID"),
    ("no sense", "invalid agent ID"),
    ("server id", "agent ID cannot collide with the server ID"),
    ("close", "nodeattestor(gotest): plugin closed stream unexpectedly"),
    ("empty", "nodeattestor(gotest): plugin response missing challenge or agent attributes"),
    ("fail", "nodeattestor(gotest): told to fail"),
])
def test_a_lying_judge_gets_no_agent_in(mode, expected, bins, keep, tmp_path):
    server = keep(Server(tmp_path / "server", bins=bins, plugins=plugin("NodeAttestor", "gotest", "server-nodeattestor", f'mode = "{mode}"')).start())
    agent = keep(agent_of(tmp_path / "agent", server, bins).start(wait=False))
    wait_until(lambda: lines(server, "level=error", logged(expected)), expected)
    wait_until(lambda: lines(agent, expected), "the agent's line")
    assert server.json("agent", "list")["agents"] == []


def test_an_agent_id_outside_the_attestors_own_is_warned_of(bins, keep, tmp_path):
    server = keep(Server(tmp_path / "server", bins=bins, plugins=plugin("NodeAttestor", "gotest", "server-nodeattestor", 'mode = "foreign id"')).start())
    keep(agent_of(tmp_path / "agent", server, bins).start(wait=False))
    wait_until(lambda: lines(server, "The node attestor produced an invalid agent ID"), "the warning")
    wait_until(lambda: lines(server, "level=error", "elsewhere.test"), "the refusal to sign")
    assert server.json("agent", "list")["agents"] == []


@pytest.mark.parametrize("mode,path", [("workload id", "/boss"), ("others id", "/spire/agent/join_token/x")])
def test_no_agent_gets_the_id_of_a_workload_or_of_another_attestor(mode, path, keep, tmp_path):
    """Ours alone: SPIRE warns and issues it."""
    server = keep(Server(tmp_path / "server", plugins=plugin("NodeAttestor", "gotest", "server-nodeattestor", f'mode = "{mode}"')).start())
    keep(agent_of(tmp_path / "agent", server, binaries()).start(wait=False))
    wait_until(lambda: lines(server, "level=error", f'Agent ID \\"spiffe://example.org{path}\\" is not the node attestor\'s to give'), "the refusal")
    assert server.json("agent", "list")["agents"] == []


@pytest.mark.parametrize("mode,expected", [
    ("forwards", "that is not backwards"),
    ("close", "nodeattestor(gotest): plugin closed stream before returning attestation data"),
    ("empty", "nodeattestor(gotest): plugin response missing attestation payload"),
    ("fail", "nodeattestor(gotest): told to fail"),
])
def test_evidence_that_is_none_gets_no_agent_in(mode, expected, bins, keep, tmp_path):
    server = keep(Server(tmp_path / "server", bins=bins, plugins=plugin("NodeAttestor", "gotest", "server-nodeattestor")).start())
    agent = keep(agent_of(tmp_path / "agent", server, bins, mode=mode).start(wait=False))
    wait_until(lambda: lines(agent, expected), expected)
    assert server.json("agent", "list")["agents"] == []


@pytest.mark.parametrize("mode,expected", [
    ("other id", 'plugin response has unexpected key id \\"another\\" for key'),
    ("no key", "plugin response missing public key PKIX data for key"),
    ("no sense", "unable to parse public key PKIX data for key"),
    ("empty", "plugin response empty for key"),
    ("no signature", "plugin returned empty signature data"),
    ("other fingerprint", "does not match"),
    ("fail", "keymanager(gokeys): told to fail"),
])
def test_a_lying_key_manager_signs_nothing(mode, expected, bins, tmp_path):
    text = fails_to_start(tmp_path / "server", bins, plugin("KeyManager", "gokeys", "server-keymanager", f'mode = "{mode}"'), kind="KeyManager")
    assert expected in text, text


@pytest.mark.parametrize("mode,expected", [
    ("no chain", "upstreamauthority(goup): plugin response missing X.509 CA chain"),
    ("no roots", "upstreamauthority(goup): plugin response missing upstream X.509 roots"),
    ("no sense", "upstreamauthority(goup): plugin response has malformed X.509 CA chain: "),
    ("close", "upstreamauthority(goup): plugin closed stream unexpectedly"),
    ("fail", "upstreamauthority(goup): told to fail"),
])
def test_a_lying_upstream_authority_makes_no_ca(mode, expected, bins, tmp_path):
    text = fails_to_start(tmp_path / "server", bins, plugin("UpstreamAuthority", "goup", "upstreamauthority", f'mode = "{mode}"'))
    assert expected in text, text


def test_what_the_upstream_adds_comes_into_the_bundle(bins, keep, tmp_path):
    server = keep(Server(tmp_path / "server", bins=bins, plugins=plugin("UpstreamAuthority", "goup", "upstreamauthority", 'mode = "grow"')).start())
    wait_until(lambda: len(server.json("bundle", "show")["x509_authorities"]) == 2, "the second root")


@pytest.mark.parametrize("word,options,data,expected", [
    ("quits", "", "", "failed to launch plugin: "),
    ("chatty", "", "", "failed to launch plugin: Unrecognized remote plugin message: hello, I am no plugin"),
    ("notifier", 'plugin_checksum = "zz"', "", 'failed to load plugin "gonote": checksum is not a valid hex string'),
    ("notifier", 'plugin_checksum = "abcd"', "", 'failed to load plugin "gonote": expected checksum of length 64; got 4'),
    ("notifier", f'plugin_checksum = "{"0" * 64}"', "", "failed to launch plugin: checksums did not match"),
    ("notifier", "", 'refuse = "not like this"', 'failed to configure plugin "gonote": rpc error: code = InvalidArgument desc = not like this'),
    ("notifier", "", 'mode = "advise against"', "notifier(gonote): better not"),
    ("notifier", "", "exit = true", 'failed to configure plugin "gonote": rpc error: code = Unavailable desc = error reading from server: EOF'),
    ("bare-notifier", "", 'mode = "x"', 'failed to configure plugin "gonote": no supported configuration interface found'),
])
def test_a_plugin_that_cannot_be_used_stops_the_server_and_is_named(word, options, data, expected, bins, tmp_path):
    text = fails_to_start(tmp_path / "server", bins, plugin("Notifier", "gonote", word, data, options))
    assert expected.replace('"', '\\"') in text, text


def test_a_missing_program_is_named(bins, tmp_path):
    text = fails_to_start(tmp_path / "server", bins, 'Notifier "gonote" { plugin_cmd = "/nope/plugin" }')
    assert "fork/exec /nope/plugin: no such file or directory" in text, text


def test_the_wrong_side_of_a_kind_is_refused(bins, tmp_path):
    text = fails_to_start(tmp_path / "server", bins, plugin("NodeAttestor", "x", "agent-nodeattestor"))
    assert 'failed to bind plugin \\"x\\": no supported plugin interface found in: [' in text, text


def test_with_its_checksum_a_plugin_is_started_and_not_warned_of(bins, keep, tmp_path):
    digest = hashlib.sha256(PLUGIN.read_bytes()).hexdigest()
    server = keep(Server(tmp_path / "server", bins=bins, plugins=plugin("Notifier", "gonote", "notifier", options=f'plugin_checksum = "{digest}"')).start())
    assert not lines(server, "Plugin checksum not configured")
    assert lines(server, "Plugin loaded", "gonote")


def test_what_is_disabled_is_not_started(bins, keep, tmp_path):
    server = keep(Server(tmp_path / "server", bins=bins, plugins='Notifier "gone" { plugin_cmd = "/nope" enabled = false }').start())
    assert lines(server, "Not loading plugin; disabled", "plugin_name=gone")


def test_a_plugin_is_configured_anew_when_its_file_changes(bins, keep, tmp_path):
    data = tmp_path / "data.hcl"
    data.write_text('mode = "one"\n')
    server = keep(Server(tmp_path / "server", bins=bins, plugins=plugin("Notifier", "gonote", "notifier", data_file=data)).start())
    hash_of = lambda: hashlib.sha512(data.read_bytes()).hexdigest()[:32]
    first = hash_of()
    assert lines(server, "Configured plugin", "gonote", "reconfigurable=true", f"hash={first}")
    again = lambda: os.kill(server.daemon.process.pid, signal.SIGUSR1)
    again()
    wait_until(lambda: lines(server, "Plugin not reconfigured since the config is unchanged", f"hash={first}"), "no change")
    data.write_text('mode = "two"\n')
    again()
    wait_until(lambda: lines(server, "Plugin reconfigured", f"old_hash={first}", f"new_hash={hash_of()}"), "the change")
    assert lines(server, "Test plugin configured", "mode=two")
    data.write_text('refuse = "no more"\n')
    again()
    wait_until(lambda: lines(server, "Failed to reconfigure plugin", "no more", "gonote"), "the refusal")
    data.unlink()
    again()
    wait_until(lambda: lines(server, "Failed to reconfigure plugin", "failed to load plugin data: open"), "the lost file")
    assert len(lines(server, "Reconfigure signal received")) == 4
    assert server.cli("healthcheck").returncode == 0


def test_validate_asks_the_plugin(bins, tmp_path):
    def validate(data, word="notifier"):
        server = Server(tmp_path / "server", bins=bins, plugins=plugin("Notifier", "gonote", word, data))
        return subprocess.run([bins / "spire-server", "validate", "-config", server.config], capture_output=True, text=True, timeout=60)

    fine = validate("")
    assert fine.returncode == 0, fine.stderr
    assert "SPIRE server configuration file is valid." in fine.stdout
    noted = validate('note = "that is odd"')
    assert noted.returncode == 1
    assert 'Validation errors:\n\tNotifier "gonote":\n\t\tthat is odd\n' in noted.stderr
    broken = validate("", word="quits")
    assert broken.returncode == 1
    assert 'Could not validate configuration file: failed to load plugin "gonote": failed to launch plugin: ' in broken.stderr


def test_a_plugin_does_not_outlive_a_killed_server(bins, keep, tmp_path):
    server = keep(Server(tmp_path / "server", bins=bins, plugins=plugin("Notifier", "gonote", "notifier")).start())
    pids = children(server, "notifier")
    assert len(pids) == 1
    server.daemon.kill()
    wait_until(lambda: not os.path.exists(f"/proc/{pids[0]}"), "the end of the plugin")


def test_a_hanging_plugin_holds_up_nobody_else(keep, tmp_path):
    """Ours alone: SPIRE sets no deadline here."""
    server = keep(Server(
        tmp_path / "server",
        plugins=plugin("NodeAttestor", "gotest", "server-nodeattestor", 'mode = "hang"') + plugin("Notifier", "gonote", "notifier", 'mode = "hang"'),
    ).start())
    keep(agent_of(tmp_path / "agent", server, binaries()).start(wait=False))
    time.sleep(1)
    other = keep(Agent(tmp_path / "other", server).start(server.token()))
    server.entry("/quick", other.id(), f"unix:uid:{os.getuid()}")
    wait_until(lambda: other.ids() == [f"{REALM}/quick"], "the identity")
    before = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - before < 20


def test_a_server_that_waits_for_a_plugin_can_be_stopped(keep, tmp_path):
    """Ours alone: SPIRE waits for ever."""
    for word, data in [("silent", ""), ("notifier", 'mode = "hang configure"')]:
        server = keep(Server(tmp_path / word, plugins=plugin("Notifier", "gonote", word, data)).start(wait=False))
        wait_until(lambda: children(server, word), "the plugin")
        assert server.stop() == 0
        assert not children(server, word)


@pytest.mark.parametrize("mode,expected", [("other kind", "plugin made a key of kind"), ("other signature", "did not make")])
def test_keys_and_signatures_are_checked(mode, expected, tmp_path):
    """Ours alone: SPIRE believes its key manager."""
    text = fails_to_start(tmp_path / "server", None, plugin("KeyManager", "gokeys", "server-keymanager", f'mode = "{mode}"'), kind="KeyManager")
    assert expected in text, text


@pytest.mark.parametrize("mode,expected", [("many", "at most 2000 are taken"), ("long", "at most 4096 are taken"), ("endless", "node attestor asks without end")])
def test_selectors_and_challenges_are_limited(mode, expected, keep, tmp_path):
    """Ours alone: SPIRE takes any number."""
    server = keep(Server(tmp_path / "server", plugins=plugin("NodeAttestor", "gotest", "server-nodeattestor", f'mode = "{mode}"')).start())
    keep(agent_of(tmp_path / "agent", server, binaries()).start(wait=False))
    wait_until(lambda: lines(server, logged(expected)) or lines(server, expected), expected)


def test_a_workload_attestor_that_knows_references_only_is_asked_that_way(bins, keep, tmp_path):
    server = keep(Server(tmp_path / "server", bins=bins, plugins=plugin("NodeAttestor", "gotest", "server-nodeattestor")).start())
    agent = keep(agent_of(tmp_path / "agent", server, bins, attestor_mode="references").start())
    server.entry("/bygo", agent.id(), "gowork:go:yes")
    wait_until(lambda: agent.ids() == [f"{REALM}/bygo"], "the identity")


def test_plugins_metrics_are_among_the_hosts(bins, keep, tmp_path):
    port = free_port()
    server = keep(Server(
        tmp_path / "server", bins=bins,
        plugins=plugin("Notifier", "gonote", "notifier", f'file = "{tmp_path}/told"'),
        blocks=f'telemetry {{ Prometheus {{ host = "127.0.0.1" port = {port} }} }}',
    ).start())
    fetch = lambda: scrape(port)
    wait_until(lambda: re.search(r"^\w*testplugin_loaded(\{.*\})? 1$", fetch(), re.M), "the plugin's counter")


@pytest.fixture(scope="session")
def rust_plugin():
    """The example of the Rust SDK."""
    root = HERE.parent
    command = ["cargo", "build", "--quiet", "--locked", "-p", "steeple-plugin-sdk", "--example", "workload_attestor"]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    return root / "target" / "debug" / "examples" / "workload_attestor"


def test_a_plugin_written_in_rust_attests_for_either_agent(bins, keep, tmp_path, rust_plugin):
    server = keep(Server(tmp_path / "server", bins=bins).start())
    agent = keep(Agent(tmp_path / "agent", server, bins=bins))
    digest = hashlib.sha256(rust_plugin.read_bytes()).hexdigest()
    configured(agent, "WorkloadAttestor", f"""WorkloadAttestor "environment" {{
        plugin_cmd = "{rust_plugin}"
        plugin_checksum = "{digest}"
        plugin_data {{ variables = ["STEEPLE_STAGE"] }}
    }}""")
    agent.start(server.token())
    server.entry("/staged", agent.id(), "environment:STEEPLE_STAGE=test")
    ask = [str(agent.bins / "spire-agent"), "api", "fetch", "x509", "-socketPath", str(agent.socket), "-output", "json"]
    staged = lambda stage: subprocess.run(ask, env={**os.environ, "STEEPLE_STAGE": stage}, capture_output=True, text=True)
    wait_until(lambda: staged("test").returncode == 0, "the identity")
    assert json.loads(staged("test").stdout)["svids"][0]["spiffe_id"] == f"{REALM}/staged"
    assert staged("other").returncode != 0
    assert lines(agent, "Variables are attested", "level=info", "plugin_name=environment", "variables=1", "subsystem_name=environment.workload_attestor")
    assert agent.stop() == 0
    assert lines(agent, "Plugin unloaded", "plugin_name=environment")
    assert not lines(agent, "plugin failed to exit gracefully")


def test_a_built_in_plugin_is_configured_anew_too(bins, keep, tmp_path):
    data = tmp_path / "keys.hcl"
    data.write_text(f'keys_path = "{tmp_path}/one.json"\n')
    server = keep(Server(tmp_path / "server", bins=bins))
    configured(server, "KeyManager", f'KeyManager "disk" {{ plugin_data_file = "{data}" }}\n').start()
    before = hashlib.sha512(data.read_bytes()).hexdigest()[:32]
    assert lines(server, "Configured plugin", "plugin_name=disk", "external=false", "reconfigurable=true", f"hash={before}")
    data.write_text(f'keys_path = "{tmp_path}/one.json"\n# the same, said otherwise\n')
    os.kill(server.daemon.process.pid, signal.SIGUSR1)
    wait_until(lambda: lines(server, "Plugin reconfigured", "plugin_name=disk", f"old_hash={before}"), "the change")
    assert server.cli("x509", "mint", "-spiffeID", f"{REALM}/x").returncode == 0
    data.write_text("keys_path = [\n")
    os.kill(server.daemon.process.pid, signal.SIGUSR1)
    wait_until(lambda: lines(server, "Failed to reconfigure plugin", "plugin_name=disk"), "the refusal")
    assert server.cli("x509", "mint", "-spiffeID", f"{REALM}/x").returncode == 0
