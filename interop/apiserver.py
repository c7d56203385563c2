"""A real API server of Kubernetes, on an etcd of its own, from the folder KUBEBUILDER_ASSETS."""

import json
import os
import re
import secrets
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from harness import HERE, Daemon, free_port, wait_until
from kubelet import certificates


class Missing(Exception):
    """Why there is none."""


def program(name):
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    if not folder:
        raise Missing("KUBEBUILDER_ASSETS not set: no kube-apiserver")
    path = Path(folder) / name
    found = str(path) if path.exists() else shutil.which(name)
    if not found:
        raise Missing(f"no {name} in KUBEBUILDER_ASSETS")
    return found


RBAC = "/apis/rbac.authorization.k8s.io/v1"
# Where the objects of each kind are.
KINDS = {
    "ClusterRole": (RBAC, "clusterroles"),
    "ClusterRoleBinding": (RBAC, "clusterrolebindings"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "DaemonSet": ("/apis/apps/v1", "daemonsets"),
    "Namespace": ("/api/v1", "namespaces"),
    "Role": (RBAC, "roles"),
    "RoleBinding": (RBAC, "rolebindings"),
    "Service": ("/api/v1", "services"),
    "ServiceAccount": ("/api/v1", "serviceaccounts"),
    "StatefulSet": ("/apis/apps/v1", "statefulsets"),
}


class ApiServer:
    AGENT = "system:serviceaccount:spire:spire-agent"

    def __init__(self, folder):
        etcd, apiserver = program("etcd"), program("kube-apiserver")
        folder.mkdir()
        self.ca, certificate, key = certificates(folder / "pki")
        accounts = folder / "accounts.key"
        subprocess.run(["openssl", "genrsa", "-traditional", "-out", accounts, "2048"], check=True, capture_output=True)
        self.admin, self.agent = secrets.token_hex(16), secrets.token_hex(16)
        tokens = folder / "tokens.csv"
        tokens.write_text(f'{self.admin},admin,1,"system:masters"\n{self.agent},{self.AGENT},2\n')
        client, peer, self.port = free_port(), free_port(), free_port()
        self.etcd = Daemon(
            [
                etcd, "--data-dir", folder / "etcd",
                "--listen-client-urls", f"http://127.0.0.1:{client}",
                "--advertise-client-urls", f"http://127.0.0.1:{client}",
                "--listen-peer-urls", f"http://127.0.0.1:{peer}",
                "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
                "--initial-cluster", f"default=http://127.0.0.1:{peer}",
            ],
            folder / "etcd.log",
        )  # fmt: skip
        self.server = Daemon(
            [
                apiserver, "--etcd-servers", f"http://127.0.0.1:{client}",
                "--bind-address", "127.0.0.1", "--secure-port", self.port, "--cert-dir", folder / "certs",
                "--tls-cert-file", certificate, "--tls-private-key-file", key,
                "--service-account-issuer", "https://kubernetes.default.svc",
                "--service-account-key-file", accounts, "--service-account-signing-key-file", accounts,
                "--authorization-mode", "RBAC", "--token-auth-file", tokens,
                "--service-cluster-ip-range", "10.0.0.0/24",
                "--disable-admission-plugins", "ServiceAccount",
            ],
            folder / "apiserver.log",
        )  # fmt: skip
        self.folder = folder
        self.context = ssl.create_default_context(cafile=self.ca)
        wait_until(self.ready, f"the API server; see {folder}/apiserver.log", 120)

    def ready(self):
        assert self.server.alive() and self.etcd.alive(), f"see {self.folder}"
        try:
            return self.ask("GET", "/readyz", text=True) == "ok"
        except (OSError, AssertionError):
            return False

    def ask(self, method, path, body=None, kind="application/json", text=False):
        """Asks as an administrator."""
        body = json.dumps(body).encode() if isinstance(body, dict) else body
        headers = {"Authorization": f"Bearer {self.admin}", "Content-Type": kind}
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}{path}", body, headers, method=method)
        try:
            with urllib.request.urlopen(request, context=self.context, timeout=30) as answer:
                read = answer.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from error
        return read.decode() if text else json.loads(read)

    def apply(self, manifest, dry_run=False):
        """Creates what a manifest of ours says, and gives what the API server made of it."""
        made = []
        for document in (HERE.parent / "conf/kubernetes" / manifest).read_text().split("\n---\n"):
            kind = re.search(r"^kind: (\w+)", document, re.M).group(1)
            namespace = re.search(r"^metadata:\n(?:  .*\n)*?  namespace: (\S+)", document, re.M)
            group, plural = KINDS[kind]
            within = f"/namespaces/{namespace.group(1)}" if namespace else ""
            # What is misspelt is an error, which it is not for kubectl by itself.
            query = "?fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
            made.append(self.ask("POST", f"{group}{within}/{plural}{query}", document.encode(), kind="application/yaml"))
        return made

    def token(self, account, audience=None, pod=None, seconds=600, namespace="spire"):
        """A token of a service account, bound to a pod if one is given, as kubelets ask for it."""
        spec = {"expirationSeconds": seconds, "audiences": [audience] if audience else []}
        if pod:
            metadata = pod["metadata"]
            spec["boundObjectRef"] = {
                "kind": "Pod", "apiVersion": "v1", "name": metadata["name"], "uid": metadata["uid"],
            }  # fmt: skip
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        return self.ask("POST", path, body)["status"]["token"]

    def bind(self, role, user):
        """Gives a user a role in the whole cluster."""
        self.ask(
            "POST",
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            {
                "metadata": {"generateName": "test-"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
            },
        )

    def kubeconfig(self, path, token=None):
        """Who the agent is, or who has the token, in a file."""
        config = {
            "clusters": [
                {"name": "c", "cluster": {"server": f"https://127.0.0.1:{self.port}", "certificate-authority": str(self.ca)}}
            ],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "agent"}}],
            "current-context": "x",
            "users": [{"name": "agent", "user": {"token": token or self.agent}}],
        }
        path.write_text(json.dumps(config))
        return path

    def close(self):
        self.server.kill()
        self.etcd.kill()


def build_broker():
    """The broker of the Broker API's tests."""
    import delegated

    delegated.build()
    return delegated


def run(command, seconds=60):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=seconds)
