"""aws_iid: agents on EC2 instances, with moto for AWS's APIs and a stand-in for the metadata service."""

import json
import time

import pytest
from aws import ACCOUNT, REGION, Cloud, Metadata, Region
from harness import Agent, Server, spire_binaries, wait_until


@pytest.fixture(scope="module")
def cloud():
    made = Cloud()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def region(tmp_path_factory):
    return Region(tmp_path_factory.mktemp("region"))


@pytest.fixture
def world(tmp_path, cloud, region, monkeypatch):
    """Makes servers, instances and agents; ends them after the test."""
    made = []

    class World:
        def server(self, settings="", bins=None, environment=None):
            cloud.environment(monkeypatch, **(environment or {}))
            plugin = f"""NodeAttestor "aws_iid" {{ plugin_data {{
                region_certificates = {{ "{REGION}" = "{region.certificate}" }}
                {settings}
            }} }}"""
            server = Server(tmp_path / f"server{len(made)}", bins=bins, plugins=plugin)
            made.append(server)
            return server.start()

        def metadata(self, document, signature=None, change=None):
            signature = region.sign(document) if signature is None else signature
            made.append(Metadata(document, signature, change))
            return made[-1]

        def agent(self, server, metadata, bins=None, wait=True):
            agent = Agent(tmp_path / f"agent{len(made)}", server, bins=bins, attestor=metadata.attestor())
            made.append(agent)
            return agent.start(wait=wait)

        def refusal(self, server, metadata, expected, bins=None):
            """The server refuses an agent in these words, and gives it nothing."""
            log = server.folder / "server.log"
            before = len(log.read_text())
            agent = self.agent(server, metadata, bins=bins, wait=False)
            wait_until(lambda: expected in log.read_text()[before:], f"{expected!r} in {log}")
            agent.daemon.kill()
            assert server.json("agent", "list")["agents"] == []

    yield World()
    cloud.trust_everybody()
    for it in reversed(made):
        if hasattr(it, "daemon"):
            if it.daemon:
                it.daemon.kill()
        else:
            it.stop()


def shown(server):
    """The only agent, as the server shows it."""
    agents = server.json("agent", "list")["agents"]
    assert len(agents) == 1, agents
    agent = server.json("agent", "show", "-spiffeID", f"spiffe://example.org{agents[0]['id']['path']}")
    return agent["id"]["path"], sorted(f"{it['type']}:{it['value']}" for it in agent["selectors"]), agent


def of_document(instance, account=ACCOUNT):
    return [
        f"aws_iid:account_id:{account}",
        f"aws_iid:az:{REGION}a",
        "aws_iid:image:id:ami-0123",
        f"aws_iid:instance:id:{instance}",
        f"aws_iid:region:{REGION}",
    ]


def rich_instance(cloud):
    """An instance with tags, a security group and a profile."""
    ec2, iam = cloud.client("ec2"), cloud.client("iam")
    suffix = str(time.monotonic_ns())
    group = ec2.create_security_group(GroupName=f"web-{suffix}", Description="x")["GroupId"]
    profile = iam.create_instance_profile(InstanceProfileName=f"nodes-{suffix}")["InstanceProfile"]["Arn"]
    role = iam.create_role(RoleName=f"role-{suffix}", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    iam.add_role_to_instance_profile(InstanceProfileName=f"nodes-{suffix}", RoleName=f"role-{suffix}")
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Hostname", "Value": "host1"}]}]
    instance = cloud.instance(
        SecurityGroupIds=[group], IamInstanceProfile={"Arn": profile}, TagSpecifications=tags
    )  # fmt: skip
    extra = [
        f"aws_iid:iamrole:{role}",
        f"aws_iid:sg:id:{group}",
        f"aws_iid:sg:name:web-{suffix}",
        "aws_iid:tag:Hostname:host1",
    ]
    return instance, sorted(of_document(instance) + extra)


@pytest.mark.parametrize("whose", ["ours", "spire's"])
def test_an_agent_is_attested_by_its_instance_and_found_with_all_its_selectors(world, cloud, region, whose):
    bins = None
    if whose == "spire's":
        bins = spire_binaries() or pytest.skip("skipped: SPIRE_BIN_DIR not set")
    instance, selectors = rich_instance(cloud)
    server = world.server("skip_block_device = true")
    metadata = world.metadata(region.document(instance))
    cloud.check_signatures()
    agent = world.agent(server, metadata, bins=bins)
    path, found, record = shown(server)
    assert path == f"/spire/agent/aws_iid/{ACCOUNT}/{REGION}/{instance}"
    assert found == selectors
    assert record["attestation_type"] == "aws_iid" and not record.get("can_reattest")
    assert ("PUT", "/latest/api/token") in metadata.asked
    server.entry("/workload", f"spiffe://example.org{path}", "unix:uid:0")
    wait_until(lambda: agent.ids() == ["spiffe://example.org/workload"], "the workload's identity")


def test_requests_that_are_signed_wrongly_are_refused_by_the_cloud(world, cloud, region):
    """That the signatures are looked at by somebody else shows that the right ones are right."""
    instance = cloud.instance()
    server = world.server(environment={"AWS_SECRET_ACCESS_KEY": "wrong"})
    cloud.check_signatures()
    world.refusal(server, world.metadata(region.document(instance)), "failed to describe instance: operation error EC2")
    log = (server.folder / "server.log").read_text()
    assert "StatusCode: 403" in log or "StatusCode: 401" in log
    assert "AuthFailure" in log or "SignatureDoesNotMatch" in log


def test_evidence_counts_once(world, cloud, region):
    instance = cloud.instance()
    server = world.server("skip_block_device = true")
    metadata = world.metadata(region.document(instance))
    first = world.agent(server, metadata)
    thief = world.agent(server, metadata, wait=False)
    expected = "attestation data has already been used to attest an agent"
    wait_until(lambda: expected in (server.folder / "server.log").read_text(), expected)
    thief.daemon.kill()
    first.daemon.kill()
    server.cli("agent", "evict", "-spiffeID", f"spiffe://example.org/spire/agent/aws_iid/{ACCOUNT}/{REGION}/{instance}")
    world.agent(server, metadata)


def test_another_document_than_the_signed_one_is_refused(world, cloud, region):
    """SPIRE up to 1.14.5 took it."""
    mine, victim = cloud.instance(), cloud.instance()
    server = world.server("skip_block_device = true")
    metadata = world.metadata(region.document(victim), region.sign(region.document(mine)))
    world.refusal(server, metadata, "instance identity document does not match the verified PKCS7 content")


def test_documents_of_others_are_refused(world, cloud, region, tmp_path):
    server = world.server("skip_block_device = true")
    instance = cloud.instance()
    forged = region.document(instance)
    other = Region(tmp_path / "other")
    world.refusal(server, world.metadata(forged, other.sign(forged)), "pkcs7: No certificate for signer")
    elsewhere = region.document(instance, region="us-east-1")
    world.refusal(server, world.metadata(elsewhere), "failed verification of instance identity cryptographic signature")
    unknown = region.document(instance, region="xx-none-1")
    world.refusal(server, world.metadata(unknown), "unsupported region")
    gone = region.document("i-00000000000000000")
    world.refusal(server, world.metadata(gone), "InvalidInstanceID.NotFound")


def test_an_instance_with_another_root_volume_is_refused(world, cloud, region):
    whole, exchanged = cloud.instance(), cloud.instance()
    cloud.exchange_root_volume(exchanged, minutes=5)
    server = world.server()
    expected = "root BlockDeviceMapping and NetworkInterface[0] attach times differ by "
    metadata = world.metadata(region.document(exchanged))
    world.refusal(server, metadata, expected)
    world.agent(server, world.metadata(region.document(whole)))
    local = world.server(f'account_ids_for_local_validation = ["{ACCOUNT}"]')
    world.agent(local, metadata)


def test_tags_name_agents_and_never_others(world, cloud, region):
    template = """skip_block_device = true
        agent_path_template = "/{{ .PluginName }}/{{ .AccountID }}/{{ .Tags.Hostname }}" """

    def instance(name):
        tags = [{"ResourceType": "instance", "Tags": [{"Key": "Hostname", "Value": name}]}]
        return cloud.instance(TagSpecifications=tags)

    server = world.server(template)
    climbing = world.metadata(region.document(instance("../../../victim")))
    world.refusal(server, climbing, "failed to create spiffe ID: invalid agent path suffix")
    world.agent(server, world.metadata(region.document(instance("host1"))))
    assert shown(server)[0] == f"/spire/agent/aws_iid/{ACCOUNT}/host1"


def test_instances_of_other_accounts_are_looked_up_in_a_role_of_theirs(world, cloud, region):
    account = "999999999999"
    assumed = cloud.client("sts").assume_role(RoleArn=f"arn:aws:iam::{account}:role/delegate", RoleSessionName="test")
    keys = assumed["Credentials"]
    theirs = cloud.client("ec2", keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])
    instance = cloud.instance(theirs)
    metadata = world.metadata(region.document(instance, account=account))
    alone = world.server("skip_block_device = true")
    world.refusal(alone, metadata, "InvalidInstanceID.NotFound")
    server = world.server('skip_block_device = true\nassume_role = "delegate"')
    world.agent(server, metadata)
    path, selectors, _ = shown(server)
    assert path == f"/spire/agent/aws_iid/{account}/{REGION}/{instance}"
    assert f"aws_iid:account_id:{account}" in selectors


def test_accounts_must_be_of_the_organization(world, cloud, region):
    organizations = cloud.client("organizations")
    organizations.create_organization(FeatureSet="ALL")
    for number in range(25):
        organizations.create_account(Email=f"a{number}@example.org", AccountName=f"a{number}")
    instance = cloud.instance()
    settings = f"""skip_block_device = true
        verify_organization = {{ management_account_id = "{ACCOUNT}" assume_org_role = "lister"
            management_account_region = "{REGION}" }}"""
    server = world.server(settings)
    stranger = world.metadata(region.document(instance, account="888888888888"))
    world.refusal(server, stranger, "nodes account id: 888888888888 is not part of configured organization")
    world.agent(server, world.metadata(region.document(instance)))


def test_nodes_must_be_of_the_cluster(world, cloud, region):
    ec2, eks, scaling = (cloud.client(it) for it in ("ec2", "eks", "autoscaling"))
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24")["Subnet"]["SubnetId"]
    role = f"arn:aws:iam::{ACCOUNT}:role/eks"
    eks.create_cluster(name="prod", roleArn=role, resourcesVpcConfig={"subnetIds": [subnet]})
    group = eks.create_nodegroup(clusterName="prod", nodegroupName="n", subnets=[subnet], nodeRole=role)["nodegroup"]
    name = group["resources"]["autoScalingGroups"][0]["name"]
    image = ec2.describe_images()["Images"][0]["ImageId"]
    scaling.create_launch_configuration(LaunchConfigurationName="lc", ImageId=image, InstanceType="t3.micro")
    scaling.create_auto_scaling_group(
        AutoScalingGroupName=name, LaunchConfigurationName="lc", MinSize=1, MaxSize=1, VPCZoneIdentifier=subnet
    )  # fmt: skip
    groups = scaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]
    node = groups[0]["Instances"][0]["InstanceId"]
    settings = 'skip_block_device = true\nvalidate_eks_cluster_membership = { eks_cluster_names = ["prod"] }'
    server = world.server(settings)
    outsider = cloud.instance()
    expected = f"nodes id: {outsider} is not part of configured EKS cluster"
    world.refusal(server, world.metadata(region.document(outsider)), expected)
    world.agent(server, world.metadata(region.document(node)))


def test_a_hostile_metadata_service_is_refused_within_limits(world, cloud, region):
    server = world.server("skip_block_device = true")
    document = region.document(cloud.instance())

    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(1000):
                handler.wfile.write(b"x" * 4096)
        except OSError:
            pass
        return True

    def redirecting(handler):
        handler.send_response(302)
        handler.send_header("Location", "http://127.0.0.1:1/")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    for change, expected in [
        (endless, "the answer is larger than 65536 bytes"),
        (redirecting, "http response error StatusCode: 302, request to EC2 IMDS failed"),
    ]:
        agent = world.agent(server, world.metadata(document, change=change), wait=False)
        log = agent.folder / "agent.log"
        wait_until(lambda log=log, expected=expected: expected in log.read_text(), f"{expected!r} in {log}")
        agent.daemon.kill()
    assert server.json("agent", "list")["agents"] == []


def test_spires_server_understands_our_agent_as_far_as_its_certificates_go(world, cloud, region):
    """SPIRE's server trusts AWS's keys alone, so it refuses; but for that reason, in the same words as ours."""
    bins = spire_binaries() or pytest.skip("skipped: SPIRE_BIN_DIR not set")
    instance = cloud.instance()
    signed = region.document(instance, region="us-east-1")
    other = region.document(instance)
    server = world.server("skip_block_device = true", bins=bins)
    prefix = "odeattestor(aws_iid): "
    verification = "failed verification of instance identity cryptographic signature: pkcs7: No certificate for signer"
    load = f'failed to load the AWS CA certificate for region \\"{REGION}\\": unsupported region \\"{REGION}\\"'
    world.refusal(server, world.metadata(signed), prefix + verification)
    world.refusal(server, world.metadata(other), prefix + load)


def test_the_configuration_is_checked_as_spires(world, tmp_path):
    """Both programs refuse the same settings in the same words."""
    bins = spire_binaries() or pytest.skip("skipped: SPIRE_BIN_DIR not set")
    for number, (settings, expected) in enumerate(
        [
            ('access_key_id = "A" secret_access_key = ""', "configuration missing secret access key, but has access key id"),
            ('partition = "mars"', 'invalid partition "mars", must be one of: [aws aws-cn aws-us-gov]'),
            ("verify_organization = {}", 'please ensure that "management_account_id" & "assume_org_role" are present'),
            ('agent_path_template = "/{{ .X "', 'failed to parse agent svid template: "/{{ .X "'),
        ]
    ):
        plugin = f'NodeAttestor "aws_iid" {{ plugin_data {{\n{settings.replace(" secret", chr(10) + "secret")}\n}} }}'
        said = []
        for side, own in enumerate([None, bins]):
            server = Server(tmp_path / f"c{number}{side}", bins=own, plugins=plugin).start(wait=False)
            assert wait_until(lambda server=server: not server.daemon.alive(), "the refusal")
            said.append((server.folder / "server.log").read_text().replace('\\"', '"'))
        assert all(expected in it for it in said), json.dumps(said)
