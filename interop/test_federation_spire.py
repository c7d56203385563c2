"""Bundles and relationships: both servers and both command lines give the same answers."""

import json
import re

import pytest
from federation import Domain, rpc
from harness import binaries, spire_binaries

TRUST = "/spire.api.server.trustdomain.v1.TrustDomain/"
BUNDLE = "/spire.api.server.bundle.v1.Bundle/"


def web(name, url="https://c.test/x", **more):
    return {"trust_domain": name, "bundle_endpoint_url": url, "https_web": {}, **more}


def spiffe(name, url, endpoint):
    return {"trust_domain": name, "bundle_endpoint_url": url, "https_spiffe": {"endpoint_spiffe_id": endpoint}}


def create(*relationships, **options):
    return TRUST + "BatchCreateFederationRelationship", {"federation_relationships": relationships, **options}


def update(*relationships, **options):
    return TRUST + "BatchUpdateFederationRelationship", {"federation_relationships": relationships, **options}


def listed(**options):
    return TRUST + "ListFederationRelationships", options


def get(name, **options):
    return TRUST + "GetFederationRelationship", {"trust_domain": name, **options}


def bundles(method, *of, **options):
    return f"{BUNDLE}Batch{method}FederatedBundle", {"bundle": of, **options}


def delete(*names, mode="RESTRICT"):
    return BUNDLE + "BatchDeleteFederatedBundle", {"trust_domains": names, "mode": mode}


def of(name, **fields):
    return {"trust_domain": name, **fields}


# In order: later calls see what earlier ones left.
CALLS = [
    listed(),
    create(web("c.test"), web("c.test"), web("a.test"), web("C"), {}),
    create(web("d.test", "http://x"), web("d.test", "https://u@x"), web("d.test", "https://"), web("d.test", "https://a b")),
    create(web("d.test", "1x:y"), web("d.test", ":"), web("d.test", "/x"), web("d.test", "https://x:y"), web("d.test", "https://%zz/")),
    create({"trust_domain": "d.test", "bundle_endpoint_url": "https://d"}, spiffe("d.test", "https://d", "nope"),
           spiffe("d.test", "https://d", ""), spiffe("d.test", "https://d", "spiffe://D/x")),
    create(web("d.test", trust_domain_bundle=of("e.test")), web("d.test", trust_domain_bundle=of("E"))),
    create(web("f.test", trust_domain_bundle=of("f.test", refresh_hint="5", sequence_number="9"))),
    create(web("g.test", "HTTPS://G.test:8443/a%20b?c#d"), output_mask={"bundle_endpoint_url": True}),
    create(spiffe("h.test", "https://h", "spiffe://zz.test/x"), output_mask={}),
    listed(page_size=2),
    listed(page_size=2, page_token="2"),
    listed(page_size=2, page_token="99"),
    listed(page_size=2, page_token="x"),
    listed(page_size=-1, page_token="x"),
    listed(page_size=2147483647),
    listed(output_mask={}),
    listed(output_mask={"trust_domain_bundle": True}),
    get("c.test"),
    get("spiffe://f.test"),
    get("spiffe://f.test/path", output_mask={"bundle_endpoint_profile": True}),
    get("none.test"),
    get("N"),
    get(""),
    update(web("none.test"), web("a.test"), web("c.test", "https://new"), {"trust_domain": "c.test", "bundle_endpoint_url": "https://newer"}),
    update(spiffe("c.test", "https://newest", "spiffe://zz.test/x"), input_mask={"bundle_endpoint_url": True}),
    update(spiffe("c.test", "https://unused", "spiffe://zz.test/x"), input_mask={"bundle_endpoint_profile": True},
           output_mask={"bundle_endpoint_profile": True}),
    update(web("c.test", trust_domain_bundle=of("c.test", refresh_hint="77")), input_mask={"trust_domain_bundle": True}),
    update(web("c.test"), input_mask={}),
    get("c.test"),
    (TRUST + "BatchDeleteFederationRelationship", {"trust_domains": ["c.test", "c.test", "", "X", "spiffe://f.test"]}),
    (TRUST + "RefreshBundle", {"trust_domain": "none.test"}),
    (TRUST + "RefreshBundle", {"trust_domain": "N"}),
    (TRUST + "RefreshBundle", {}),
    (TRUST + "RefreshBundle", {"trust_domain": "h.test"}),
    (BUNDLE + "CountBundles", {}),
    (BUNDLE + "ListFederatedBundles", {}),
    (BUNDLE + "ListFederatedBundles", {"page_size": 1}),
    (BUNDLE + "ListFederatedBundles", {"page_size": 1, "page_token": "1"}),
    (BUNDLE + "ListFederatedBundles", {"page_size": 1, "page_token": "z"}),
    (BUNDLE + "ListFederatedBundles", {"output_mask": {}}),
    (BUNDLE + "GetFederatedBundle", {"trust_domain": "c.test"}),
    (BUNDLE + "GetFederatedBundle", {"trust_domain": "c.test", "output_mask": {}}),
    (BUNDLE + "GetFederatedBundle", {"trust_domain": "none.test"}),
    (BUNDLE + "GetFederatedBundle", {"trust_domain": "a.test"}),
    (BUNDLE + "GetFederatedBundle", {"trust_domain": "N"}),
    bundles("Create", of("c.test"), of("a.test"), of("N"), {}, of("i.test", refresh_hint="7", sequence_number="8")),
    bundles("Update", of("i.test", refresh_hint="70", sequence_number="80"), input_mask={"refresh_hint": True}),
    bundles("Update", of("i.test", refresh_hint="1", sequence_number="2"), input_mask={}),
    bundles("Update", of("none.test"), of("a.test"), of("N")),
    bundles("Set", of("i.test", refresh_hint="1"), of("l.test"), of("a.test"), of("N"), output_mask={"refresh_hint": True}),
    delete("l.test", "l.test", "a.test", "N", ""),
    delete("i.test", mode=9),
    (BUNDLE + "AppendBundle", {}),
]

FLAGS = ["-trustDomain", "m.test", "-bundleEndpointURL", "https://m.test", "-bundleEndpointProfile"]
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
FILE = json.dumps({"federationRelationships": [
    {"trustDomain": "q.test", "bundleEndpointURL": "https://q.test", "bundleEndpointProfile": "https_web"},
    {"trustDomain": "a.test", "bundleEndpointURL": "https://q.test", "bundleEndpointProfile": "https_web"},
    {"TRUSTDOMAIN": "r.test", "bundleEndpointURL": "https://r.test", "bundleEndpointProfile": "https_spiffe",
     "endpointSPIFFEID": "spiffe://r.test/s", "trustDomainBundle": {"keys": [], "spiffe_refresh_hint": 6, "spiffe_sequence": 4},
     "trustDomainBundleFormat": "spiffe"},
]})


def file(**fields):
    record = {"trustDomain": "s.test", "bundleEndpointURL": "https://s", "bundleEndpointProfile": "https_web", **fields}
    return json.dumps({"federationRelationships": [record]})


# Verbs, and what is on standard input.
VERBS = [
    (["federation", "create"], None),
    (["federation", "create", "-help"], None),
    (["federation", "update", "-help"], None),
    (["federation", "delete", "-help"], None),
    (["federation", "show", "-help"], None),
    (["federation", "list", "-help"], None),
    (["federation", "refresh", "-help"], None),
    (["federation", "create", "-trustDomain", "m.test"], None),
    (["federation", "create", *FLAGS, "nonsense"], None),
    (["federation", "create", *FLAGS, "https_spiffe"], None),
    (["federation", "create", *FLAGS, "https_spiffe", "-endpointSpiffeID", "x"], None),
    (["federation", "create", *FLAGS, "https_web", "-trustDomainBundlePath", "/nowhere"], None),
    (["federation", "create", *FLAGS, "https_web", "-data", "-"], FILE),
    (["federation", "create", "-data", "/nowhere"], None),
    (["federation", "create", "-data", "-"], "{}"),
    (["federation", "create", "-data", "-"], file(trustDomain="")),
    (["federation", "create", "-data", "-"], file(bundleEndpointURL="")),
    (["federation", "create", "-data", "-"], file(bundleEndpointProfile="x")),
    (["federation", "create", "-data", "-"], file(trustDomainBundle="x")),
    (["federation", "create", "-data", "-"], file(trustDomainBundle={}, trustDomainBundleFormat="spiffe")),
    (["federation", "create", "-data", "-"], file(trustDomainBundle="x", trustDomainBundleFormat="pem")),
    (["federation", "update", *FLAGS, "https_web"], None),
    (["federation", "update", "-data", "-"], FILE),
    (["federation", "show"], None),
    (["federation", "show", "-trustDomain", "none.test"], None),
    (["federation", "show", "-trustDomain", "N"], None),
    (["federation", "show", "-trustDomain", "kept.test"], None),
    (["federation", "show", "-trustDomain", "kept.test", "-output", "json"], None),
    (["federation", "list"], None),
    (["federation", "list", "-output", "json"], None),
    (["federation", "delete"], None),
    (["federation", "delete", "-id", "none.test"], None),
    (["federation", "delete", "-id", "none.test", "-output", "json"], None),
    (["federation", "delete", "-id", "N"], None),
    (["federation", "refresh"], None),
    (["federation", "refresh", "-id", "none.test"], None),
    (["federation", "refresh", "-id", "N"], None),
    (["federation", "refresh", "-id", "bare.test"], None),
    (["federation", "refresh", "-id", "bare.test", "-output", "json"], None),
    (["bundle", "count"], None),
    (["bundle", "count", "-output", "json"], None),
    (["bundle", "list"], None),
    (["bundle", "list", "-format", "spiffe"], None),
    (["bundle", "list", "-output", "json"], None),
    (["bundle", "list", "-id", "kept.test", "-format", "SPIFFE"], None),
    (["bundle", "list", "-id", "kept.test", "-output", "json"], None),
    (["bundle", "list", "-id", "none.test"], None),
    (["bundle", "list", "-id", "a.test"], None),
    (["bundle", "list", "-format", "x"], None),
    (["bundle", "set"], None),
    (["bundle", "set", "-id", "t.test", "-format", "x"], None),
    (["bundle", "set", "-id", "t.test", "-path", "/nowhere"], None),
    (["bundle", "set", "-id", "t.test"], ""),
    (["bundle", "set", "-id", "t.test"], PEM),
    (["bundle", "set", "-id", "T", "-format", "spiffe"], "{}"),
    (["bundle", "set", "-id", "t.test", "-format", "spiffe"], "{}"),
    (["bundle", "set", "-id", "t.test", "-format", "spiffe"], '{"keys":null}'),
    (["bundle", "set", "-id", "a.test", "-format", "spiffe"], '{"keys":[]}'),
    (["bundle", "set", "-id", "kept.test", "-format", "spiffe"], '{"keys":[{"use":"x509-svid","kty":"EC","crv":"P-256",'
     '"x":"fK-wKTnKL7KFLM27lqq5DC-bxrVaH6rDV-IcCSEOeL4","y":"wq-g3TQWxYlV51TCPH030yXsRxvujD4hUUaIQrXk4KI"}]}'),
    (["bundle", "set", "-id", "kept.test", "-format", "spiffe"], '{"keys":[],"spiffe_sequence":3,"spiffe_refresh_hint":9}'),
    (["bundle", "set", "-id", "kept.test", "-format", "spiffe", "-output", "json"],
     '{"keys":[{"use":"other","kty":"oct","k":"AA"}],"spiffe_sequence":3}'),
    (["bundle", "delete"], None),
    (["bundle", "delete", "-id", "none.test"], None),
    (["bundle", "delete", "-id", "a.test"], None),
    (["bundle", "delete", "-id", "kept.test", "-mode", "x"], None),
    (["bundle", "delete", "-id", "kept.test"], None),
    (["bundle", "delete", "-id", "none.test", "-output", "json"], None),
]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    if spire_binaries() is None:
        pytest.skip("SPIRE_BIN_DIR not set")
    folder = tmp_path_factory.mktemp("both")
    ours = Domain(folder / "ours", "a.test").start()
    theirs = Domain(folder / "theirs", "a.test", bins=spire_binaries()).start()
    yield ours, theirs
    ours.stop()
    theirs.stop()


def clear(server):
    """Leaves the server's own bundle and nothing else."""
    for relationship in server.json("federation", "list")["federation_relationships"]:
        server.cli("federation", "delete", "-id", relationship["trust_domain"])
    entries = server.json("entry", "show")["entries"]
    for entry in entries:
        server.cli("entry", "delete", "-entryID", entry["id"])
    for bundle in server.json("bundle", "list")["bundles"]:
        server.cli("bundle", "delete", "-id", bundle["trust_domain"])


def same_words(text):
    """Without what each run has of its own."""
    return re.sub(r'created_at[\\"]+:[\\"]+\d+', "created_at", text)


def test_every_method_answers_the_same(both):
    answers = []
    for server in both:
        clear(server)
        server.prepared = False
        answers.append(rpc(server, *CALLS))
    for call, mine, yours in zip(CALLS, *answers, strict=True):
        assert mine == yours, call
    assert len(CALLS) == len(answers[0])


def prepare(server):
    """The state that each verb finds."""
    clear(server)
    server.cli("bundle", "set", "-id", "kept.test", "-format", "spiffe", stdin='{"keys":[],"spiffe_refresh_hint":5}')
    for name in ["kept", "bare"]:
        server.cli("federation", "create", "-trustDomain", f"{name}.test", "-bundleEndpointURL", f"https://{name}.invalid",
                   "-bundleEndpointProfile", "https_spiffe", "-endpointSpiffeID", f"spiffe://{name}.test/s")
    server.entry("/w", "spiffe://a.test/p", "unix:uid:7", options=["-federatesWith", "kept.test"])
    server.prepared = True


@pytest.mark.parametrize("verb, stdin", VERBS, ids=lambda it: " ".join(it) if isinstance(it, list) else "")
def test_every_verb_prints_the_same(verb, stdin, both, spire):
    """Four combinations, one answer: stdout, stderr, exit code."""
    answers = {}
    for server in both:
        for bins in [binaries(), spire]:
            if not getattr(server, "prepared", False):
                prepare(server)
            server.prepared = verb[1] not in ["create", "update", "set", "delete"]
            result = server.cli(*verb, bins=bins, check=False, stdin=stdin)
            whose = f"{'their' if bins == spire else 'our'} CLI, {'our' if server is both[0] else 'their'} server"
            answers[whose] = json.dumps([result.returncode, same_words(result.stdout), same_words(result.stderr)])
    assert len(set(answers.values())) == 1, json.dumps(answers, indent=1)
