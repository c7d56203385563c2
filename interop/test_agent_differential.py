"""What is asked of an agent by command line, call and configuration: answered as SPIRE's agent answers.

What SPIRE's answered is in golden/, recorded by

    SPIRE_BIN_DIR=... python3 test_agent_differential.py

Where we differ on purpose is said below, and nowhere else may we.
"""

import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import agent_differential as asked
import pytest
from harness import HERE, binaries, spire_binaries

GOLDEN = HERE / "golden"

# Names of questions, and why their answers differ.
DIFFERENCES = {
    r".*-socketPath ": "an empty path is no path; SPIRE takes the working directory",
    r"api validate nonsense": "the list of a group's commands comes alone",
    r"validate typ other": "a typ other than JWT and JOSE is refused",
    r"too big|big|big stream": "requests and tokens have lower limits",
    r"FetchWITBundles no text": "a text that is none is refused in streams too",
    r"delegated x509 garbage": "one wording for calls and streams",
}

root = pytest.mark.skipif(os.getuid() != 0, reason="takes root, for a caller that is somebody else")


def explained(name):
    return any(re.fullmatch(pattern, name, re.S) for pattern in DIFFERENCES)


def answers(bins):
    # Not in pytest's folder: into that nobody else may look.
    with tempfile.TemporaryDirectory() as folder:
        stand = asked.Stand(Path(folder), bins)
        try:
            return {
                "command lines": asked.command_lines(stand),
                "workload socket": asked.workload_calls(stand),
                "admin socket": asked.admin_calls(stand),
            }
        finally:
            stand.stop()


def read(name):
    return json.loads(gzip.decompress((GOLDEN / f"{name}.json.gz").read_bytes()))


def write(name, value):
    text = json.dumps(value, indent=0, sort_keys=True).encode()
    (GOLDEN / f"{name}.json.gz").write_bytes(gzip.compress(text, mtime=0))


def recorded():
    return read("agent")


def differing(ours, theirs):
    shown = []
    for kind, questions in theirs.items():
        for name, answer in questions.items():
            found = ours[kind].get(name, "not asked")
            if found != answer and not explained(name):
                shown.append(f"{kind}: {name}\n  SPIRE {answer[:500]}\n  ours  {found[:500]}")
    return shown


@pytest.fixture(scope="module")
def ours():
    return answers(None)


@root
@pytest.mark.parametrize("kind", ["command lines", "workload socket", "admin socket"])
def test_every_question_is_answered_as_spires_agent_answers(ours, kind):
    wrong = differing(ours, {kind: recorded()[kind]})
    assert not wrong, f"{len(wrong)} answers differ:\n" + "\n".join(wrong[:20])


@root
def test_the_recording_is_what_spires_agent_answers(spire):
    wrong = differing(answers(spire), recorded())
    assert not wrong, "\n".join(wrong[:20])


def judged(folder, bins, text):
    """The exit code of `validate`, and what is wrong in its words, without where."""
    folder.mkdir()
    for name, content in {"empty": "", "garbage": "garbage", "tok": "tok\n"}.items():
        (folder / name).write_text(content)
    text = text.replace("@D", ".").replace("@P", "8081").replace("@Q", "8443")
    (folder / "c.conf").write_text(text)
    result = subprocess.run(
        [bins / "spire-agent", "validate", "-config", "c.conf"], cwd=folder, capture_output=True, text=True, timeout=60
    )
    said = result.stderr.replace("SPIRE agent configuration file is invalid: ", "").replace(str(folder), "<folder>")
    said = said.replace("<folder>/", "")
    lines = [re.sub(r" \(c\.conf[^()]*(\([^()]*\))?[^()]*\)$", "", line) for line in said.split("\n") if line]
    return result.returncode, lines


def configurations():
    return read("agent-configurations")


def test_configurations_are_judged_as_spire_judges(tmp_path):
    wrong = []
    for at, case in enumerate(configurations()):
        code, lines = judged(tmp_path / str(at), binaries(), case["configuration"])
        # All that is wrong is told at once; SPIRE tells the first.
        if code != case["code"] or (code and case["error"] not in lines):
            wrong.append(f"{case['name']}\n  SPIRE {case['code']} {case['error']}\n  ours  {code} {lines}")
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(wrong[:20])


def test_the_recorded_judgements_are_spires(spire, tmp_path):
    for at, case in enumerate(configurations()):
        code, lines = judged(tmp_path / str(at), spire, case["configuration"])
        assert (code, (lines or [""])[0] if code else "") == (case["code"], case["error"]), case["name"]


def record():
    with tempfile.TemporaryDirectory() as folder:
        found = answers(spire_binaries())
        write("agent", found)
        cases = configurations()
        for at, case in enumerate(cases):
            case["code"], lines = judged(Path(folder) / str(at), spire_binaries(), case["configuration"])
            case["error"] = (lines or [""])[0] if case["code"] else ""
        write("agent-configurations", cases)


if __name__ == "__main__":
    if spire_binaries() is None:
        sys.exit("SPIRE_BIN_DIR not set")
    record()
