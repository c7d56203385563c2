"""A workload on py-spiffe; see interop/README.md for the verbs."""

import json
import queue
import socket
import sys
import threading

from cryptography import x509
from OpenSSL import SSL
from spiffe import WorkloadApiClient, X509Source
from spiffetls import ListenOptions, dial, listen


def say(value):
    print(json.dumps(value), flush=True)


def describe(svid):
    return {"id": str(svid.spiffe_id), "serial": str(svid.leaf.serial_number), "hint": getattr(svid, "hint", None) or ""}


def peer_id(certificate):
    names = certificate.to_cryptography().extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)[0]


def fetch_x509():
    with WorkloadApiClient() as client:
        context = client.fetch_x509_context(timeout=10)
        svids = [describe(svid) for svid in context.x509_svids]
        domain = context.default_svid.spiffe_id.trust_domain
        assert context.x509_bundle_set.get_bundle_for_trust_domain(domain).x509_authorities
        say({"svids": svids, "bundles": [domain.name]})


def fetch_jwt(audience):
    with WorkloadApiClient() as client:
        svid = client.fetch_jwt_svid(audience={audience}, timeout=10)
        client.fetch_jwt_bundles(timeout=10)
        say({"id": str(svid.spiffe_id), "token": svid.token})


def validate_jwt(audience, token):
    with WorkloadApiClient() as client:
        say({"id": str(client.validate_jwt_svid(token, audience, timeout=10).spiffe_id)})


def watch(count):
    updates = queue.Queue()
    with WorkloadApiClient() as client:
        handle = client.stream_x509_contexts(updates.put, lambda error: print(error, file=sys.stderr))
        for _ in range(int(count)):
            say(describe(updates.get(timeout=120).default_svid))
        handle.cancel()


def serve(allowed):
    source = X509Source(timeout_in_seconds=10)
    options = ListenOptions(authorize_fn=lambda certificate: peer_id(certificate) == allowed)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    listener = listen(f"127.0.0.1:{port}", source, options)
    say({"port": port})

    def accept():
        while True:
            connection, _ = listener.accept()
            try:
                line = connection.recv(1024)
                connection.sendall(b"echo " + line)
                connection.shutdown()
                say({"served": True})
            except SSL.Error as error:
                say({"refused": str(error)})

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()


def connect(address, expected):
    source = X509Source(timeout_in_seconds=10)
    connection = dial(
        address, source, authorize_fn=lambda certificate: peer_id(certificate) == expected
    )
    connection.sendall(b"hello\n")
    say({"reply": connection.recv(1024).decode()})


VERBS = {
    "fetch-x509": fetch_x509,
    "fetch-jwt": fetch_jwt,
    "validate-jwt": validate_jwt,
    "watch": watch,
    "serve": serve,
    "dial": connect,
}

if __name__ == "__main__":
    try:
        VERBS[sys.argv[1]](*sys.argv[2:])
    except Exception as error:  # the exit code is the answer, the text is for people
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
