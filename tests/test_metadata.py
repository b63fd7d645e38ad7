"""What is said of the package in several places is the same in all of them."""

import configparser
import re
import shlex
from pathlib import Path

import pytest
import yaml

import prefix_peft

ROOT = Path(__file__).resolve().parents[1]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}
FORMS = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]


def lines(section, key):
    return SETUP[section][key].split("\n")[1:]


def test_the_version():
    assert prefix_peft.__version__ == yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest is not None
    assert newest[1] == prefix_peft.__version__


def test_the_citation():
    """What the schema of version 1.2.0 asks for, and the name, licence and abstract of setup.cfg."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    said = SETUP["metadata"]
    assert citation["cff-version"] == "1.2.0"
    assert (citation["title"], citation["license"]) == (said["name"], said["license"])
    assert citation["abstract"].rstrip(".") == said["description"]
    assert [author["name"] for author in citation["authors"]] == [said["author"]]


def test_the_oldest_versions_that_are_tried_are_those_that_are_allowed():
    ranges = [line for line in lines("options", "install_requires") if ">=" in line]
    allowed = {line.partition(",")[0].replace(" >= ", "==") for line in ranges}
    exact = {re.sub(r"(\.0)+$", "", line) for line in (ROOT / ".ci" / "lowest.txt").read_text().splitlines()}
    assert exact == {re.sub(r"(\.0)+$", "", line) for line in allowed}


def test_continuous_integration_runs_what_there_is():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    steps = [step for flow in WORKFLOWS.values() for job in flow["jobs"].values() for step in job["steps"]]
    runs = [re.sub(r"\${{.*?}}", "", step.get("run", "")) for step in steps]
    asked = [shlex.split(run)[1:] for run in runs if run.startswith("make ")]
    assert {word for words in asked for word in words if "=" not in word} <= targets
    matrix = WORKFLOWS["ci"]["jobs"]["tests"]["strategy"]["matrix"]
    known = re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"])
    assert matrix["python"] == known
    assert SETUP["options"]["python_requires"] == f">={known[0]}"
    assert all((ROOT / name).exists() for name in matrix["versions"])


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms(path):
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= form.keys()
    assert any(field.get("validations", {}).get("required") for field in form["body"])
    for field in form["body"]:
        assert field["type"] in ("textarea", "input", "dropdown", "checkboxes", "markdown")
        assert field["attributes"]["label"]
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids))
