"""Pebble, Let's Encrypt's ACME server for tests, with a resolver of its own."""

import json
import os
import socket
import ssl
import struct
import subprocess
import threading
import urllib.request

from harness import BUILD, HERE, Daemon, free_port, wait_until


def build_pebble():
    binary = BUILD / "pebble"
    BUILD.mkdir(exist_ok=True)
    command = ["go", "build", "-o", str(binary), "github.com/letsencrypt/pebble/v2/cmd/pebble"]
    result = subprocess.run(command, cwd=HERE / "pebble", capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return binary


def certificate(folder, name, *sans):
    """A certificate for `sans` under a root of its own; gives the paths of root, it and its key."""

    def openssl(*arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    root, root_key = folder / f"{name}-root.pem", folder / f"{name}-root-key.pem"
    openssl("req", "-x509", *new, "-days", 2, "-subj", f"/CN={name} root", "-keyout", root_key, "-out", root)
    cert, key, request, extensions = (folder / f"{name}{it}" for it in (".pem", "-key.pem", ".csr", ".ext"))
    openssl("req", *new, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
    extensions.write_text(f"subjectAltName={','.join(sans)}\nbasicConstraints=CA:FALSE\n")
    signer = ["-CA", root, "-CAkey", root_key, "-CAcreateserial"]
    openssl("x509", "-req", "-in", request, *signer, "-days", 2, "-extfile", extensions, "-out", cert)
    return root, cert, key


class Resolver:
    """A DNS server (over TCP, which is what Pebble asks) for which every name is 127.0.0.1."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                stream, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(stream,), daemon=True).start()

    def _serve(self, stream):
        with stream, stream.makefile("rwb") as file:
            while length := file.read(2):
                answer = self._answer(file.read(struct.unpack(">H", length)[0]))
                file.write(struct.pack(">H", len(answer)) + answer)
                file.flush()

    @staticmethod
    def _answer(query):
        end = query.index(b"\0", 12) + 5
        kind = struct.unpack(">H", query[end - 4 : end - 2])[0]
        answer = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + bytes([127, 0, 0, 1]) if kind == 1 else b""
        header = query[:2] + struct.pack(">HHHHH", 0x8580, 1, 1 if answer else 0, 0, 0)
        return header + query[12:end] + answer

    def close(self):
        self.listener.close()


class Pebble:
    """An ACME authority that checks names on port `tls_port` and really does so.

    It rejects one nonce in five, as a client has to bear.
    """

    def __init__(self, folder, binary, tls_port, lifetime=7776000):
        self.folder = folder
        self.resolver = Resolver()
        self.trust, cert, key = certificate(folder, "pebble", "DNS:localhost", "IP:127.0.0.1")
        for _ in range(10):
            self.port, self.management = free_port(), free_port()
            config = {
                "listenAddress": f"127.0.0.1:{self.port}",
                "managementListenAddress": f"127.0.0.1:{self.management}",
                "certificate": str(cert),
                "privateKey": str(key),
                "httpPort": 1,
                "tlsPort": tls_port,
                "retryAfter": {"authz": 1, "order": 1},
                "profiles": {"default": {"description": "for tests", "validityPeriod": lifetime}},
            }
            path = folder / "pebble.json"
            path.write_text(json.dumps({"pebble": config}))
            environment = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "20", "PEBBLE_AUTHZREUSE": "0"}
            command = ["env", *(f"{name}={value}" for name, value in environment.items()), binary]
            command += ["-strict", "-config", path, "-dnsserver", self.resolver.address]
            self.daemon = Daemon(command, folder / "pebble.log")
            try:
                wait_until(lambda: not self.daemon.alive() or self._answers(), "Pebble", seconds=20)
            except AssertionError:
                self.daemon.kill()
                raise
            if self.daemon.alive():
                break
        self.directory = f"https://127.0.0.1:{self.port}/dir"

    def _get(self, port, path):
        context = ssl.create_default_context(cafile=self.trust)
        with urllib.request.urlopen(f"https://localhost:{port}{path}", context=context, timeout=5) as answer:
            return answer.read().decode()

    def _answers(self):
        try:
            return self._get(self.port, "/dir") and self._get(self.management, "/roots/0")
        except OSError:
            return False

    def root(self):
        """The root of the certificates that it issues."""
        path = self.folder / "issued-root.pem"
        path.write_text(self._get(self.management, "/roots/0"))
        return path

    def text(self):
        return (self.folder / "pebble.log").read_text()

    def stop(self):
        self.daemon.kill()
        self.resolver.close()


def environment(pebble):
    """What makes a program trust Pebble's own certificate."""
    return {**os.environ, "SSL_CERT_FILE": str(pebble.trust)}
