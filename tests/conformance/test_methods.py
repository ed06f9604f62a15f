"""What every registered method promises, and that its name is the same everywhere."""

import copy
import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from embodied.agents.task import RobotTask
from embodied.core import registry
from embodied.core.checkpoint import digest
from embodied.core.collector import EnvCollector
from embodied.core.phase import Recipe
from embodied.core.seeding import Streams
from embodied.core.types import Learner

ROOT = Path(__file__).parents[2]
METHODS = registry.methods()
MAX_LINES = 400
TINY = {"hidden": (8,), "critic_hidden": (8,), "batch_size": 4, "members": 4, "utd": 2}
TINY |= {"width": 8, "goal_width": 8, "latent": 4, "shortest": 2, "longest": 4}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

ROBOT = {id: method for id, method in METHODS.items() if method.kind == "robot"}

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
every_robot_method = pytest.mark.parametrize("method", ROBOT.values(), ids=ROBOT)
every_device = pytest.mark.parametrize("device", DEVICES)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def episodes():
    rng = np.random.default_rng(0)
    states = rng.uniform(-1, 1, (9, 2)).astype(np.float32)
    episode = {
        "observation": states[:-1],
        "next_observation": states[1:],
        "action": rng.uniform(-1, 1, (8, 2)).astype(np.float32),
        "reward": np.array([0.0] * 7 + [1.0], np.float32),
        "mask": np.array([1.0] * 7 + [0.0], np.float32),
    }
    return [episode]


def make_task(seed=0, device="cpu", collector=None):
    streams = Streams(seed)
    return RobotTask(
        (2,), 2, streams, episodes=episodes, fingerprint="tiny", device=device, collector=collector
    )


def tiny_config(method):
    names = {f.name for f in dataclasses.fields(method.config)}
    return method.config(**{k: v for k, v in TINY.items() if k in names})


class Batches:
    """The same batches again for every learner, single steps or windows."""

    def __init__(self, device, seed=0):
        self.device = device
        self.generator = torch.Generator().manual_seed(seed)

    def next(self, n):
        def draw(*shape):
            return torch.rand(n, *shape, generator=self.generator) * 1.8 - 0.9

        batch = {
            "observation": draw(2),
            "next_observation": draw(2),
            "action": draw(2),
            "reward": draw(),
            "mask": (draw() > 0).float(),
            "mc_return": draw(),
        }
        return {k: v.to(self.device) for k, v in batch.items()}

    def windows(self, n, length):
        rows = self.next(n * length)
        return {k: v.reshape(n, length, *v.shape[1:]) for k, v in rows.items()}


def build(method, *, seed=0, device="cpu"):
    return method.learner(tiny_config(method), make_task(seed, device))


def updated(method, *, seed=0, device="cpu", updates=2):
    learner, batches = build(method, seed=seed, device=device), Batches(device)
    for _ in range(updates):
        learner.update(batches)
    return learner


def attributes(config):
    """Names in the Attributes section of a class's own docstring."""
    section = (config.__doc__ or "").partition("Attributes:\n")[2]
    return set(re.findall(r"^ {8}(\w+): \S", section, re.MULTILINE))


def test_there_are_methods():
    assert set(ROBOT) >= {"bc", "calql", "cql", "iql", "rlpd", "sac", "wsrl"}
    assert set(METHODS) - set(ROBOT) >= {"sft", "grpo"}


@every_method
def test_config_is_a_frozen_documented_dataclass(method):
    config = method.config()
    assert type(config).__dataclass_params__.frozen
    field = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, field, getattr(config, field))
    for parent in method.config.__mro__[:-1]:
        above = {name for p in parent.__mro__[1:] for name in inspect.get_annotations(p)}
        missing = set(inspect.get_annotations(parent)) - above - attributes(parent)
        assert not missing, f"{parent.__name__} does not document {missing}"
    documented = set().union(*map(attributes, method.config.__mro__))
    stray = documented - {f.name for f in dataclasses.fields(method.config)}
    assert not stray, f"{method.config.__name__} documents {stray}, which it does not have"


@every_robot_method
def test_recipe_composes_with_defaults(method):
    import envs

    vector = envs.make_vec("maze/point-v0", 1, reward="sparse", terminate_on_success=True)
    collector = EnvCollector(vector, np.random.default_rng(0))
    recipe = method.recipe(method.config(), make_task(collector=collector))
    assert isinstance(recipe, Recipe)
    names = [name for name, _ in recipe.parts()]
    assert len(names) == len(set(names)) and names
    assert all(isinstance(phase.learner, Learner) for phase in recipe.phases)


@every_robot_method
@every_device
def test_an_update_changes_what_the_method_says(method, device):
    learner = build(method, device=device)
    before = copy.deepcopy(learner.state_dict())
    metrics = learner.update(Batches(device))
    after = learner.state_dict()
    assert before.keys() == after.keys()
    changed = {k for k in after if digest({"": before[k]}) != digest({"": after[k]})}
    assert changed, "an update changed nothing"
    assert changed <= method.updates, f"changed {sorted(changed - method.updates)} as well"
    assert metrics and all(np.isfinite(float(v)) for v in metrics.values())


@every_robot_method
@every_device
def test_state_continues_in_a_fresh_learner(method, device):
    learner, fresh = updated(method, device=device), build(method, seed=1, device=device)
    assert digest(learner.state_dict()) != digest(fresh.state_dict())
    fresh.load_state_dict(copy.deepcopy(learner.state_dict()))
    assert digest(learner.state_dict()) == digest(fresh.state_dict())
    for one in (learner, fresh):
        one.update(Batches(device, seed=5))
    assert digest(learner.state_dict()) == digest(fresh.state_dict())
    obs = np.zeros((3, 2), np.float32)
    assert np.array_equal(learner.policy().act(obs), fresh.policy().act(obs))


@every_robot_method
@every_device
def test_a_state_shares_no_memory_once_loaded(method, device):
    learner, fresh = updated(method, device=device), build(method, seed=1, device=device)
    fresh.load_state_dict(learner.state_dict())
    before = digest(fresh.state_dict())
    learner.update(Batches(device, seed=5))
    assert digest(fresh.state_dict()) == before


@every_robot_method
@every_device
def test_seeds(method, device):
    first = digest(updated(method, device=device).state_dict())
    assert first == digest(updated(method, device=device).state_dict())
    assert first != digest(updated(method, seed=1, device=device).state_dict())


@every_robot_method
@every_device
def test_a_bad_batch_changes_no_parameter(method, device):
    class Bad(Batches):
        def next(self, n):
            batch = super().next(n)
            batch["reward"][0] = float("nan")
            return batch

    learner = updated(method, device=device)
    before = digest(learner.state_dict())
    with pytest.raises(ArithmeticError):
        learner.update(Bad(device))
    assert digest(learner.state_dict()) == before


@every_robot_method
@every_device
def test_policies_act_within_bounds(method, device):
    learner = updated(method, device=device)
    obs = np.random.default_rng(0).uniform(-1, 1, (5, 2)).astype(np.float32)
    for deterministic in (True, False):
        action = learner.policy(deterministic).act(obs)
        assert action.shape == (5, 2) and np.abs(action).max() <= 1.0
    fixed = learner.policy(deterministic=True)
    assert np.array_equal(fixed.act(obs), fixed.act(obs))


@every_method
def test_the_file_reads_like_its_paper(method):
    text = method.documentation
    assert method.paper in text and method.paper.startswith("https://")
    assert text.splitlines()[0].endswith(".")
    assert re.search(r"^ {4}.*=", text, re.MULTILINE), "no indented block of equations"
    deviations = text.partition("\nDeviations:\n")[2]
    numbers = [int(n) for n in re.findall(r"^(\d+)\. ", deviations, re.MULTILINE)]
    assert numbers and numbers == list(range(1, len(numbers) + 1))
    lines = inspect.getsource(importlib.import_module(method.module)).splitlines()
    assert len(lines) <= MAX_LINES
    assert lines[-1] == ")" and "register(" in "\n".join(lines[-25:])


@every_method
@pytest.mark.parametrize(
    "place", ["configs/method/{}.yaml", "tests/methods/test_{}.py", "docs/methods/{}.md"]
)
def test_name_mirror(method, place):
    assert method.module.rsplit(".", 1)[-1] == method.id
    assert (ROOT / place.format(method.id)).is_file()


def test_no_names_without_a_method():
    for folder, pattern in (("configs/method", "*.yaml"), ("docs/methods", "*.md")):
        found = {p.stem for p in (ROOT / folder).glob(pattern)} - {"index"}
        assert found <= set(METHODS)
