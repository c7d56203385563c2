"""AWS, as far as it is needed: moto for the APIs, and a stand-in for the instance metadata service.

moto is told to check signatures and policies, so that a request that is signed wrongly is refused
as AWS would.
"""

import base64
import json
import logging
import subprocess
import threading
import urllib.request
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
from moto import settings
from moto.core.authorization import ActionAuthenticatorMixin
from moto.ec2.models import ec2_backends
from moto.ec2.models.availability_zones_and_regions import RegionsAndZonesBackend, Zone
from moto.server import ThreadedMotoServer

ACCOUNT = "123456789012"
# A region of AWS's that has no published certificate.
REGION = "us-iso-east-1"

POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": [
                "ec2:DescribeInstances",
                "iam:GetInstanceProfile",
                "sts:AssumeRole",
                "organizations:ListAccounts",
                "eks:ListNodegroups",
                "eks:DescribeNodegroup",
                "autoscaling:DescribeAutoScalingGroups",
            ],
            "Resource": "*",
        }
    ],
}


class Cloud:
    """moto, with an access key that may do what the plugin's documentation says it must."""

    def __init__(self):
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        zones = [Zone(f"{REGION}{it}", REGION, f"x-az-{it}") for it in "ab"]
        RegionsAndZonesBackend.zones.setdefault(REGION, zones)
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.server.start()
        host, port = self.server.get_host_and_port()
        self.url = f"http://{host}:{port}"
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/moto-api/reset", method="POST")).close()
        iam = self.client("iam")
        iam.create_user(UserName="steeple")
        iam.put_user_policy(UserName="steeple", PolicyName="p", PolicyDocument=json.dumps(POLICY))
        key = iam.create_access_key(UserName="steeple")["AccessKey"]
        self.key_id, self.secret = key["AccessKeyId"], key["SecretAccessKey"]

    def client(self, service, key_id="admin", secret="admin", token=None):
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.url,
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            aws_session_token=token,
        )

    def check_signatures(self, after=0):
        """From now on (or after so many calls more), callers must be who they say, and allowed."""
        settings.INITIAL_NO_AUTH_ACTION_COUNT = after
        ActionAuthenticatorMixin.request_count = 0

    def trust_everybody(self):
        self.check_signatures(float("inf"))

    def environment(self, monkeypatch, **more):
        """What a server takes from its environment."""
        variables = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            **more,
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    def instance(self, ec2=None, **options):
        """Starts an instance, and gives its ID."""
        ec2 = ec2 or self.client("ec2")
        image = ec2.describe_images()["Images"][0]["ImageId"]
        subnets = ec2.describe_subnets()["Subnets"]
        if not subnets:
            vpc = ec2.describe_vpcs()["Vpcs"][0]
            block = vpc["CidrBlock"].split("/")[0] + "/20"
            subnets = [ec2.create_subnet(VpcId=vpc["VpcId"], CidrBlock=block)["Subnet"]]
        options.setdefault("SubnetId", subnets[0]["SubnetId"])
        return ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, **options)["Instances"][0]["InstanceId"]

    def exchange_root_volume(self, instance, minutes):
        """As if the root volume had been attached so much later than the instance was made."""
        found = ec2_backends[ACCOUNT][REGION].get_instance(instance)
        found.nics[0].attach_time -= timedelta(minutes=minutes)

    def stop(self):
        self.trust_everybody()
        self.server.stop()


class Region:
    """A region's key, with which documents are signed."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.key, self.certificate = folder / "key.pem", folder / "certificate.pem"
        subject = "/C=US/ST=Washington State/L=Seattle/O=Test Web Services"
        self._openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", self.key, "-out", self.certificate,
            "-subj", subject, "-days", "3650",
        )  # fmt: skip

    def _openssl(self, *arguments, data=None):
        command = ["openssl", *(str(it) for it in arguments)]
        return subprocess.run(command, input=data, capture_output=True, check=True).stdout

    def sign(self, document):
        """A signed message as AWS writes it: indefinite lengths, signed attributes, no certificate."""
        message = self._openssl(
            "cms", "-sign", "-binary", "-stream", "-nodetach", "-nocerts", "-signer", self.certificate,
            "-inkey", self.key, "-outform", "DER", data=document,
        )  # fmt: skip
        return base64.encodebytes(message)

    def document(self, instance, account=ACCOUNT, region=REGION, **more):
        fields = {
            "accountId": account,
            "architecture": "x86_64",
            "availabilityZone": f"{region}a",
            "billingProducts": None,
            "devpayProductCodes": None,
            "imageId": "ami-0123",
            "instanceId": instance,
            "instanceType": "t3.micro",
            "kernelId": None,
            "marketplaceProductCodes": None,
            "pendingTime": "2026-01-01T00:00:00Z",
            "privateIp": "10.0.0.1",
            "ramdiskId": None,
            "region": region,
            "version": "2017-09-30",
            **more,
        }
        return json.dumps(fields, indent=2, separators=(",", " : ")).encode()


class Metadata:
    """The instance metadata service, version 2 only; `change` may answer in its place."""

    def __init__(self, document, signature, change=None):
        paths = {
            "/latest/dynamic/instance-identity/document": document,
            "/latest/dynamic/instance-identity/signature": b"b2xk",
            "/latest/dynamic/instance-identity/rsa2048": signature,
        }
        self.asked = asked = []

        class Handler(BaseHTTPRequestHandler):
            def answer(self, status, body=b"", ttl=None):
                self.send_response(status)
                if ttl:
                    self.send_header("X-aws-ec2-metadata-token-ttl-seconds", ttl)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_PUT(self):
                asked.append(("PUT", self.path))
                ttl = self.headers.get("x-aws-ec2-metadata-token-ttl-seconds")
                if self.path != "/latest/api/token" or not ttl:
                    return self.answer(400)
                self.answer(200, b"the-token", ttl)

            def do_GET(self):
                asked.append(("GET", self.path))
                if change and change(self):
                    return None
                if self.headers.get("x-aws-ec2-metadata-token") != "the-token":
                    return self.answer(401)
                body = paths.get(self.path)
                return self.answer(404) if body is None else self.answer(200, body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def attestor(self):
        """The block of an agent on this instance."""
        return f'NodeAttestor "aws_iid" {{ plugin_data {{ ec2_metadata_endpoint = "{self.url}/latest" }} }}'

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
