"""Configuration files: the samples, and what is not there yet."""

import subprocess

import pytest
from harness import HERE, Server, binaries

SAMPLES = sorted(path for role in ("server", "agent") for path in (HERE.parent / "conf" / role).glob("*.conf"))


def validate(program, path):
    command = [str(binaries() / program), "validate", "-config", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=HERE.parent)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name)
def test_every_sample_is_valid(sample):
    role = sample.parent.name
    result = validate(f"spire-{role}", sample)
    assert (result.returncode, result.stdout) == (0, f"SPIRE {role} configuration file is valid.\n"), result.stderr


def test_what_is_not_there_yet_is_said_by_validate_and_refused_by_run(tmp_path):
    version = subprocess.run([str(binaries() / "spire-server"), "--version"], capture_output=True, text=True)
    if "steeple" not in version.stdout + version.stderr:
        pytest.skip("these binaries are SPIRE's, which have the plugin")
    server = Server(tmp_path)
    text = server.config.read_text()
    upstream = 'UpstreamAuthority "aws_pca" { plugin_data { region = "r" certificate_authority_arn = "a" } }\n'
    server.config.write_text(text.replace("plugins {\n", "plugins {\n    " + upstream))
    result = validate("spire-server", server.config)
    assert result.returncode == 0
    assert "is not available yet" in result.stderr and "server.conf:" in result.stderr
    server.start(wait=False)
    assert server.daemon.process.wait(timeout=20) == 1


def test_an_unknown_key_is_refused_with_its_place(tmp_path):
    server = Server(tmp_path, extra="no_such_key = true")
    result = validate("spire-server", server.config)
    assert result.returncode == 1
    assert "unknown configuration detected" in result.stderr
