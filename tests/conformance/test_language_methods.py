"""What every registered language method promises."""

import copy

import numpy as np
import pytest
import torch

from embodied.core import registry
from embodied.core.checkpoint import digest
from embodied.core.phase import Recipe
from embodied.core.types import Learner
from tests import tiny_language

pytest.importorskip("transformers")
METHODS = {id: method for id, method in registry.methods().items() if method.kind == "text"}
SMALL = {"batch_size": 4, "prompts": 2, "group": 2, "lr": 1e-3, "critic_lr": 1e-3, "epochs": 2}
SMALL["critic_warm_up"] = 0

PAIRS = ("dpo", "spin")  # whose batches are pairs, and hold no numbers but ids

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def batches(method, seed=0, kind=tiny_language.Batches):
    return kind(seed, rows=2 if method.id in PAIRS else 1)


def config(method, **more):
    if method.id in PAIRS:
        more.pop("beta", None)  # 0 keeps no reference elsewhere; here it learns nothing
    names = method.config.__dataclass_fields__
    return method.config(**{k: v for k, v in {**SMALL, **more}.items() if k in names})


def build(method, seed=0, **more):
    return method.learner(config(method, **more), tiny_language.task(seed))


def updated(method, seed=0, **more):
    learner, source = build(method, seed, **more), batches(method)
    for _ in range(2):
        learner.update(source)
    return learner


@every_method
def test_recipe_composes_with_defaults(method):
    recipe = method.recipe(method.config(), tiny_language.task())
    assert isinstance(recipe, Recipe)
    assert all(isinstance(phase.learner, Learner) for phase in recipe.phases)


@every_method
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_an_update_changes_what_the_method_says(method, beta):
    learner = build(method, beta=beta)
    before = copy.deepcopy(learner.state_dict())
    metrics = learner.update(batches(method))
    after = learner.state_dict()
    assert before.keys() == after.keys()
    changed = {k for k in after if digest({"": before[k]}) != digest({"": after[k]})}
    assert "model" in changed and changed <= method.updates
    assert metrics and all(np.isfinite(float(v)) for v in metrics.values())


@every_method
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_state_continues_in_a_fresh_learner(method, beta):
    learner, fresh = updated(method, beta=beta), build(method, seed=1, beta=beta)
    assert digest(learner.state_dict()) != digest(fresh.state_dict())
    fresh.load_state_dict(learner.state_dict())
    before = digest(fresh.state_dict())
    assert digest(learner.state_dict()) == before
    learner.update(batches(method, seed=5))
    assert digest(fresh.state_dict()) == before, "the loaded state shares memory"
    fresh.update(batches(method, seed=5))
    assert digest(learner.state_dict()) == digest(fresh.state_dict())
    one, two = (each.policy().answer(["^c12__:"], 3)[1] for each in (learner, fresh))
    assert one == two


@every_method
def test_seeds(method):
    first = digest(updated(method).state_dict())
    assert first == digest(updated(method).state_dict())
    assert first != digest(updated(method, seed=1).state_dict())


@every_method
def test_a_bad_batch_changes_no_parameter(method):
    class Bad(tiny_language.Batches):
        def next(self, n):
            batch = super().next(n)
            batch["reward"][0], batch["weight"][0] = float("nan"), float("nan")
            return batch

    learner = updated(method)
    if method.id in PAIRS:
        with torch.no_grad():
            next(learner.reference.network.parameters()).fill_(float("inf"))
    before = digest(learner.state_dict())
    with pytest.raises(ArithmeticError):
        learner.update(batches(method, kind=Bad))
    assert digest(learner.state_dict()) == before


@every_method
def test_policies_answer(method):
    policy = updated(method).policy(deterministic=True)
    drawn, texts, _ = policy.answer(["^c12__:", "^c1234:"], 2)
    assert len(texts) == 4 and texts[0] == texts[1] and texts[2] == texts[3]
    assert drawn.mask.sum(1).max() <= tiny_language.CHAIN.response_length
