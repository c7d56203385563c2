"""Stands in for Azure: metadata service, identity provider, API, and Microsoft's web server.

Runs in a network of its own, where it has their addresses and names (`azure.py`), and does what
`state.json` says; what it was asked goes to `asked.jsonl`.
"""

import base64
import json
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key, pkcs7

FOLDER = Path(sys.argv[1])
LOGIN, ARM, WEB = "login.microsoftonline.com", "management.azure.com", "www.microsoft.com"
SUBSCRIPTIONS = "/subscriptions/"
lock = threading.Lock()


def state():
    return json.loads((FOLDER / "state.json").read_text())


def signed(content, signer, bag=()):
    """A message in base64, by the key and certificate of this name, with the certificates of others in it."""
    key = load_pem_private_key((FOLDER / f"{signer}.key").read_bytes(), None)
    certificate = x509.load_pem_x509_certificate((FOLDER / f"{signer}.pem").read_bytes())
    builder = pkcs7.PKCS7SignatureBuilder().set_data(content)
    builder = builder.add_signer(certificate, key, hashes.SHA256())
    for other in bag:
        builder = builder.add_certificate(x509.load_pem_x509_certificate((FOLDER / f"{other}.pem").read_bytes()))
    return base64.b64encode(builder.sign(Encoding.DER, [pkcs7.PKCS7Options.Binary])).decode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, body, status=200, headers=()):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.handle_any(b"")

    def do_POST(self):
        self.handle_any(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def handle_any(self, body):
        host = self.headers.get("Host", "").split(":")[0]
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        with lock, open(FOLDER / "asked.jsonl", "a") as asked:
            line = {
                "host": host, "path": url.path, "query": query, "body": body.decode(),
                "authorization": self.headers.get("Authorization"), "metadata": self.headers.get("Metadata"),
            }  # fmt: skip
            asked.write(json.dumps(line) + "\n")
        now = state()
        for part, fault in now.get("faults", {}).items():
            if part in host + url.path:
                return self.fail(fault)
        try:
            {"169.254.169.254": self.metadata, LOGIN: self.login, ARM: self.arm, WEB: self.web}[host](
                now, url.path, query, body
            )
        except (KeyError, StopIteration) as missing:
            self.answer({"error": {"code": "NotFound", "message": repr(missing)}}, 404)

    def fail(self, fault):
        """A server that means no good."""
        try:
            if fault == "redirect":
                self.answer(b"", 302, [("Location", "http://169.254.169.254/stolen")])
            elif fault == "huge":
                self.answer(b'{"x":"' + b"x" * (8 << 20) + b'"}')
            elif fault == "slow":
                self.send_response(200)
                self.end_headers()
                for _ in range(120):
                    self.wfile.write(b" ")
                    time.sleep(1)
            elif fault == "endless":
                self.send_response(200)
                self.end_headers()
                while True:
                    self.wfile.write(b" " * 65536)
            else:
                self.answer(b"broken", int(fault))
        except OSError:
            pass
        self.close_connection = True

    def metadata(self, now, path, query, _):
        if self.headers.get("Metadata") != "true":
            return self.answer({"error": "invalid_request"}, 400)
        if path == "/metadata/identity/oauth2/token":
            token = now["tokens"].get(query["resource"].rstrip("/"))
            if not token:
                return self.answer({"error": "invalid_resource"}, 400)
            return self.answer({"access_token": token, "expires_in": "86400", "token_type": "Bearer",
                                "resource": query["resource"], "expires_on": str(int(time.time()) + 86400)})
        if path == "/metadata/instance":
            return self.answer({"compute": now["instance"]})
        if path == "/metadata/attested/document":
            content = {**now["statement"], "nonce": query["nonce"], **now.get("change", {})}
            content = json.dumps(content).encode()
            signature = now.get("replay") or signed(content, now.get("signer", "service"), now.get("bag", []))
            with open(FOLDER / "documents.txt", "a") as documents:
                documents.write(signature + "\n")
            return self.answer({"encoding": "pkcs7", "signature": signature})
        raise KeyError(path)

    def login(self, now, path, query, body):
        base = f"https://{LOGIN}"
        tenant, _, rest = path.strip("/").partition("/")
        if path == "/common/discovery/instance":
            alias = {"preferred_network": LOGIN, "preferred_cache": LOGIN, "aliases": [LOGIN]}
            tenant = urlsplit(query["authorization_endpoint"]).path.split("/")[1]
            discovery = f"{base}/{tenant}/v2.0/.well-known/openid-configuration"
            return self.answer({"tenant_discovery_endpoint": discovery, "metadata": [alias]})
        if path == "/common/discovery/keys":
            return self.answer(now["jwks"])
        if rest.endswith(".well-known/openid-configuration"):
            known = now["tenants"].get(tenant, tenant)
            return self.answer({
                "issuer": f"https://sts.windows.net/{known}/",
                "jwks_uri": f"{base}/common/discovery/keys",
                "authorization_endpoint": f"{base}/{tenant}/oauth2/v2.0/authorize",
                "token_endpoint": f"{base}/{tenant}/oauth2/v2.0/token",
            })  # fmt: skip
        if rest == "oauth2/v2.0/token":
            form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
            proof = form.get("client_secret") or form.get("client_assertion")
            if form["client_id"] != "APPID" or proof != now["proof"]:
                description = "AADSTS7000215: Invalid client secret provided.\r\nTrace ID: x"
                return self.answer({"error": "invalid_client", "error_description": description}, 401)
            return self.answer({"access_token": now["arm_token"], "expires_in": 3600, "token_type": "Bearer"})
        raise KeyError(path)

    def arm(self, now, path, query, body):
        if self.headers.get("Authorization") != f"Bearer {now['arm_token']}":
            return self.answer({"error": {"code": "InvalidAuthenticationToken", "message": "no"}}, 401)
        if path == "/providers/Microsoft.ResourceGraph/resources":
            asked = json.loads(body)
            known = now["graph"].get(asked["subscriptions"][0], {})
            kinds = [it for it in known if it in asked["query"].lower()]
            records = [it for kind in kinds for it in known[kind] if it.get("vmId", "") in asked["query"]]
            return self.answer({"totalRecords": len(records), "count": len(records), "data": records,
                                "resultTruncated": "false", "facets": []})
        if path.endswith("/resources"):
            found = [it for it in now["resources"] if f"'{it['principal']}'" in query["$filter"]]
            return self.answer({"value": found})
        return self.answer(now["arm"][path])

    def web(self, now, path, _query, _body):
        self.answer((FOLDER / now["web"][path]).read_bytes())


def serve(address, port, context=None):
    server = ThreadingHTTPServer((address, port), Handler)
    server.daemon_threads = True
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()


if __name__ == "__main__":
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(FOLDER / "tls.pem", FOLDER / "tls.key")
    serve("169.254.169.254", 80)
    serve("127.0.0.2", 80)
    serve("127.0.0.2", 443, tls)
    (FOLDER / "ready").touch()
    threading.Event().wait()
