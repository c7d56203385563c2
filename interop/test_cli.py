"""Command lines that go wrong, on both programs: the same words on stderr, the same exit codes.

The descriptions of flags are in our own words; everything else is as SPIRE prints it.
"""

import os
import subprocess

import pytest
from harness import binaries

VERBS = [
    "healthcheck", "token generate", "entry create", "entry update", "entry delete", "entry show", "entry count",
    "agent list", "agent count", "agent show", "agent ban", "agent evict", "agent purge", "bundle show",
    "bundle list", "bundle set", "bundle delete", "bundle count", "federation create", "federation update",
    "federation list", "federation show", "federation delete", "federation refresh", "x509 mint", "jwt mint",
    *(f"localauthority {kind} {step}" for kind in ("x509", "jwt")
      for step in ("show", "prepare", "activate", "taint", "revoke")),
    "upstreamauthority taint", "upstreamauthority revoke", "logger get", "logger set", "logger reset",
    "debug getinfo",
]

NO_SOCKET = ["-socketPath", "/nonexistent/api.sock"]
TEMPLATE = "SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE"

# Arguments, and the environment's part.
WAYS = [
    (NO_SOCKET, {}),
    ([*NO_SOCKET, "-output", "json"], {}),
    ([*NO_SOCKET, "extra"], {}),
    (["-instance", "x"], {}),
    (["-instance", "x"], {TEMPLATE: "/nonexistent/%i/api.sock"}),
    (["-instance", "x"], {TEMPLATE: "/nonexistent/api.sock"}),
    ([], {"SPIRE_SERVER_PRIVATE_SOCKET": "/nonexistent/api.sock"}),
]


def run(folder, words, environment):
    result = subprocess.run(
        [folder / "spire-server", *words], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    return result.returncode, result.stdout, result.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_goes_wrong_in_the_same_words(verb, spire):
    for more, environment in WAYS:
        words = [*verb.split(), *more]
        assert run(binaries(), words, environment) == run(spire, words, environment), (words, environment)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_the_flags_and_defaults_of_spires(verb, spire):
    def flags(folder):
        code, out, text = run(folder, [*verb.split(), "-h"], {})
        # A flag's line, and the default at the end of its description.
        lines = [line for line in text.split("\n") if line.startswith("  -")]
        defaults = [line[line.rindex("(default "):] for line in text.split("\n") if "(default " in line]
        return code, out, lines, defaults

    assert flags(binaries()) == flags(spire)
