"""F1: a run that is killed anywhere and resumed ends exactly as if nothing had happened."""

import signal

import pytest

from embodied.core.files import Files
from embodied.core.log import read_log
from tests.support import (
    MAZE,
    in_child,
    kill_myself,
    make_trainer,
    make_wsrl,
    run_digest,
    without_time,
)

STEPS = 24  # trainer steps per phase
CASES = {"maze": (MAZE, 2), "mujoco": ("dm_control/cartpole-swingup", 1)}

# (place, trainer steps done before): four per phase. Episodes last 8 steps and begin at multiples
# of 8, so most of these fall inside one; checkpoints are taken every 5.
POINTS = [
    ("step", 6),
    ("update", 11),
    ("save", 15),
    ("step", 23),
    ("env", 24),
    ("step", 30),
    ("env", 37),
    ("save", 45),
    ("update", 50),
    ("env", 59),
    ("evaluate", 64),
    ("step", 71),
]


class KilledSave(Files):
    """Dies, if armed, as the directory of a checkpoint is about to get its name."""

    def __init__(self):
        self.armed = lambda: False

    def sync(self, path):
        """A killed process loses nothing that it has written; only a power cut would."""

    def rename(self, source, target):
        if self.armed() and target.name.startswith("step_"):
            kill_myself()
        super().rename(source, target)


def build(case, directory, files=None):
    env_id, num = CASES[case]
    recipe = make_wsrl(env_id, num=num, offline=STEPS, warmup=STEPS * num, online=STEPS * num)
    options = {
        "evaluate": 1,
        "env_id": env_id,
        "checkpoint_every": 5,
        "files": files or KilledSave(),
    }
    return make_trainer(recipe, directory, **options)


def arm(trainer, files, place, step):
    """Kill this process at a place once `step` trainer steps are done."""

    def killing(function):
        def wrapped(*args, **kwargs):
            result = function(*args, **kwargs)
            if trainer.iteration == step:
                kill_myself()
            return result

        return wrapped

    collector = trainer.recipe.phases[-1].collector
    if place == "step":
        trainer.step = killing(trainer.step)
    elif place == "update":
        for learner in {id(p.learner): p.learner for p in trainer.recipe.phases}.values():
            learner.update = killing(learner.update)
    elif place == "env":
        collector.envs.step = killing(collector.envs.step)
    elif place == "evaluate":
        trainer.evaluator.env.step = killing(trainer.evaluator.env.step)
    else:
        files.armed = lambda: trainer.iteration == step


def outcome(trainer):
    return [run_digest(trainer), [without_time(e) for e in read_log(trainer.directory)]]


@pytest.fixture(scope="module", params=CASES)
def reference(request, tmp_path_factory):
    make_wsrl(CASES[request.param][0])  # what is imported late is then shared with every child
    directory = tmp_path_factory.mktemp(request.param)

    def uninterrupted():
        trainer = build(request.param, directory)
        trainer.run()
        return outcome(trainer)

    status, value = in_child(uninterrupted)
    assert status == "ok", value
    return request.param, value


@pytest.mark.parametrize(("place", "step"), POINTS)
def test_killed_run_ends_like_the_uninterrupted_one(reference, tmp_path, place, step):
    case, (digest, log) = reference

    def killed():
        files = KilledSave()
        trainer = build(case, tmp_path, files)
        arm(trainer, files, place, step)
        trainer.run()

    def resumed():
        trainer = build(case, tmp_path)
        begun = trainer.resume()
        trainer.run()
        return [begun, *outcome(trainer)]

    assert in_child(killed) == ("killed", signal.SIGKILL)
    status, value = in_child(resumed)
    assert status == "ok", value
    begun, found_digest, found_log = value
    assert step - 5 <= begun <= step and begun > 0
    assert found_log == log
    assert found_digest == digest


def test_reference_log_has_every_step_once(reference):
    case, (_, log) = reference
    train = [event["step"] for event in log if event["kind"] == "train"]
    assert train == list(range(5, 3 * STEPS + 1, 5))
    assert [event["phase"] for event in log if event["kind"] == "phase"] == [
        "offline",
        "warmup",
        "online",
    ]
    every = 16 // CASES[case][1]
    evaluated = [event["step"] for event in log if event["kind"] == "evaluation"]
    inside = [2 * STEPS + every * i for i in range(1, STEPS // every + 1)]
    assert evaluated == [STEPS, *sorted({*inside, 3 * STEPS})]
