"""azure_msi and azure_imds against a stand-in for Azure, with our programs and SPIRE's."""

import re
import time

import netns
import pytest
from azure import AUDIENCE, PRINCIPAL, SUBSCRIPTION, TENANT, VM, Authority, Azure, encode, key
from harness import spire_binaries, wait_until

MISSING = netns.missing()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"skipped: {MISSING}")

MSI = [
    "network-security-group:frontend:webservers",
    f"subscription-id:{SUBSCRIPTION}",
    "virtual-network-subnet:frontend:vnet:default",
    "virtual-network:frontend:vnet",
    "vm-name:frontend:blog",
]
IMDS = [
    "network-security-group:frontend:webservers",
    "resource-group:frontend",
    f"subscription-id:{SUBSCRIPTION}",
    "virtual-network-subnet:vnet:default",
    "virtual-network:vnet",
    "vm-location:eastus",
    "vm-name:blog",
    "vm-tag:environment:production",
]
PATHS = {
    "azure_msi": f"/spire/agent/azure_msi/{TENANT}/{PRINCIPAL}",
    "azure_imds": f"/spire/agent/azure_imds/{TENANT}/{SUBSCRIPTION}/{VM}",
}
SELECTORS = {"azure_msi": MSI, "azure_imds": IMDS}


def binaries_of(whose):
    """Where the binaries are; None for ours."""
    if whose == "ours":
        return None
    return spire_binaries() or pytest.skip("skipped: SPIRE_BIN_DIR not set")


class World:
    def __init__(self, folder):
        self.folder = folder
        self.azure = Azure(folder / "azure")
        self.made = []

    def server(self, plugins=None, bins=None):
        plugins = plugins or self.azure.msi() + self.azure.imds()
        self.made.append(self.azure.server(self.folder / f"server{len(self.made)}", plugins, bins))
        return self.made[-1]

    def agent(self, server, attestor, bins=None, wait=True):
        agent = self.azure.agent(self.folder / f"agent{len(self.made)}", server, attestor, bins)
        self.made.append(agent)
        return agent.start(wait=wait)

    def refusal(self, server, attestor, bins=None, seconds=30):
        """What an agent of ours says of its first attempt, which fails: code and text."""
        agent = self.agent(server, attestor, bins=bins, wait=False)
        pattern = re.compile(r'rpc error: code = (\w+) desc = (.*?)"?(?: [a-z_]+=.*)?\n')
        found = wait_until(
            lambda: pattern.search(agent.folder.joinpath("agent.log").read_text()),
            f"a refusal in {agent.folder}/agent.log", seconds,
        )  # fmt: skip
        agent.daemon.kill()
        assert server.json("agent", "list").get("agents", []) == []
        return found[1], found[2].replace('\\"', '"').replace(f"nodeattestor({attestor}): ", "")

    def close(self):
        for it in reversed(self.made):
            if it.daemon:
                it.daemon.kill()
        self.azure.stop()


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.close()


def shown(server):
    """Path and values of selectors of the only agent."""
    agents = server.json("agent", "list")["agents"]
    assert len(agents) == 1, agents
    agent = server.json("agent", "show", "-spiffeID", f"spiffe://example.org{agents[0]['id']['path']}")
    kind = agent["attestation_type"]
    assert {it["type"] for it in agent["selectors"]} == {kind}
    assert not agent.get("can_reattest")
    return agent["id"]["path"], sorted(it["value"] for it in agent["selectors"])


@pytest.mark.parametrize("attestor", ["azure_msi", "azure_imds"])
@pytest.mark.parametrize("whose", ["ours-ours", "ours-spire", "spire-ours", "spire-spire"])
def test_a_machine_is_attested_and_found_with_all_its_selectors(world, whose, attestor):
    server_bins, agent_bins = map(binaries_of, whose.split("-"))
    server = world.server(bins=server_bins)
    world.agent(server, attestor, bins=agent_bins)
    assert shown(server) == (PATHS[attestor], SELECTORS[attestor])


@pytest.mark.parametrize("whose", ["ours", "spire"])
def test_a_machine_of_a_scale_set_is_found_there(world, whose):
    server = world.server(world.azure.imds(), binaries_of(whose))
    world.azure.change(instance={**world.azure.state["instance"], "vmScaleSetName": "myvmss"})
    world.agent(server, "azure_imds")
    changed = {"vm-name:blog": "vm-name:myvmss_1", "vm-tag:environment:production": "vm-tag:team:alpha"}
    expected = [changed.get(it, it) for it in IMDS] + ["vmss-name:myvmss"]
    assert shown(server) == (PATHS["azure_imds"], sorted(expected))


@pytest.mark.parametrize("attestor", ["azure_msi", "azure_imds"])
def test_evidence_counts_once_until_the_agent_is_evicted(world, attestor):
    server = world.server()
    world.agent(server, attestor)
    again = world.agent(server, attestor, wait=False)
    log = again.folder / "agent.log"
    wait_until(lambda: "attestation data has already been used to attest an agent" in log.read_text(), "the refusal")
    again.daemon.kill()
    said = (server.folder / "server.log").read_text()
    assert "Attestation data has already been used to attest an agent" in said
    server.cli("agent", "evict", "-spiffeID", f"spiffe://example.org{PATHS[attestor]}")
    world.agent(server, attestor)
    assert shown(server) == (PATHS[attestor], SELECTORS[attestor])


def test_without_an_application_the_servers_own_identity_is_used(world):
    world.azure.change(tokens={**world.azure.state["tokens"], "https://management.azure.com": "arm.token.x"})
    settings = 'subscription_id = ""'
    server = world.server(world.azure.msi(settings))
    world.agent(server, "azure_msi")
    assert shown(server) == (PATHS["azure_msi"], MSI)
    assert not [it for it in world.azure.asked("/oauth2/v2.0/token") if it["host"] != "169.254.169.254"]


def test_a_token_in_a_file_proves_the_servers_application(world):
    token = world.folder / "token"
    token.write_text(world.azure.token() + "\n")
    world.azure.change(proof=token.read_text().strip())
    plugin = world.azure.imds().replace(
        'secret_auth = { app_id = "APPID" app_secret = "s3cret" }',
        f'token_auth = {{ app_id = "APPID" token_path = "{token}" }}',
    )
    server = world.server(plugin)
    world.agent(server, "azure_imds")
    assert shown(server) == (PATHS["azure_imds"], IMDS)


def bad_tokens(azure):
    """Tokens that are refused, with code and how the text begins, and whether SPIRE says the same."""
    claims = encode({"sub": PRINCIPAL, "tid": TENANT})
    now = int(time.time())
    invalid = "unable to validate token claims: go-jose/go-jose/jwt: validation failed, "
    primitive = "unable to verify token: go-jose/go-jose: error in cryptographic primitive"
    algorithm = 'unable to parse token: unexpected signature algorithm "{}"; expected ["RS256" "RS384" "RS512"'
    good = azure.token()
    return {
        "none": (f"{encode({'alg': 'none', 'kid': 'one'})}.{claims}.", "InvalidArgument", algorithm.format("none"), True),
        "hmac": (azure.token({"alg": "HS256"}), "InvalidArgument", algorithm.format("HS256"), True),
        "no key id": (azure.token({"kid": ""}), "InvalidArgument", "token missing key id", True),
        "unknown key": (azure.token({"kid": "two"}), "InvalidArgument", 'key id "two" not found', True),
        "forged": (azure.token(holder=key()), "InvalidArgument", primitive, True),
        "truncated": (good[:-6], "InvalidArgument", primitive, True),
        "two parts": (good[: good.rindex(".")], "InvalidArgument", "unable to parse token: go-jose/go-jose: ", True),
        "other tenant": (azure.token(tid="other"), "PermissionDenied", 'tenant "other" is not authorized', True),
        "no tenant": (azure.token(tid=None), "Internal", "token missing tenant ID claim", True),
        "no subject": (azure.token(sub=None), "Internal", "token missing subject claim", True),
        "audience": (azure.token(aud="https://vault.azure.net"), "Internal", f"{invalid}invalid audience claim (aud)", True),
        "expired": (azure.token(exp=now - 400), "Internal", f"{invalid}token is expired (exp)", True),
        "early": (azure.token(nbf=now + 900), "Internal", f"{invalid}token not valid yet (nbf)", True),
        "issuer": (azure.token(iss="https://sts.windows.net/x/"), "Internal", f"{invalid}invalid issuer claim (iss)", False),
        "path": (azure.token(sub="../../x"), "Internal", "unable to make agent ID: invalid agent path suffix", True),
        "other machine": (azure.token(sub="nobody"), "Internal", 'unable to get resource for principal "nobody": ', True),
        "oversized": (good + "A" * 20000, "InvalidArgument", "", False),
    }  # fmt: skip


def test_bad_tokens_are_refused_with_spires_codes_and_words(world):
    ours = world.server(world.azure.msi())
    spires = spire_binaries() and world.server(world.azure.msi(), spire_binaries())
    for name, (token, code, text, same) in bad_tokens(world.azure).items():
        world.azure.change(tokens={AUDIENCE: token})
        refused = world.refusal(ours, "azure_msi")
        assert refused[0] == code and refused[1].startswith(text), (name, refused)
        if spires and same:
            assert world.refusal(spires, "azure_msi") == refused, name
    assert len(world.azure.asked("discovery/keys")) <= 4


def bad_documents(azure):
    """What makes documents bad, with code and how the text begins, and whether SPIRE says the same."""
    where = "http://www.microsoft.com/pkiops/certs/Issuing.crt"
    service = ["eastus.metadata.azure.com"]
    other = Authority(azure.folder, "other-root")
    other.make("stranger", key(), dns=service, aia=where)
    other.make("nobody", key(), dns=["attacker.example.test"], aia=where)
    azure.issuing.make("no-issuer", key(), dns=service)
    azure.issuing.make("elsewhere", key(), dns=service, aia="http://169.254.169.254/metadata/instance")
    azure.issuing.make("web", key(), dns=["www.example.com"], aia=where)
    document = "failed to validate attested document: "
    chain = f"{document}certificate chain validation failed: signing certificate was not issued by intermediate"
    name = f"{document}signing certificate validation failed: certificate does not have any valid domain in SAN"
    issuer = f"{document}failed to get intermediate certificate: "
    host = 'CA Issuers URL host "169.254.169.254" does not match expected value "www.microsoft.com"'
    return {
        "nonce": ({"change": {"nonce": "x"}}, "InvalidArgument", "nonce mismatch", True),
        "no machine": ({"change": {"vmId": ""}}, "InvalidArgument", "missing VM ID in attested document", True),
        "no subscription": ({"change": {"subscriptionId": ""}}, "InvalidArgument", "missing subscription ID in", True),
        "machine": ({"change": {"vmId": "x"}}, "InvalidArgument", 'invalid VM ID: invalid UUID format: "x": uuid: ', True),
        "subscription": ({"change": {"subscriptionId": "x"}}, "PermissionDenied", 'subscription "x" is not authorized', True),
        "other machine": ({"change": {"vmId": VM.replace("5", "6")}}, "NotFound", "resource not found", True),
        "other set": ({"instance": {**azure.state["instance"], "vmScaleSetName": "a'b"}}, "InvalidArgument",
                      "invalid VMSS name: VMSS name can only contain alphanumeric characters, underscores", True),
        "stranger": ({"signer": "stranger"}, "InvalidArgument", chain, False),
        # The flaw of SPIRE before 1.15.1: the genuine certificate lies in the message, another one signed.
        "stranger's bag": ({"signer": "stranger", "bag": ["service"]}, "InvalidArgument", chain, False),
        "nobody's bag": ({"signer": "nobody", "bag": ["service"]}, "InvalidArgument", name, True),
        "web server": ({"signer": "web"}, "InvalidArgument", name, True),
        "no issuer": ({"signer": "no-issuer"}, "InvalidArgument", f"{issuer}failed to extract CA Issuers URL: no CA", True),
        "elsewhere": ({"signer": "elsewhere"}, "InvalidArgument", issuer + host, True),
        "no message": ({"replay": "AAAA"}, "InvalidArgument", f"{document}failed to parse PKCS7 signature: ", False),
        "no base64": ({"replay": "!"}, "InvalidArgument", f"{document}failed to decode signature: ", False),
        "oversized": ({"replay": "A" * 60000}, "InvalidArgument", f"{document}failed to parse PKCS7 signature: ", False),
    }  # fmt: skip


def test_bad_documents_are_refused_with_spires_codes_and_words(world):
    settings = f'restrict_to_subscriptions = ["{SUBSCRIPTION}"]'
    ours = world.server(world.azure.imds(settings))
    spires = spire_binaries() and world.server(world.azure.imds(settings), spire_binaries())
    for name, (change, code, text, same) in bad_documents(world.azure).items():
        honest = {it: world.azure.state.get(it) for it in ("change", "instance", "signer", "replay")}
        honest.update(change={}, signer="service", bag=[])
        world.azure.change(**{**honest, **change})
        refused = world.refusal(ours, "azure_imds")
        assert refused[0] == code and refused[1].startswith(text), (name, refused)
        if spires and same:
            assert world.refusal(spires, "azure_imds") == refused, name
        world.azure.change(**honest)


def test_a_document_that_was_shown_before_is_refused(world):
    server = world.server()
    world.agent(server, "azure_imds")
    server.cli("agent", "evict", "-spiffeID", f"spiffe://example.org{PATHS['azure_imds']}")
    shown_before = (world.azure.folder / "documents.txt").read_text().split()
    world.azure.change(replay=shown_before[0])
    assert world.refusal(server, "azure_imds") == ("InvalidArgument", "nonce mismatch")


def test_a_hostile_metadata_service_gets_an_agent_nowhere(world):
    server = world.server()
    for attestor, faults in (("azure_msi", ["redirect", "huge", "slow"]), ("azure_imds", ["redirect", "endless", "500"])):
        for fault in faults:
            world.azure.change(faults={"169.254.169.254/metadata": fault})
            code, text = world.refusal(server, attestor)
            assert code == "Internal" and text.startswith("unable to fetch "), text
            assert "stolen" not in text and len(text) < 1000
    assert not world.azure.asked("stolen")


@pytest.mark.parametrize("attestor, where, faults", [
    ("azure_msi", "login.microsoftonline.com/common", ["redirect", "slow"]),
    ("azure_imds", "login.microsoftonline.com/example.com/.well-known", ["redirect", "huge", "500"]),
    ("azure_imds", "www.microsoft.com", ["redirect", "huge", "endless"]),
])  # fmt: skip
def test_hostile_services_get_no_identity_and_no_more_than_their_time(world, attestor, where, faults):
    server = world.server()
    for fault in faults:
        world.azure.change(faults={where: fault})
        start = time.monotonic()
        code, text = world.refusal(server, attestor)
        assert time.monotonic() - start < 25
        assert code in ("Internal", "InvalidArgument") and len(text) < 1000, text
    assert not world.azure.asked("stolen")
    # And it is over when they are well again.
    world.azure.change(faults={})
    time.sleep(3)
    world.agent(server, attestor)
    assert shown(server) == (PATHS[attestor], SELECTORS[attestor])
