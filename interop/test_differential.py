"""The same 1,600 calls as were made on SPIRE, on our server: the same answers, the same audit log.

What SPIRE answered is in testdata/differential, recorded by

    SPIRE_BIN_DIR=... python3 test_differential.py

Where we differ on purpose is said below, and nowhere else may we.
"""

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness import BUILD, HERE, Server, spire_binaries

RECORDED = HERE / "testdata" / "differential"
PROGRAM = BUILD / "differential"

EXTRA = """
    audit_log_enabled = true
    admin_ids = ["spiffe://foreignadmin.org/x"]
    ratelimit { attestation = false signing = false }
    experimental { cache_reload_interval = "1s" }
"""

# Steps by name, and why their answers differ.
DIFFERENCES = {
    # Names
    r'(create|update bad) dns d(11|14|18|19|21|23|26|30) .*|mint dns .*a b.*':
        "a DNS name has to be one: no blanks, slashes, colons, NULs; and errors do not echo at length",
    r"create dns (order|overlap)": "the order of DNS names is the request's",
    r"(create|update bad) path long|token long|attest tcp slash token|token weird.*":
        "no SPIFFE ID over 2,048 bytes, and no join token that makes none",
    # What follows from there being fewer entries of such names
    r"count|debug|(list|count) (nil|empty|hint empty)|update back.*": "follows from the refused DNS names",
    r"update (mask store mixed|to similar of e2)": "an update keeps the rules of a creation",
    # Numbers that mean nothing are the caller's mistake, not ours
    r"(list|count|agents|count agents) (sel|fed|fed\+sel) 4.*|page token .* size 2|agents token .*|fedlist token .*|"
    r"(agents|count agents) exp (bad|rfc|nozone)":
        "InvalidArgument where SPIRE says Internal, and shorter texts",
    # Keys, certificates and CSRs
    r"fed(create|update|set) (bad cert|bad key|empty cert|no key|neg hint|neg exp|new|two in one)|fedupdate mask .*|fedlist|"
    r"append (bad|jwt bad|jwt tainted|x509 tainted)|relate (again )?bundle bad|publish bad \(.*|publish ok|down svid.*":
        "our own words for broken DER; one certificate is one certificate; no negative times",
    r".*(csr |mint |downstream |key |batch )+(bad sig|garbage|empty seq|trailing|truncated|p224|rsa1024|ec-P-224|rsa-1024).*":
        "our own words for broken DER; keys below 2,048 bits and P-224 are refused; every CSR proves its key",
    r"attest csr .* token again": "an attestation that failed by its CSR does not spend the token",
    r"attest (tcp|local) unknown type long": "errors do not echo at length",
    r"agents (nil|empty|exp.*|noreattest|not banned|sel . none|type|size.*|full)|count agents (nil|empty|exp.*|noreattest|not banned|sel . none|type)":
        "follows from the refused CSRs",
    # TLS
    r"(selfsigned|foreign|nouri|twouri|baduri|agent\+leaf only wrong key) .*":
        "a certificate that is no identity of ours is answered with Unauthenticated and why, not with a TLS alert",
    # gRPC
    r"(local|agent|nobody) raw .*": "a field of a wrong wire type is refused; who may not call learns no size",
    r"sync big few": "an entry that was asked for twice is sent once",
    r"(svid|newjwt) rexp.*": "an entry that has expired gives no identity",
    r"mint ttl .*|x509 state|jwt state|bundle after|token max ttl": "times of a run",
}

# Lines of the audit log by method and code, and why their fields differ.
AUDIT_DIFFERENCES = {
    ("MintWITSVID", "Unimplemented"): "has the ttl that was asked for, whether or not WIT-SVIDs are on",
    ("NewJWTSVID", "InvalidArgument"): "without the entry's SPIFFE ID when the audience is what is wrong",
    ("NewJWTSVID", "Internal"): "likewise",
    ("AttestAgent", "InvalidArgument"): "a CSR is looked at before there is an agent's ID",
    ("ListEntries", "Internal"): "InvalidArgument here, as above",
    ("CountEntries", "Internal"): "likewise",
}

COMMON = {"time", "level", "msg", "request_id", "caller_path"}


def build():
    BUILD.mkdir(exist_ok=True)
    subprocess.run(["go", "build", "-o", str(PROGRAM), "."], cwd=HERE / "differential", check=True)


def run(folder, bins):
    """Makes the calls on a fresh server; gives the answers by step and the kinds of audit lines."""
    server = Server(folder, bins=bins, extra=EXTRA).start()
    out = Path(folder) / "answers"
    try:
        subprocess.run(
            [PROGRAM, server.socket, f"127.0.0.1:{server.port}", folder / "server.log", out],
            check=True, timeout=280, env={**os.environ, "GODEBUG": "rsa1024min=0"},
        )
    finally:
        assert server.stop() == 0
    return steps(out.read_text(errors="replace")), audit((folder / "server.log").read_text(errors="replace"))


def steps(text):
    """The answer of each step; a name that comes again is counted."""
    answers, lines = {}, None
    for line in text.split("\n"):
        if line.startswith('## "'):
            name = base = line[4:-1]
            number = 1
            while name in answers:
                number += 1
                name = f"{base} ({number})"
            lines = answers[name] = []
        elif lines is not None and not line.startswith("   LOG "):
            lines.append(line)
    return {name: "\n".join(lines) for name, lines in answers.items()}


def audit(log):
    """What fields the audit lines have, by method and status code."""
    kinds = {}
    for line in log.split("\n"):
        if "type=audit" not in line:
            continue
        fields = dict(re.findall(r'([\w.]+)=("(?:[^"\\]|\\.)*"|\S*)', line))
        key = f"{fields['service']}/{fields['method']} {fields['status']} {fields.get('status_code', '')}"
        # How many authorities there are depends on the call.
        names = sorted({re.sub(r"\.\d+$", ".N", name) for name in fields if name not in COMMON})
        kinds.setdefault(key, set()).add(" ".join(names))
    return {key: sorted(value) for key, value in kinds.items()}


def recorded():
    answers = gzip.decompress((RECORDED / "answers.json.gz").read_bytes())
    return json.loads(answers), json.loads((RECORDED / "audit.json").read_text())


def record():
    build()
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        answers, lines = run(Path(folder), spire_binaries())
    RECORDED.mkdir(parents=True, exist_ok=True)
    text = json.dumps(answers, indent=0, sort_keys=True).encode()
    (RECORDED / "answers.json.gz").write_bytes(gzip.compress(text, mtime=0))
    (RECORDED / "audit.json").write_text(json.dumps(lines, indent=1, sort_keys=True) + "\n")


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    build()
    return run(tmp_path_factory.mktemp("differential"), None)


def test_every_call_is_answered_as_spire_answers(ours):
    theirs, _ = recorded()
    answers, _ = ours
    assert set(answers) - set(theirs) <= {name for name in answers if explained(name)}
    differing = [name for name in theirs if answers.get(name) != theirs[name]]
    unexplained = [name for name in differing if not explained(name)]
    shown = [f"{name}\n  SPIRE {theirs[name][:300]}\n  ours  {answers.get(name, '-')[:300]}" for name in unexplained[:10]]
    assert not unexplained, f"{len(unexplained)} of {len(theirs)} answers differ:\n" + "\n".join(shown)
    assert len(theirs) - len(differing) > 1200


def explained(name):
    name = re.sub(r" \(\d+\)$", "", name) if not name.startswith("publish bad") else name
    return any(re.fullmatch(pattern, name, re.S) for pattern in DIFFERENCES)


def test_the_audit_log_has_the_fields_of_spires(ours):
    _, theirs = recorded()
    _, lines = ours
    wrong = []
    for key, kinds in theirs.items():
        where, _, code = key.split(" ")
        if (where.rsplit("/", 1)[1], code) in AUDIT_DIFFERENCES or key not in lines:
            continue
        # Every kind of line of SPIRE's is one of ours.
        for kind in set(kinds) - set(lines[key]):
            wrong.append(f"{key}\n  SPIRE {kind}\n  ours  {lines[key]}")
    assert not wrong, "\n".join(wrong)
    methods = {key.split(" ")[0] for key in theirs}
    assert methods <= {key.split(" ")[0] for key in lines}, "methods without a line"


def test_the_recording_is_what_spire_answers(spire, tmp_path):
    build()
    answers, lines = run(tmp_path, spire)
    theirs, audit_lines = recorded()
    assert {name for name in theirs if answers.get(name) != theirs[name]} <= {
        name for name in theirs if explained(name)
    }
    assert lines == audit_lines


if __name__ == "__main__":
    if spire_binaries() is None:
        sys.exit("SPIRE_BIN_DIR not set")
    record()
