"""Metrics as other people's programs see them: a real Prometheus, and small receivers of the test's own."""

import contextlib
import gzip
import http.server
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

from harness import HERE, Agent, Server, free_port, scrape, wait_until

DASHBOARDS = HERE.parent / "conf" / "grafana"


def get(url, context=None, headers=None):
    request = urllib.request.Request(url, headers=headers or {})
    with urllib.request.urlopen(request, timeout=20, context=context) as answer:
        return answer.headers, answer.read()


class Receiver:
    """Datagrams on a port that is kept from the beginning."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.received = []
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                self.received.append(self.socket.recv(65535))
            except OSError:
                return

    def lines(self):
        return b"".join(self.received).decode(errors="replace").splitlines()

    def close(self):
        self.socket.close()


class Collector:
    """Takes OTLP over HTTP and keeps the bodies by path."""

    def __init__(self):
        bodies = self.bodies = {}
        headers = self.headers = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                headers.append(dict(self.headers))
                bodies.setdefault(self.path, []).append(body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def all(self, path):
        return b"".join(self.bodies.get(path, []))

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A server and an agent with every sink, a workload's calls, and what was received."""
    folder = tmp_path_factory.mktemp("telemetry")
    statsd, dogstatsd, m3, collector = Receiver(), Receiver(), Receiver(), Collector()
    server_port, agent_port, health = free_port(), free_port(), free_port()
    blocks = f"""telemetry {{
        Prometheus {{ port = {server_port} }}
        Statsd = [{{ address = "127.0.0.1:{statsd.port}" }}]
        DogStatsd = [{{ address = "127.0.0.1:{dogstatsd.port}" }}]
        M3 = [{{ address = "127.0.0.1:{m3.port}" env = "test" }}]
        InMem {{}}
        Otlp {{ endpoint = "http://127.0.0.1:{collector.port}" interval = "1s" traces = true
                headers {{ authorization = "Bearer test" }} }}
        EnableTrustDomainLabel = true
    }}
    health_checks {{ listener_enabled = true bind_port = "{health}" }}"""
    with contextlib.ExitStack() as stack:
        for sink in (statsd, dogstatsd, m3, collector):
            stack.callback(sink.close)
        server = Server(folder / "server", blocks=blocks).start(wait=False)
        stack.callback(server.daemon.kill)
        server.wait()
        agent = Agent(folder / "agent", server)
        text = agent.config.read_text()
        agent.config.write_text(text + f"\ntelemetry {{ Prometheus {{ port = {agent_port} }} }}\n")
        agent.start(server.token(), wait=False)
        stack.callback(agent.daemon.kill)
        agent.wait()
        server.entry("/workload", agent.id(), f"unix:uid:{os.getuid()}")
        server.cli("entry", "show", "-entryID", "nope", check=False)
        server.cli("jwt", "mint", "-spiffeID", "spiffe://example.org/x", "-audience", "a")
        fetch = lambda: agent.cli("api", "fetch", "x509", check=False).returncode == 0  # noqa: E731
        wait_until(fetch, "an identity of the workload")
        yield {
            "server": server, "agent": agent, "server_port": server_port, "agent_port": agent_port,
            "health": health, "statsd": statsd, "dogstatsd": dogstatsd, "m3": m3, "collector": collector,
        }


@pytest.fixture(scope="module")
def prometheus(measured, tmp_path_factory):
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("skipped: prometheus is not installed")
    folder = tmp_path_factory.mktemp("prometheus")
    config = folder / "prometheus.yml"
    config.write_text(f"""global: {{ scrape_interval: 1s }}
scrape_configs:
  - job_name: server
    static_configs: [{{ targets: ["localhost:{measured['server_port']}"] }}]
  - job_name: agent
    static_configs: [{{ targets: ["localhost:{measured['agent_port']}"] }}]
""")
    port = free_port()
    arguments = [binary, f"--config.file={config}", f"--storage.tsdb.path={folder}/data",
                 f"--web.listen-address=127.0.0.1:{port}"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log)
    base = f"http://127.0.0.1:{port}/api/v1"

    def query(path, **parameters):
        url = f"{base}/{path}?{urllib.parse.urlencode(parameters)}"
        return json.loads(get(url)[1])["data"]

    def targets_up():
        try:
            targets = query("targets")["activeTargets"]
        except (urllib.error.URLError, ConnectionError):
            return False
        return len(targets) == 2 and all(target["health"] == "up" for target in targets)

    try:
        wait_until(targets_up, f"Prometheus to scrape both; see {folder}/log", 60)
        yield query
    finally:
        process.kill()
        process.wait()


def metrics_in(expression):
    names = re.findall(r"[a-z_][a-z0-9_]*", re.sub(r"\{[^}]*\}|\[[^]]*\]|by \([^)]*\)", " ", expression))
    return {name for name in names if name.startswith(("spire_", "process_"))}


@pytest.mark.parametrize("program", ["server", "agent"])
def test_every_expression_of_the_dashboards_is_answered_by_prometheus(prometheus, program):
    dashboard = json.loads((DASHBOARDS / f"{program}.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(expressions) > 12
    for expression in expressions:
        names = metrics_in(expression)
        assert names, expression
        for name in names:
            found = lambda name=name: prometheus("query", query=f'count({name}{{job="{program}"}})')["result"]  # noqa: E731
            assert wait_until(found, f"{name} in Prometheus"), name
        # The expression itself is one that Prometheus understands.
        prometheus("query", query=expression.replace("$host", ".*"))


def test_types_and_help_are_those_that_spires_dashboards_expect(prometheus):
    metadata = prometheus("metadata")
    for name, kind in {
        "spire_server_started": "gauge",
        "spire_server_rpc_entry_v1_entry_get_entry": "counter",
        "spire_server_rpc_entry_v1_entry_get_entry_elapsed_time": "summary",
        "spire_server_datastore_bundle_append": "counter",
        "spire_server_ca_manager_x509_ca_prepare_elapsed_time": "summary",
        "spire_agent_workload_api_discovered_selectors": "summary",
        "spire_agent_node_attestor_new_svid": "counter",
    }.items():
        assert [entry["type"] for entry in metadata[name]] == [kind], name
        assert metadata[name][0]["help"] == name


def test_labels_are_those_of_spire(measured):
    text = scrape(measured["server_port"])
    host = socket.gethostname()
    line = f'spire_server_rpc_entry_v1_entry_get_entry{{host="{host}",status="NotFound",trust_domain="example_org"}} '
    assert line in text
    started = re.search(r"^spire_server_started\{(.*)\} 1$", text, re.M).group(1)
    assert 'trust_domain_id="example_org"' in started and 'version="1_15_0_steeple_0_1_0"' in started
    compressed = get(f"http://localhost:{measured['server_port']}/any/path", headers={"accept-encoding": "gzip"})
    assert compressed[0]["content-encoding"] == "gzip" and b"# TYPE" in gzip.decompress(compressed[1])


def test_statsd_and_dogstatsd_get_the_same_in_their_own_words(measured):
    host = socket.gethostname()
    wanted = f"spire_server.rpc.entry.v1.entry.get_entry.NotFound.example_org.{host}:1.000000|c"
    received(measured, "statsd", wanted)
    wanted = f"spire_server.rpc.entry.v1.entry.get_entry:1|c|#status:NotFound,trust_domain:example_org,host:{host}"
    received(measured, "dogstatsd", wanted)


def received(measured, sink, wanted):
    """Waits for a line; a datagram may be lost, so what it tells of is done again."""

    def seen():
        if wanted in measured[sink].lines():
            return True
        measured["server"].cli("entry", "show", "-entryID", "nope", check=False)
        time.sleep(0.3)

    wait_until(seen, wanted)


def test_m3_gets_thrift(measured):
    def parts():
        return b"".join(measured["m3"].received)

    wait_until(lambda: b"rpc_entry_v1_entry_get_entry" in parts(), "the metric at M3")
    assert all(packet.startswith(b"\x82\x81") and b"emitMetricBatchV2" in packet[:32]
               for packet in measured["m3"].received)
    assert b"\x18\x03env\x18\x04test" in parts() and b"\x18\x08bucketid" in parts()


def test_a_collector_gets_metrics_and_spans(measured):
    collector = measured["collector"]
    wait_until(lambda: b"spire_server.rpc.entry.v1.entry.get_entry" in collector.all("/v1/metrics"), "metrics by OTLP")
    spans = lambda: collector.all("/v1/traces")  # noqa: E731
    wait_until(lambda: b"rpc.entry.v1.entry.get_entry" in spans(), "a span of the call")
    wait_until(lambda: b"datastore.registration_entry.fetch" in spans(), "its child")
    assert all(headers["authorization"] == "Bearer test" for headers in collector.headers)
    assert "Bearer test" not in measured["server"].daemon.log.read_text()


def test_sigusr1_dumps_what_is_in_memory(measured):
    server = measured["server"]
    server.daemon.process.send_signal(signal.SIGUSR1)
    line = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0000 UTC\]\[C\] 'spire_server\.rpc\.entry\.v1\.entry\.get_entry\."
                      r"NotFound\.example_org\.[^']*': Count: \d+ Sum: \d+\.000 LastUpdated: ")
    wait_until(lambda: line.search(server.daemon.log.read_text()), "the dump in the log")
    assert server.daemon.alive()


def test_health_is_told_as_spire_tells_it(measured):
    base = f"http://localhost:{measured['health']}"
    wait_until(lambda: status_of(f"{base}/ready") == 200, "the server to be ready")
    headers, body = get(f"{base}/live")
    assert headers["content-type"] == "application/json"
    assert body == b'{"catalog.datastore":{},"server":{},"server.ca":{},"server.ca.rotator":{}}\n'
    assert status_of(f"{base}/nowhere") == 404


def status_of(url):
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except (urllib.error.URLError, ConnectionError):
        return None


def test_the_exporter_speaks_tls_with_the_own_svid_and_knows_its_scrapers(tmp_path):
    port = free_port()
    blocks = f"""telemetry {{ Prometheus {{ port = {port} tls {{
        use_spire_svid = true authorized_spiffe_ids = ["spiffe://example.org/prometheus"] }} }} }}"""
    server = Server(tmp_path / "server", blocks=blocks).start()
    try:
        def client(name):
            folder = tmp_path / name
            folder.mkdir()
            server.cli("x509", "mint", "-spiffeID", f"spiffe://example.org/{name}", "-write", folder)
            context = ssl.create_default_context(cafile=folder / "bundle.pem")
            context.check_hostname = False
            context.load_cert_chain(folder / "svid.pem", folder / "key.pem")
            return context

        url = f"https://localhost:{port}/metrics"
        right, wrong = client("prometheus"), client("somebody")
        text = wait_until(lambda: try_get(url, right), "the exporter")
        assert b"spire_server_started" in text
        with pytest.raises((urllib.error.URLError, ConnectionError, ssl.SSLError)):
            get(url, wrong)
        anybody = ssl.create_default_context(cafile=tmp_path / "prometheus" / "bundle.pem")
        anybody.check_hostname = False
        with pytest.raises((urllib.error.URLError, ConnectionError, ssl.SSLError)):
            get(url, anybody)
    finally:
        server.daemon.kill()


def try_get(url, context):
    try:
        return get(url, context)[1]
    except (urllib.error.URLError, ConnectionError, ssl.SSLError):
        return None


def test_what_contradicts_in_tls_ends_the_start_with_spires_words(tmp_path):
    blocks = f"telemetry {{ Prometheus {{ port = {free_port()} tls {{ cert_file = \"c\" }} }} }}"
    server = Server(tmp_path / "server", blocks=blocks).start(wait=False)
    assert server.daemon.process.wait(timeout=30) == 1
    words = "cert_file and key_file must both be configured unless use_spire_svid is enabled"
    assert f"failed to create TLS config for Prometheus: {words}" in server.daemon.log.read_text()


def test_profiles_are_served_and_written(tmp_path):
    port = free_port()
    extra = f'profiling_enabled = true\n profiling_port = {port}\n profiling_freq = 2\n profiling_names = ["heap", "goroutine"]'
    server = Server(tmp_path / "server", extra=extra)
    # Dumps go into the working directory, as SPIRE's do.
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([str(server.bins / "spire-server"), "run", "-config", str(server.config)],
                                   cwd=tmp_path, stdout=log, stderr=log)
    try:
        base = f"http://localhost:{port}/debug/pprof"
        wait_until(lambda: status_of(f"{base}/") == 200, "the profiling listener")
        profile = gzip.decompress(get(f"{base}/profile?seconds=1")[1])
        assert b"nanoseconds" in profile and b"samples" in profile
        assert status_of(f"{base}/profile?seconds=0") == 400
        assert b"tasks: " in get(f"{base}/goroutine?debug=1")[1]
        files = lambda: [path.name for path in (tmp_path / ".profiles").glob("*")]  # noqa: E731
        wait_until(lambda: len(files()) >= 2, "dumps")
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\d_\d{6}_server_(heap|goroutine)\.pb\.gz", name) for name in files())
    finally:
        process.kill()
        process.wait()
