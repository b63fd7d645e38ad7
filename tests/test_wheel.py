"""What would be published holds the package, its demonstration base and its licence, and nothing else."""

import configparser
import os
import tarfile
from email import message_from_bytes
from fnmatch import fnmatch
from pathlib import Path
from zipfile import ZipFile

import pytest

import prefix_peft

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
DIST = os.environ.get("PREFIX_PEFT_DIST")
built = pytest.mark.skipif(not DIST, reason="nothing is built: make release-check does, and sets PREFIX_PEFT_DIST")


def files():
    """All files of the package, by the names that they have in a wheel."""
    found = (path for path in (SOURCE / "prefix_peft").rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(SOURCE).as_posix(): path.read_bytes() for path in found}


def test_each_file_of_the_package_would_be_in_a_wheel():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.package_data"]["prefix_peft"].split()
    names = files()
    for name in names:
        folder = name.rpartition("/")[0]
        if name.endswith(".py"):
            assert f"{folder}/__init__.py" in names, f"{folder} is no package, so a wheel would lack it"
        else:
            inside = name.removeprefix("prefix_peft/")
            assert any(fnmatch(inside, pattern) for pattern in patterns), f"a wheel would lack {name}"


@built
def test_the_wheel():
    (path,) = Path(DIST).glob("*.whl")
    assert path.name == f"prefix_peft-{prefix_peft.__version__}-py3-none-any.whl"
    with ZipFile(path) as wheel:
        held = {name: wheel.read(name) for name in wheel.namelist()}
    about = f"prefix_peft-{prefix_peft.__version__}.dist-info/"
    assert {name: content for name, content in held.items() if not name.startswith(about)} == files()
    assert {"prefix_peft/py.typed", "prefix_peft/demo/prefix-peft-demo-base/model.safetensors"} < held.keys()
    assert held[about + "licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert b"prefix-peft = prefix_peft.__main__:main" in held[about + "entry_points.txt"]
    metadata = message_from_bytes(held[about + "METADATA"])
    assert metadata["Version"] == prefix_peft.__version__
    assert metadata.get_payload(decode=True) == (ROOT / "README.md").read_bytes()


@built
def test_the_source_distribution():
    (path,) = Path(DIST).glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if not archive.getmember(name).isdir()}
    ours = {name for name in names if not name.startswith("src/prefix_peft.egg-info/")}
    assert {name for name in ours if name.startswith("src/")} == {f"src/{name}" for name in files()}
    assert {name for name in ours if not name.startswith("src/")} == {
        "CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "constraints.txt",
        "pyproject.toml", "setup.cfg",
    }  # fmt: skip
