"""F1 for language methods: killed anywhere and resumed, a run ends as if nothing had happened."""

import signal

import pytest

from embodied.core.log import read_log
from embodied.core.trainer import Trainer, TrainerOptions
from embodied.llm import grpo, spin
from embodied.text import TextEvaluator
from policies.sampling import Sampling
from tests import tiny_language
from tests.faults.test_f1_interrupted import KilledSave
from tests.support import in_child, kill_myself, run_digest, without_time

pytest.importorskip("transformers")
OPTIONS = TrainerOptions(log_every=1, checkpoint_every=2, keep=3, tensorboard=False)

# SPIN: two iterations of 3 batches of answers (8, 8 and 4 prompts) and 3 updates
RECIPES = {
    "grpo": (grpo, grpo.GRPOConfig(steps=8, prompts=2, group=4, lr=1e-2, eval_every=4)),
    "spin": (spin, spin.SPINConfig(iterations=2, updates=3, batch_size=4, lr=1e-3, answers=8)),
}
POINTS = [
    *(("grpo", place, step) for place, step in [("generate", 3), ("update", 5), ("save", 6)]),
    ("grpo", "evaluate", 4),
    *(("spin", "generate", step) for step in (2, 7)),
    *(("spin", "update", step) for step in (4, 10)),
    *(("spin", "save", step) for step in (8,)),
    *(("spin", "step", step) for step in (3, 6, 11)),
]


def build(name, directory, files=None, seed=0):
    method, config = RECIPES[name]
    task = tiny_language.task(seed)
    evaluator = TextEvaluator(task.prompts[:4], task.score, Sampling(task.longest))
    return Trainer(
        method.recipe(config, task),
        directory,
        evaluator=evaluator,
        options=OPTIONS,
        config={"method": name},
        files=files or KilledSave(),
    )


def arm(trainer, files, place, step):
    """Kill this process at a place once `step` trainer steps are done."""

    def killing(function):
        def wrapped(*args, **kwargs):
            result = function(*args, **kwargs)
            if trainer.iteration == step:
                kill_myself()
            return result

        return wrapped

    if place == "step":
        trainer.step = killing(trainer.step)
    elif place == "update":
        learner = trainer.recipe.phases[0].learner
        learner.update = killing(learner.update)
    elif place == "generate":
        collector = trainer.recipe.phases[0].collector
        collector.collect = killing(collector.collect)
    elif place == "evaluate":
        trainer.evaluator.score = killing(trainer.evaluator.score)
    else:
        files.armed = lambda: trainer.iteration == step


def outcome(trainer):
    return [run_digest(trainer), [without_time(e) for e in read_log(trainer.directory)]]


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    found = {}
    for name in RECIPES:
        tiny_language.task()  # what is imported late is then shared with every child

        def uninterrupted(name=name):
            trainer = build(name, tmp_path_factory.mktemp(name))
            trainer.run()
            return outcome(trainer)

        status, found[name] = in_child(uninterrupted)
        assert status == "ok", found[name]
    return found


@pytest.mark.parametrize(("name", "place", "step"), POINTS)
def test_killed_run_ends_like_the_uninterrupted_one(references, tmp_path, name, place, step):
    digest, log = references[name]

    def killed():
        files = KilledSave()
        trainer = build(name, tmp_path, files)
        arm(trainer, files, place, step)
        trainer.run()

    def resumed():
        trainer = build(name, tmp_path, seed=9)  # weights and streams come from the checkpoint
        begun = trainer.resume()
        trainer.run()
        return [begun, *outcome(trainer)]

    assert in_child(killed) == ("killed", signal.SIGKILL)
    status, value = in_child(resumed)
    assert status == "ok", value
    begun, found_digest, found_log = value
    assert 0 < begun <= step
    assert found_log == log
    assert found_digest == digest
