from fractions import Fraction

import pytest

from embodied.core.counters import Counters
from embodied.core.log import read_log
from embodied.core.phase import Phase, Recipe, Until
from tests.support import StubLearner, make_dataset, make_replay, make_task, make_trainer


def offline(name, learner=None, updates=3, **kwargs):
    until = kwargs.pop("until", Until("updates", updates))
    return Phase(name, learner or StubLearner(), make_dataset(), until, eval_at_end=False, **kwargs)


def online(updates_per_step, *, steps=9, num=1, learner=None, **kwargs):
    return Phase(
        "online",
        learner or StubLearner(),
        make_replay(),
        Until("env_steps", steps),
        collector=make_task(num=num).collector,
        updates_per_step=updates_per_step,
        eval_at_end=False,
        **kwargs,
    )


def updates_after_each_step(trainer, steps):
    seen = []
    for _ in range(steps):
        trainer.step()
        seen.append(trainer.counters.updates)
    return seen


def test_counters_copy_save_and_restore():
    counters = Counters(env_steps=3, episodes=1, updates=7, samples=14, tokens=2, wall_time=1.5)
    copy = counters.copy()
    counters.updates += 1
    assert copy.updates == 7
    restored = Counters()
    restored.load_state_dict(counters.state_dict())
    assert restored == counters


def test_until_counts_from_the_start_of_the_phase():
    until = Until("updates", 5)
    start, now = Counters(updates=100), Counters(updates=104)
    assert until.progress(now, start) == 4 and not until.reached(now, start)
    assert until.reached(Counters(updates=105), start)
    with pytest.raises(ValueError, match="env_steps"):
        Until("frames", 3)


def test_every_counter_counts(tmp_path):
    learner = StubLearner(rows=3)
    trainer = make_trainer(
        Recipe([offline("offline", learner, updates=4), online(2, steps=16, num=2)]), tmp_path
    )
    trainer.run()
    c = trainer.counters
    assert (c.env_steps, c.episodes, c.updates, c.samples, c.tokens) == (
        16,
        2,
        36,
        4 * 3 + 32 * 2,
        0,
    )
    assert c.wall_time > 0


def test_phases_are_relative_and_cycles_repeat(tmp_path):
    entered = []
    learner = StubLearner()
    phases = [
        offline(
            "a", learner, 3, on_enter=lambda t: entered.append((t.phase.name, t.counters.updates))
        ),
        offline(
            "b", learner, 2, on_enter=lambda t: entered.append((t.phase.name, t.counters.updates))
        ),
    ]
    recipe = Recipe(phases, cycles=2)
    assert len(recipe) == 4 and recipe[3] is phases[1]
    with pytest.raises(IndexError):
        recipe[4]
    trainer = make_trainer(recipe, tmp_path)
    trainer.run()
    assert entered == [("a", 0), ("b", 3), ("a", 5), ("b", 8)]
    assert trainer.counters.updates == 10 and trainer.done


def test_names_must_be_unique_and_recipes_not_empty():
    with pytest.raises(ValueError, match="unique"):
        Recipe([offline("a"), offline("a")])
    with pytest.raises(ValueError, match="at least one"):
        Recipe([])
    with pytest.raises(ValueError, match="no source"):
        Phase("a", StubLearner(), None, Until("updates", 1))


def test_parts_are_named_once_after_their_first_phase():
    learner = StubLearner()
    first, second = offline("a", learner), online(1, learner=learner)
    names = [name for name, _ in Recipe([first, second]).parts()]
    assert names == ["a.learner", "a.source", "online.source", "online.collector"]


def test_fractions_of_updates_are_carried_over(tmp_path):
    trainer = make_trainer(Recipe([online(Fraction(1, 3))]), tmp_path)
    assert updates_after_each_step(trainer, 9) == [0, 0, 1, 1, 1, 2, 2, 2, 3]


def test_fractions_with_several_environments(tmp_path):
    trainer = make_trainer(Recipe([online(Fraction(2, 3), num=2, steps=12)]), tmp_path)
    assert updates_after_each_step(trainer, 6) == [1, 2, 4, 5, 6, 8]


def test_fraction_survives_a_resume(tmp_path):
    trainer = make_trainer(Recipe([online(Fraction(1, 3))]), tmp_path)
    updates_after_each_step(trainer, 5)
    trainer.save()
    trainer.close()
    trainer = make_trainer(Recipe([online(Fraction(1, 3))]), tmp_path)
    trainer.resume()
    assert trainer.debt == Fraction(2, 3)
    assert updates_after_each_step(trainer, 4) == [2, 2, 2, 3]


def test_debt_does_not_leak_into_the_next_phase(tmp_path):
    first = online(Fraction(2, 3), steps=1)
    first.name = "first"
    trainer = make_trainer(Recipe([first, online(Fraction(2, 3), steps=3)]), tmp_path)
    assert updates_after_each_step(trainer, 4) == [0, 0, 1, 2]


def test_start_after_and_start_rows(tmp_path):
    trainer = make_trainer(Recipe([online(1, start_after=2)]), tmp_path / "after")
    assert updates_after_each_step(trainer, 4) == [0, 0, 1, 2]
    trainer = make_trainer(Recipe([online(1, start_rows=3)]), tmp_path / "rows")
    assert updates_after_each_step(trainer, 4) == [0, 0, 1, 2]


def test_phase_of_nothing_is_entered_and_left(tmp_path):
    entered = []
    empty = online(0, steps=0, on_enter=lambda t: entered.append(t.counters.env_steps))
    empty.name = "empty"
    trainer = make_trainer(Recipe([empty, online(1, steps=3)]), tmp_path)
    trainer.run()
    assert entered == [0] and trainer.counters.env_steps == 3
    assert [e["phase"] for e in read_log(tmp_path, "phase")] == ["empty", "online"]
