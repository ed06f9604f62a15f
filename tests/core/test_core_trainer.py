import json

import numpy as np
import pytest
import torch

import envs
from embodied.core.checkpoint import digest
from embodied.core.collector import EnvCollector, UniformPolicy
from embodied.core.evaluate import Evaluator
from embodied.core.log import MeanMetrics, RunLog, read_log
from embodied.core.phase import Phase, Recipe, Until
from embodied.core.seeding import Streams
from embodied.core.types import UserError
from tests.support import (
    MAZE,
    StubLearner,
    make_dataset,
    make_replay,
    make_task,
    make_trainer,
    run_digest,
    stub_recipe,
    without_time,
)

# ------------------------------------------------------------------ log


def test_mean_metrics_survive_a_checkpoint():
    metrics = MeanMetrics()
    metrics.add({"a": 1.0, "b": torch.tensor(2.0)})
    copy = MeanMetrics()
    copy.load_state_dict(metrics.state_dict())
    for m in (metrics, copy):
        m.add({"a": 2.0})
    assert metrics.pop() == copy.pop() == {"a": 1.5, "b": 2.0}
    assert metrics.pop() == {}


def test_log_is_cut_back(tmp_path):
    log = RunLog(tmp_path, tensorboard=False)
    log.write("train", 1, metrics={"x": np.float32(1.5)})
    position = log.position()
    log.write("train", 2, what="ü")
    log.close()
    with open(tmp_path / "log.jsonl", "ab") as stream:
        stream.write(b'{"kind": "train", "st')  # torn by a kill
    assert len(read_log(tmp_path)) == 2
    log = RunLog(tmp_path, tensorboard=False)
    log.cut(position)
    log.write("train", 3)
    log.close()
    assert [e["step"] for e in read_log(tmp_path)] == [1, 3]
    log = RunLog(tmp_path, tensorboard=False)
    with pytest.raises(UserError, match=r"log\.jsonl"):
        log.cut(10_000)


def test_log_lines_wait_for_the_disk(tmp_path):
    class Full:
        """A raw file that takes `room` bytes and then raises."""

        def __init__(self, file, room):
            self.file, self.room = file, room

        def write(self, data):
            if self.room == 0:
                raise OSError(28, "No space left on device")
            written = self.file.write(bytes(data[: self.room]))
            self.room -= written
            return written

        def __getattr__(self, name):
            return getattr(self.file, name)

    log = RunLog(tmp_path, tensorboard=False)
    log._file = Full(log._file, room=30)
    for step in range(4):
        log.write("train", step)
    with pytest.raises(OSError, match="No space"):
        log.position()
    log._file.room = 10_000
    assert log.position() == (tmp_path / "log.jsonl").stat().st_size
    assert [e["step"] for e in read_log(tmp_path)] == [0, 1, 2, 3]


def test_tensorboard_that_fails_is_given_up(tmp_path):
    (tmp_path / "tb").write_text("a file where the folder should be")
    log = RunLog(tmp_path)
    log.write("train", 1, metrics={"x": 1.0})
    log.write("train", 2, metrics={"x": 1.0})
    assert [e["kind"] for e in read_log(tmp_path)] == ["train", "fault", "train"]


def test_resumed_log_continues_exactly(tmp_path):
    def build(name):
        return make_trainer(stub_recipe(steps=23), tmp_path / name, log_every=4)

    whole = build("whole")
    whole.run()
    parts = build("parts")
    for _ in range(10):  # the means of two steps are pending here
        parts.step()
    parts.save()
    for _ in range(5):
        parts.step()
    parts.close()
    parts = build("parts")
    assert parts.resume() == 10
    parts.run()
    assert [without_time(e) for e in read_log(tmp_path / "parts")] == [
        without_time(e) for e in read_log(tmp_path / "whole")
    ]
    assert run_digest(parts) == run_digest(whole)


# ------------------------------------------------------------------ collector


def collect(collector, policy, n):
    found = []
    for _ in range(n):
        r = collector.collect(policy)
        found.append([r.observation, r.action, r.reward, r.next_observation, r.meta["episodes"]])
    return found


@pytest.mark.parametrize("env_id", [MAZE, "dm_control/cartpole-swingup"])
def test_collector_resumes_inside_an_episode(env_id):
    def build():
        return make_task(env_id, num=2).collector

    def policy(seed=3):
        return UniformPolicy(build_dim, np.random.Generator(np.random.PCG64(seed)))

    first = build()
    build_dim = first.envs.single_action_space.shape[0]
    actor = policy()
    collect(first, actor, 11)  # three steps into the second episode
    state = json.loads(json.dumps(without_arrays(first.state_dict())))
    second = build()
    second.load_state_dict(with_arrays(state))
    same_actor = policy()
    same_actor.load_state_dict(actor.state_dict())
    expected, found = collect(first, actor, 14), collect(second, same_actor, 14)
    for a, b in zip(expected, found, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a[:4], b[:4], strict=True))
        assert a[4] == b[4]
    assert sum(len(step[4]) for step in expected) == 4
    assert digest(first.state_dict()) == digest(second.state_dict())


def without_arrays(value):
    if isinstance(value, np.ndarray):
        return {"__array__": value.tolist(), "dtype": str(value.dtype)}
    if isinstance(value, dict):
        return {k: without_arrays(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_arrays(v) for v in value]
    return value


def with_arrays(value):
    if isinstance(value, dict):
        if "__array__" in value:
            return np.array(value["__array__"], value["dtype"])
        return {k: with_arrays(v) for k, v in value.items()}
    return [with_arrays(v) for v in value] if isinstance(value, list) else value


def test_rollouts_keep_their_arrays():
    collector = make_task(num=2, horizon=3).collector
    policy = UniformPolicy(2, np.random.default_rng(0))
    rollouts = [collector.collect(policy) for _ in range(3)]
    last = rollouts[-1].next_observation.copy()
    collector.collect(policy)  # resets both
    assert np.array_equal(rollouts[-1].next_observation, last)
    assert rollouts[-1].truncated.all()


def test_abandoned_streams_begin_anew_and_others_do_not():
    collector = make_task(num=2, horizon=6).collector
    policy = UniformPolicy(2, np.random.default_rng(0))
    collect(collector, policy, 2)
    collector.abandon(np.array([True, False]))
    lengths = [
        (e["stream"], e["length"]) for step in collect(collector, policy, 6) for e in step[4]
    ]
    assert lengths == [(1, 6), (0, 6)]


# ------------------------------------------------------------------ evaluator


def make_evaluator(episodes=3, seed=0):
    return Evaluator(envs.make(MAZE, reward="sparse", horizon=8), episodes, seed)


class Still:
    def act(self, observation):
        return np.full((len(observation), 2), 0.3, np.float32)


def test_same_ledger_every_time():
    evaluator = make_evaluator()
    first = evaluator(Still()).ledger()
    evaluator(UniformPolicy(2, np.random.default_rng(0)))
    evaluator.env.reset(seed=99)
    assert evaluator(Still()).ledger() == first
    assert make_evaluator()(Still()).ledger() == first
    assert make_evaluator(5)(Still()).ledger()[:3] == first
    assert evaluator(Still(), indices=[2, 0]).ledger() == [first[2], first[0]]
    assert make_evaluator(seed=1)(Still()).ledger() != first
    assert len({e["initial_state"] for e in first}) == 3
    with pytest.raises(ValueError, match="at least 1"):
        make_evaluator(0)


def test_evaluation_changes_nothing_in_training(tmp_path):
    def final(name, evaluate):
        recipe = stub_recipe(steps=20, eval_every=4 if evaluate else 0)
        trainer = make_trainer(recipe, tmp_path / name, evaluate=evaluate)
        trainer.run()
        state = trainer.state_dict()
        return digest({name: state[name] for name, _ in recipe.parts()})

    assert final("with", 2) == final("without", 0)


def test_evaluation_cadence_and_end(tmp_path):
    learner = StubLearner()
    until = Until("updates", 10)
    phases = [
        Phase("a", learner, make_dataset(), until, eval_every=4),
        Phase("b", learner, make_dataset(), Until("updates", 5), eval_every=5, eval_at_end=False),
        Phase("c", learner, make_dataset(), Until("updates", 6), eval_every=3),
    ]
    trainer = make_trainer(Recipe(phases), tmp_path, evaluate=1)
    trainer.run()
    found = [(e["of"], e["counters"]["updates"]) for e in read_log(tmp_path, "evaluation")]
    assert found == [("a", 4), ("a", 8), ("a", 10), ("c", 18), ("c", 21)]
    ledgers = [e["ledger"] for e in read_log(tmp_path, "evaluation")]
    assert all(ledger == ledgers[0] for ledger in ledgers)
    assert trainer.evaluation.ledger() == ledgers[0]


# ------------------------------------------------------------------ trainer


def test_steps_by_hand_equal_run(tmp_path):
    by_hand, by_run = (
        make_trainer(stub_recipe(eval_every=7), tmp_path / n, evaluate=1) for n in "ab"
    )
    by_run.run()
    while not by_hand.done:
        by_hand.step()
    by_hand.save()
    assert run_digest(by_hand) == run_digest(by_run)
    with pytest.raises(RuntimeError, match="done"):
        by_hand.step()


def test_on_enter_is_called_once_and_not_on_resume(tmp_path):
    calls = []

    def build():
        phase = Phase(
            "a",
            StubLearner(),
            make_dataset(),
            Until("updates", 6),
            on_enter=lambda trainer: calls.append(trainer.counters.updates),
        )
        return make_trainer(Recipe([phase]), tmp_path)

    trainer = build()
    for _ in range(3):
        trainer.step()
    trainer.save()
    trainer.close()
    assert calls == [0]
    trainer = build()
    trainer.resume()
    trainer.run()
    assert calls == [0]
    assert len(read_log(tmp_path, "phase")) == 1


def test_probes_are_copies_and_part_of_the_checkpoint(tmp_path):
    trainer = make_trainer(stub_recipe(), tmp_path)
    batch = {"observation": torch.ones(2, 2)}
    trainer.set_probe("p", batch)
    batch["observation"].zero_()
    trainer.step()
    trainer.save()
    trainer.close()
    trainer = make_trainer(stub_recipe(), tmp_path)
    trainer.resume()
    assert trainer.probes["p"]["observation"].tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_resume_between_a_phase_end_and_its_evaluation(tmp_path):
    def build():
        phase = Phase("a", StubLearner(), make_dataset(), Until("updates", 3))
        return make_trainer(Recipe([phase]), tmp_path, evaluate=1)

    trainer = build()
    for _ in range(3):
        trainer.step()
    assert trainer.phase is None and not trainer.done
    trainer.close()
    trainer = build()
    trainer.resume()
    trainer.run()
    assert len(read_log(tmp_path, "evaluation")) == 1
    trainer.close()
    trainer = build()
    trainer.resume()
    assert trainer.done


def test_resume_of_another_recipe_is_refused(tmp_path):
    trainer = make_trainer(stub_recipe(), tmp_path)
    trainer.step()
    trainer.save()
    trainer.close()
    phase = Phase("other", StubLearner(), make_dataset(), Until("updates", 3))
    trainer = make_trainer(Recipe([phase]), tmp_path)
    with pytest.raises(UserError, match=r"other\.learner"):
        trainer.resume()


def test_a_fresh_run_does_not_mix_with_an_older_one(tmp_path):
    trainer = make_trainer(stub_recipe(), tmp_path, log_every=1)
    for _ in range(3):
        trainer.step()
    trainer.close()  # died before its first checkpoint
    trainer = make_trainer(stub_recipe(steps=2), tmp_path, log_every=1)
    trainer.run()
    assert [e["step"] for e in read_log(tmp_path, "train")] == [1, 2]
    assert (tmp_path / "log.jsonl.old").read_text().count('"train"') == 3
    trainer.close()
    trainer = make_trainer(stub_recipe(), tmp_path)
    with pytest.raises(UserError, match="resume it"):
        trainer.run()


def test_checkpoints_come_every_so_often_and_at_phase_ends(tmp_path):
    trainer = make_trainer(stub_recipe(steps=7), tmp_path, checkpoint_every=3, keep=100)
    trainer.run()
    assert trainer.checkpoints.steps() == [7, 13, 15]  # 2 * step + 1


def test_batches_of_windows_pass_the_recorder(tmp_path):
    class Windows(StubLearner):
        def update(self, source):
            batch = source.windows(3, 4)
            assert batch["observation"].shape == (3, 4, 2)
            return {}

    recipe = stub_recipe(learner=Windows(), replay=make_replay(whole_episodes=True), start_rows=8)
    trainer = make_trainer(recipe, tmp_path)
    trainer.run()
    assert trainer.counters.samples == 12 * trainer.counters.updates > 0


def test_collector_of_streams_seeds_every_episode():
    seeds = []
    vector = envs.make_vec(MAZE, 1, horizon=2)
    reset = vector.reset
    vector.reset = lambda *, seed, options: (
        seeds.append(seed[0]),
        reset(seed=seed, options=options),
    )[1]
    collect(EnvCollector(vector, Streams(0).numpy("e")), Still(), 6)
    expected = Streams(0).numpy("e").integers(2**31, size=3)
    assert seeds == expected.tolist()
