"""Who may import whom, read from the source of every file (docs: architecture)."""

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("embodied", "envs", "policies", "rewards", "hardware")
METHODS = ("agents", "llm", "decoding", "analysis", "perception")
SHARED = {
    "acting",
    "actor_critic",
    "answers",
    "critic_losses",
    "from_scratch",
    "learner",
    "offline_online",
    "collector",
    "dialogue",
    "schedules",
    "task",
}  # files of methods that are no method
SIMULATORS = ("mujoco", "metaworld", "dm_control", "robosuite", "libero", "robomimic", "scipy")
SIMULATORS += ("numba", "OpenGL")
"""The last three come with simulators and are loaded with them."""
FILES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))


@dataclass(frozen=True)
class Import:
    name: str  # full dotted name, `from a import b` being a.b
    line: int
    lazy: bool  # inside a function, so only run when called
    checking: bool  # for type checkers only


def imports(source):
    """Every import of a source text; relative ones are not used here and count as ".x"."""
    found = []

    def visit(node, lazy, checking):
        if isinstance(node, ast.Import):
            found.extend(Import(a.name, node.lineno, lazy, checking) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            found.extend(
                Import(f"{base}.{a.name}", node.lineno, lazy, checking) for a in node.names
            )
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            lazy = True
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                visit(child, lazy, True)
            for child in node.orelse:
                visit(child, lazy, checking)
            return
        for child in ast.iter_child_nodes(node):
            visit(child, lazy, checking)

    visit(ast.parse(source), False, False)
    return found


def under(name, *prefixes):
    return any(name == p or name.startswith(f"{p}.") for p in prefixes)


def ours(name):
    return under(name, *PACKAGES)


def standard(name):
    return name.split(".")[0] in sys.stdlib_module_names


TYPES = "embodied.core.types"
ANY = object()

# Whatever composes (the command line, reports, proofs) may import everything and has no row.
# folder -> (our modules it may import, other packages it may import; lazy ones beside them)
RULES = {
    "embodied/core": (("embodied.core",), ("numpy", "torch", "safetensors"), ("wandb", "rich")),
    "embodied/objectives": (("embodied.objectives",), ("torch",), ()),
    "embodied/data": (("embodied.data", TYPES), ANY, ()),
    # numpy's arrays are what numba compiles for
    "policies": (
        ("policies", TYPES),
        ("torch", "numpy"),
        ("transformers", "tokenizers", "peft", "vllm", "numba"),
    ),
    "rewards": (("rewards", "policies", TYPES), ANY, ()),
    "hardware": (("hardware", TYPES), ANY, ()),
    # OpenGL comes with mujoco, which renders through it
    "envs": (("envs", TYPES), ("numpy", "gymnasium", *SIMULATORS), ("OpenGL",)),
    **{
        f"embodied/{kind}": (
            ("embodied.core", "embodied.objectives", "embodied.data", "policies"),
            ("numpy", "torch"),
            (),
        )
        for kind in METHODS
    },
}


def allowed(path, found):
    """Whether the rule of a file's folder allows an import."""
    folder = next((f for f in RULES if under(path.replace("/", "."), f.replace("/", "."))), None)
    if folder is None or found.checking:
        return True
    internal, other, lazy = RULES[folder]
    stem = Path(path).stem
    if standard(found.name):
        return True
    if not ours(found.name):
        names = () if other is ANY else other
        return other is ANY or under(found.name, *names, *(lazy if found.lazy else ()))
    if folder.removeprefix("embodied/") in METHODS:
        here = folder.replace("/", ".")
        internal = (*internal, *(f"{here}.{name}" for name in SHARED))
    if folder == "envs" and "arm" in stem.split("_"):
        internal = (*internal, "hardware")
    return under(found.name, *internal)


def relative(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports(path):
    name, source = relative(path), path.read_text(encoding="utf-8")
    wrong = [f"line {i.line}: {i.name}" for i in imports(source) if not allowed(name, i)]
    assert not wrong, f"{name} may not import {wrong}"


def test_the_rules_can_fail():
    """Each row of the table, with an import it forbids."""
    forbidden = {
        "embodied/core/trainer.py": "import envs",
        "embodied/core/log.py": "import wandb",
        "embodied/core/phase.py": "from embodied.agents import wsrl",
        "embodied/objectives/q_learning.py": "import numpy",
        "embodied/data/io.py": "from embodied.core.replay import Rows",
        "embodied/agents/wsrl.py": "from embodied.agents.calql import build",
        "embodied/agents/iql.py": "import envs",
        "embodied/agents/bc.py": "def f():\n    from embodied import cli",
        "embodied/llm/ppo.py": "import embodied.agents.sac",
        "policies/critic.py": "from embodied.core.optim import Adam",
        "rewards/classifier.py": "import envs.maze",
        "hardware/arm.py": "import policies.mlp",
        "envs/maze.py": "import hardware.arm",
        "envs/base.py": "import torch",
    }
    for path, source in forbidden.items():
        assert not all(allowed(path, i) for i in imports(source)), path
    fine = {
        "embodied/core/log.py": "def f():\n    import wandb",
        "embodied/core/phase.py": "if TYPE_CHECKING:\n    import envs",
        "embodied/agents/wsrl.py": "from embodied.agents.actor_critic import ActorCritic",
        "envs/real_arm.py": "from hardware import arm",
        "policies/mlp.py": "from embodied.core.types import State",
        "embodied/cli.py": "import envs, embodied.agents.wsrl",
    }
    for path, source in fine.items():
        assert all(allowed(path, i) for i in imports(source)), path


def test_types_imports_neither_torch_nor_ours():
    source = (ROOT / "embodied/core/types.py").read_text(encoding="utf-8")
    assert all(standard(i.name) or under(i.name, "numpy") for i in imports(source))


def test_hardware_runs_without_torch():
    for path in (ROOT / "hardware").rglob("*.py"):
        for found in imports(path.read_text(encoding="utf-8")):
            assert not under(found.name, "torch"), path
            if under(found.name, "mujoco"):
                assert path.stem in ("twin", "kinematics"), path


UNSAFE = [
    r"\b(import|from)\s+(pickle|dill|cloudpickle|joblib|marshal|shelve)\b",
    r"\b(pickle|dill|cloudpickle)\.(load|dump)",
    r"(?<![\w.])(eval|exec)\(",
    r"weights_only\s*=\s*False",
    r"allow_pickle\s*=\s*True",
    r"from\s+[\w.]+\s+import\s+\*",
]


# Reads the pickled arrays that LIBERO ships, with an unpickler that can build nothing else; it is a
# command of its own, and tests/test_repository.py holds it to that one use.
UNPICKLER = "envs/libero_convert.py"


def unsafe(source):
    return [p for p in UNSAFE if re.search(p, source)]


def test_nothing_unpickles_or_evaluates():
    for path in FILES:
        found = unsafe(path.read_text(encoding="utf-8"))
        expected = UNSAFE[:1] if relative(path) == UNPICKLER else []
        assert found == expected, f"{relative(path)}: {found}"
        imported = [i.name for i in imports(path.read_text(encoding="utf-8"))]
        assert not any(under(name, "envs.libero_convert") for name in imported), relative(path)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from dill import loads",
        "import cloudpickle",
        "x = eval('1')",
        "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)",
        "from math import *",
    ],
)
def test_the_search_finds_it(source):
    assert unsafe(source)


@pytest.mark.parametrize("source", ["model.eval()", "allow_pickle=False", "def evaluate(x): ..."])
def test_the_search_finds_nothing_else(source):
    assert not unsafe(source)


LOADED = """
import sys, time
start = time.perf_counter()
import {module}
print(f"import {module}: {{time.perf_counter() - start:.2f}} s")
print(sorted({{name.split(".")[0] for name in sys.modules}}))
"""


def loaded(module):
    """Top-level packages in a fresh interpreter after one import."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(module=module)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    timing, names = done.stdout.splitlines()
    print(timing)
    return set(ast.literal_eval(names))


@pytest.mark.parametrize("module", ["embodied.cli", "embodied.core.types"])
def test_the_command_line_starts_light(module):
    heavy = {"torch", *SIMULATORS}
    assert not loaded(module) & heavy


def test_environments_import_no_simulator():
    assert not loaded("envs") & {"torch", *SIMULATORS}
