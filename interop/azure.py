"""A small Azure in a network of its own.

The programs under test know Azure's names and addresses, and no setting changes them. So they run
where these lead to a stand-in: in a network name space with the metadata service's address, a
table of hosts of its own, and `SSL_CERT_FILE` with the stand-in's root. So can SPIRE's programs.
"""

import base64
import datetime
import itertools
import json
import os
import sys
import time
from pathlib import Path

import netns
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID
from harness import HERE, Agent, Daemon, Server, wait_until

NAMES = ["login.microsoftonline.com", "management.azure.com", "www.microsoft.com"]
AUDIENCE = "api://steeple"
TENANT, DOMAIN, SUBSCRIPTION = "11111111-2222-3333-4444-555555555555", "example.com", "the-subscription"
PRINCIPAL, VM = "22222222-aaaa-bbbb-cccc-dddddddddddd", "550e8400-e29b-41d4-a716-446655440000"
GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/frontend/providers"
AIA = "/pkiops/certs/Issuing.crt"
_numbers = itertools.count()


def key():
    return rsa.generate_private_key(65537, 2048)


class Authority:
    """Makes certificates, which it writes to a folder with their keys."""

    def __init__(self, folder, name, by=None):
        self.folder, self.name, self.key = folder, name, key()
        self.certificate = (by or self).make(name, self.key, ca=True)

    def make(self, name, holder, ca=False, dns=(), aia=None):
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
        builder = builder.public_key(holder.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca, None), True)
        if not ca:
            usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
            builder = builder.add_extension(usage, False)
            names = x509.SubjectAlternativeName([x509.DNSName(it) for it in dns])
            builder = builder.add_extension(names, False)
        if aia:
            where = x509.UniformResourceIdentifier(aia)
            entry = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, where)
            builder = builder.add_extension(x509.AuthorityInformationAccess([entry]), False)
        certificate = builder.sign(self.key, hashes.SHA256())
        pem = serialization.Encoding.PEM
        (self.folder / f"{name}.pem").write_bytes(certificate.public_bytes(pem))
        plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        (self.folder / f"{name}.key").write_bytes(holder.private_bytes(pem, *plain))
        return certificate


def encode(data):
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value):
    return encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))


class Azure:
    """The stand-in, its network, and what it knows: one tenant with one machine."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir()
        self.space = f"st{os.getpid()}az{next(_numbers)}"
        netns.run("ip", "netns", "add", self.space)
        for command in (["link", "set", "lo", "up"], ["addr", "add", "169.254.169.254/32", "dev", "lo"]):
            netns.run("ip", "-n", self.space, *command)
        hosts = self.folder / "hosts"
        hosts.write_text("127.0.0.1 localhost\n" + "".join(f"127.0.0.2 {it}\n" for it in NAMES))
        self.jwt_key = key()
        self.root = Authority(self.folder, "root")
        self.issuing = Authority(self.folder, "issuing", self.root)
        where = f"http://www.microsoft.com{AIA}"
        self.issuing.make("service", key(), dns=["eastus.metadata.azure.com"], aia=where)
        self.root.make("tls", key(), dns=NAMES)
        mounted = f'mount --bind "{hosts}" /etc/hosts && exec "$@"'
        without = [part for name in ("HTTP_PROXY", "HTTPS_PROXY") for part in ("-u", name, "-u", name.lower())]
        self.prefix = ["ip", "netns", "exec", self.space, "sh", "-c", mounted, "sh",
                       "env", *without, f"SSL_CERT_FILE={self.folder}/root.pem"]  # fmt: skip
        self.state = {
            "tenants": {DOMAIN: TENANT}, "jwks": {"keys": [self.jwk("one")]},
            "proof": "s3cret", "arm_token": "arm.token.x",
            "tokens": {AUDIENCE: self.token()},
            "instance": {"name": "blog", "subscriptionId": SUBSCRIPTION, "resourceGroupName": "frontend"},
            "statement": {"subscriptionId": SUBSCRIPTION, "vmId": VM},
            "web": {AIA: "issuing.pem"},
            "resources": [{"principal": PRINCIPAL, "id": f"{GROUP}/Microsoft.Compute/virtualMachines/blog"}],
            "arm": self.arm(), "graph": {SUBSCRIPTION: self.graph()},
        }  # fmt: skip
        self.change()
        program = [*self.prefix, sys.executable, HERE / "azure_stand.py", self.folder]
        self.daemon = Daemon(program, self.folder / "stand.log")
        wait_until((self.folder / "ready").exists, f"the stand-in; see {self.folder}/stand.log")

    def change(self, **members):
        """Azure is otherwise from now on."""
        self.state.update(members)
        new = self.folder / "state.new"
        new.write_text(json.dumps(self.state))
        new.rename(self.folder / "state.json")

    def asked(self, part=""):
        path = self.folder / "asked.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [it for it in lines if part in it["host"] + it["path"]]

    def jwk(self, name, holder=None):
        numbers = (holder or self.jwt_key).public_key().public_numbers()
        return {"kty": "RSA", "use": "sig", "kid": name, "n": number(numbers.n), "e": number(numbers.e),
                "issuer": "https://login.microsoftonline.com/{tenantid}/v2.0"}  # fmt: skip

    def token(self, header=None, holder=None, **change):
        """A token of the machine's identity, with changes."""
        now = int(time.time())
        claims = {
            "aud": AUDIENCE, "iss": f"https://sts.windows.net/{TENANT}/", "iat": now - 60, "nbf": now - 60,
            "exp": now + 86400, "oid": PRINCIPAL, "sub": PRINCIPAL, "tid": TENANT, "ver": "1.0", **change,
        }  # fmt: skip
        claims = {name: value for name, value in claims.items() if value is not None}
        header = {"typ": "JWT", "alg": "RS256", "kid": "one", "x5t": "one", **(header or {})}
        text = f"{encode(header)}.{encode(claims)}"
        signature = (holder or self.jwt_key).sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{text}.{encode(signature)}"

    @staticmethod
    def arm():
        nic = f"{GROUP}/Microsoft.Network/networkInterfaces/nic"
        subnet = f"{GROUP}/Microsoft.Network/virtualNetworks/vnet/subnets/default"
        nsg = f"{GROUP}/Microsoft.Network/networkSecurityGroups/webservers"
        profile = {"networkInterfaces": [{"id": nic, "properties": {"primary": True}}]}
        ips = [{"name": "ipconfig1", "properties": {"subnet": {"id": subnet}}}]
        return {
            f"{GROUP}/Microsoft.Compute/virtualMachines/blog": {"name": "blog", "properties": {"networkProfile": profile}},
            nic: {"properties": {"networkSecurityGroup": {"id": nsg}, "ipConfigurations": ips}},
            f"{GROUP}/Microsoft.Compute/virtualMachineScaleSets/myvmss/virtualMachines": {
                "value": [{
                    "id": "x", "name": "myvmss_1", "location": "eastus", "tags": {"team": "alpha"},
                    "properties": {"vmId": VM, "networkProfileConfiguration": {"networkInterfaceConfigurations": [
                        {"name": "one", "properties": {"networkSecurityGroup": {"id": nsg}, "ipConfigurations": ips}}
                    ]}},
                }],
            },
        }  # fmt: skip

    @staticmethod
    def graph():
        machine = {"id": f"{GROUP}/Microsoft.Compute/virtualMachines/blog", "name": "blog", "location": "eastus",
                   "resourceGroup": "frontend", "vmId": VM, "tags": {"environment": "production", "other": "x"}}
        nic = {"name": "nic", "resourceGroup": "frontend", "subnets": [{"vnet": "vnet", "name": "default"}],
               "securityGroup": {"resourceGroup": "frontend", "name": "webservers"}}
        group = {"id": "x", "name": "myvmss", "location": "eastus", "resourceGroup": "frontend"}
        return {
            "'microsoft.compute/virtualmachines'": [machine],
            "microsoft.network/networkinterfaces": [nic],
            "'microsoft.compute/virtualmachinescalesets'": [group],
        }  # fmt: skip

    def msi(self, settings="", tenant=TENANT):
        """The server's half of azure_msi."""
        return f"""NodeAttestor "azure_msi" {{ plugin_data {{ tenants = {{ "{tenant}" = {{
            resource_id = "{AUDIENCE}"
            {settings or f'subscription_id = "{SUBSCRIPTION}"  app_id = "APPID"  app_secret = "s3cret"'}
        }} }} }} }}"""

    def imds(self, settings="", plugin=""):
        """The server's half of azure_imds."""
        return f"""NodeAttestor "azure_imds" {{ plugin_data {{
            tenants = {{ "{DOMAIN}" = {{
                secret_auth = {{ app_id = "APPID" app_secret = "s3cret" }}
                allowed_vm_tags = ["environment", "team"]
                {settings}
            }} }}
            trust_bundle_path = "{self.folder}/root.pem"
            {plugin}
        }} }}"""

    def server(self, folder, plugins, bins=None):
        server = Server(folder, bins=bins, plugins=plugins)
        server.daemon = Daemon(
            [*self.prefix, server.bins / "spire-server", "run", "-config", server.config], server.folder / "server.log"
        )
        server.wait()
        return server

    def agent(self, folder, server, attestor, bins=None):
        settings = {"azure_msi": f'resource_id = "{AUDIENCE}"', "azure_imds": f'tenant_domain = "{DOMAIN}"'}
        block = f'NodeAttestor "{attestor}" {{ plugin_data {{ {settings[attestor]} }} }}'
        agent = Agent(folder, server, bins=bins, attestor=block)
        agent.prefix = self.prefix
        return agent

    def stop(self):
        self.daemon.kill()
        netns.run("ip", "netns", "del", self.space, check=False)
