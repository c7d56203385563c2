"""Agent path templates: the golden answers that the crate is tested with are Go's and sprig's."""

import json
import subprocess

from harness import BUILD, HERE

DATA = HERE.parent / "crates" / "template" / "testdata"


def test_the_golden_answers_are_what_go_and_sprig_give_today():
    build = subprocess.run(["go", "build", "-o", str(BUILD / "templates"), "."],
                           cwd=HERE / "templates", capture_output=True, text=True)
    assert build.returncode == 0, build.stderr
    run = subprocess.run([str(BUILD / "templates"), str(DATA / "functions.json"), str(DATA / "templates.json")],
                         capture_output=True, text=True, check=True)
    answers, golden = json.loads(run.stdout), json.loads((DATA / "golden.json").read_text())
    assert len(answers) > 300
    differing = [it["template"] for it, other in zip(answers, golden) if it != other]
    assert not differing
    assert answers == golden
