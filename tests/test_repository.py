"""What holds for the repository as a whole."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from embodied.cli import methods_table

ROOT = Path(__file__).parents[1]
MACHINE_PATHS = ("/" + "work/", "/" + "root/", "/" + "home/", "/" + "Users/")
REGISTRIES = ("index" + "-url", "pypi" + ".org", "artifact" + "ory", "nexus" + "3", "file:" + "///")


@cache
def tracked():
    """Tracked files, or an explanation why there are none to look at."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def sources(package="."):
    return [p for p in tracked() if p.suffix == ".py" and (ROOT / package) in p.parents]


def lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("name", ["README.md", "docs/methods/index.md"])
def test_the_table_of_methods_is_that_of_the_registry(name):
    path = ROOT / name
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    block = re.search(r"<!-- methods -->\n(.*?)\n<!-- /methods -->", text, re.DOTALL)
    if block is None:
        pytest.skip(f"{name} has no table of methods between <!-- methods --> marks")
    assert block[1].strip() == methods_table(), "write it anew with: embodied methods --markdown"


@pytest.mark.parametrize("words", [MACHINE_PATHS, REGISTRIES], ids=["paths", "registries"])
def test_no_file_names_a_machine(words):
    found = []
    for path in tracked():
        content = path.read_bytes()
        if b"\0" in content:  # pictures and videos
            continue
        text = content.decode("utf-8")
        found += [f"{path.relative_to(ROOT)}: {word}" for word in words if word in text]
    assert not found


def test_files_are_short():
    long = {str(p.relative_to(ROOT)): lines(p) for p in sources() if lines(p) > 450}
    assert not long


def test_the_core_is_small():
    assert lines(ROOT / "embodied/core/trainer.py") < 300
    assert sum(lines(p) for p in sources("embodied/core")) < 3000


UNPICKLER = "envs/libero_convert.py"
"""LIBERO ships arrays as pickles; this command, which nothing imports, reads them with an unpickler
that can build nothing else."""


def test_nothing_is_pickled():
    module = r"(pick" + r"le|di" + r"ll|cloudpick" + r"le|shel" + r"ve)"
    forbidden = re.compile(rf"\b{module}\.\w+\(|^\s*(import|from) {module}\b", re.MULTILINE)
    found = {
        path.relative_to(ROOT).as_posix(): forbidden.search(path.read_text(encoding="utf-8"))
        for path in sources()
    }
    assert found.pop(UNPICKLER)[0] == "import pick" + "le"  # and no call of it before
    assert not [name for name, match in found.items() if match]
    text = (ROOT / UNPICKLER).read_text(encoding="utf-8")
    assert set(re.findall(r"\bpick" + r"le\.(\w+)", text)) == {"Unpick" + "ler"}


def test_what_the_readme_names_is_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w./]+)`", text) + re.findall(r"\]\((docs/[\w./]+)\)", text)
    assert len(named) > 8
    assert not [name for name in named if not (ROOT / name).exists()]
