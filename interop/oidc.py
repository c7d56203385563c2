"""The OIDC discovery provider, ours or SPIRE's, and those who ask it."""

import http.client
import json
import os
import socket
import ssl
import subprocess

from harness import binaries, free_port, wait_until

DOMAIN = "oidc.test"


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__(DOMAIN, timeout=10)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(self.path)


class Named(http.client.HTTPSConnection):
    """A connection to 127.0.0.1 that verifies another name."""

    def __init__(self, port, root, name=DOMAIN):
        super().__init__("127.0.0.1", port, timeout=10)
        self.name = name
        self.context = ssl.create_default_context(cafile=root)

    def connect(self):
        stream = socket.create_connection((self.host, self.port), timeout=10)
        self.sock = self.context.wrap_socket(stream, server_hostname=self.name)


class Provider:
    """A provider in a folder; `settings` is its configuration, in which PORT stands for a port."""

    def __init__(self, folder, settings, bins=None, env=None, port=None, domains=(DOMAIN, "b.test")):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.config, self.log = folder / "oidc.conf", folder / "oidc.log"
        self.settings, self.given, self.domains = settings, port, list(domains)
        self.binary = (bins or binaries()) / "oidc-discovery-provider"
        self.env = env or dict(os.environ)
        self.process = None

    def start(self):
        """Starts it on a port that is free, or once more on the one that it has."""
        for _ in range(10):
            self.port = self.given or free_port()
            said = len(self.text())
            text = self.settings.replace("PORT", str(self.port))
            self.config.write_text(f'log_level = "debug"\ndomains = {json.dumps(self.domains)}\n{text}')
            with open(self.log, "ab") as out:
                self.process = subprocess.Popen(
                    [str(self.binary), "-config", str(self.config)], stdout=out, stderr=out, env=self.env, cwd=self.folder
                )
            wait_until(lambda: self.process.poll() is not None or "Serving HTTP" in self.text()[said:], "the provider")
            if self.process.poll() is None:
                return self
            if "in use" not in self.text()[said:]:
                raise AssertionError(self.text())
        raise AssertionError(self.text())

    def text(self):
        return self.log.read_text() if self.log.exists() else ""

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout=20) if self.process else 0

    def connection(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)

    def ask(self, path, method="GET", headers=None, connection=None):
        """Status, headers in lower case, and body."""
        connection = connection or self.connection()
        connection.request(method, path, headers={"Host": DOMAIN, **(headers or {})})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body

    def kids(self, connection=None):
        """The key ids that it serves; none while it serves none."""
        status, _, body = self.ask("/keys", connection=connection)
        return [key["kid"] for key in json.loads(body)["keys"]] if status == 200 else []
