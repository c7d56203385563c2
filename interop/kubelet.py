"""What stands in for a kubelet and an API server, and the groups of a pod's processes."""

import http.server
import json
import ssl
import subprocess
import threading
from pathlib import Path

HIERARCHIES = [Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")]


def certificates(folder):
    """An authority, and a certificate of it for 127.0.0.1 and localhost; gives their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=cluster", "-days", "2")
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=kubelet")
    openssl(
        "x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
        "-out", "server.crt", "-days", "1", "-extfile", "names",
    )
    return folder / "ca.crt", folder / "server.crt", folder / "server.key"


class HttpsServer:
    """Answers requests with `answer(handler)`, over TLS, on a port of the kernel's choice."""

    def __init__(self, folder, answer):
        self.ca, certificate, key = certificates(Path(folder))
        outer = self
        self.asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.asked.append(self.path)
                answer(self)

            def do_POST(self):
                self.sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.asked.append(self.path)
                answer(self)

            def json(self, value, status=200):
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def finish_request(self, request, client_address):
                # The handshake is a matter of the connection's own thread.
                request.settimeout(60)
                try:
                    super().finish_request(context.wrap_socket(request, server_side=True), client_address)
                except (OSError, ssl.SSLError):
                    pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Kubelet(HttpsServer):
    """A kubelet with the pods of a test; those in `late` it knows after some lists."""

    TOKEN = "of-the-agent"

    def __init__(self, folder, pods=(), late=()):
        self.pods, self.late, self.lists = list(pods), list(late), 0
        super().__init__(folder, self.answer)
        (Path(folder) / "token").write_text(self.TOKEN + "\n")
        self.token = Path(folder) / "token"

    def answer(self, handler):
        if handler.headers.get("Authorization") != f"Bearer {self.TOKEN}":
            return handler.json({"kind": "Status", "message": "Unauthorized"}, 401)
        if handler.path != "/pods":
            return handler.json({"kind": "Status", "message": "not found"}, 404)
        self.lists += 1
        pods = self.pods + (self.late if self.lists > 3 else [])
        return handler.json({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods})


def pod(uid, container, name="blog-1"):
    """A pod with two containers, of which one has run to its end before the other."""
    return {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": uid,
            "labels": {"app": "blog", "app.kubernetes.io/part-of": "a.b"},
            "annotations": {"kubernetes.io/config.source": "api"},
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "blog", "uid": "rs-1", "controller": True}
            ],
        },
        "spec": {
            "nodeName": "node-7",
            "serviceAccountName": "blogger",
            "hostNetwork": True,
            "containers": [{"name": "web", "image": "blog", "env": [{"name": "A", "value": 'q"{['}] * 20}],
        },
        "status": {
            "phase": "Running",
            "initContainerStatuses": [
                {
                    "name": "setup",
                    "image": "docker.io/busybox:1",
                    "imageID": "docker.io/busybox@sha256:bb",
                    "containerID": f"containerd://{'a' * 64}",
                }
            ],
            "containerStatuses": [
                {
                    "name": "web",
                    "image": "docker.io/blog:v1",
                    "imageID": "docker.io/blog@sha256:aa",
                    "containerID": f"containerd://{container}",
                },
                {"name": "waiting", "image": "docker.io/late:v1", "imageID": "", "state": {"waiting": {}}},
            ],
        },
    }


class Groups:
    """Groups of the kernel with the names that a kubelet gives them; `None` where none can be made."""

    def __init__(self, path):
        self.made = []
        self.path = path.strip("/")
        for hierarchy in HIERARCHIES:
            if not (hierarchy / "cgroup.procs").exists():
                continue
            folder = hierarchy
            try:
                for part in self.path.split("/"):
                    folder = folder / part
                    if not folder.exists():
                        folder.mkdir()
                        self.made.append(folder)
                self.leaves = [*getattr(self, "leaves", []), folder]
            except OSError:
                continue

    def __bool__(self):
        return bool(getattr(self, "leaves", []))

    def command(self, *command):
        """The command, in these groups from its beginning."""
        moves = " && ".join(f'echo $$ > "{leaf}/cgroup.procs"' for leaf in self.leaves)
        return ["sh", "-c", f'{moves} && exec "$@"', "sh", *[str(part) for part in command]]

    def close(self):
        for folder in reversed(self.made):
            try:
                folder.rmdir()
            except OSError:
                pass
