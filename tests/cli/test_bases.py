"""Base models: what they are made of names them, and one that is there is not made again."""

from dataclasses import replace

import numpy as np
import pytest

from embodied import bases
from embodied.data import tiny
from policies import lm

pytest.importorskip("transformers")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and recipes of one update."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    once = replace(bases.BASE, updates=1, batch_size=8)
    lessons = [replace(lesson, fit=once) for lesson in bases.LESSONS["edit"]]
    monkeypatch.setattr(bases, "BASE", once)
    monkeypatch.setattr(bases, "BASES", {"edit": once})
    monkeypatch.setattr(bases, "LESSONS", {"edit": lessons})
    return tmp_path / "embodied"


def weights(folder):
    return lm.load(folder).network.embed_out.weight


def test_a_base_is_made_once(cache, capsys):
    made = bases.base_model(tiny.Chain())
    assert "once" in capsys.readouterr().err and made.parent == cache
    assert bases.base_model(tiny.Chain()) == made and not capsys.readouterr().err
    assert [path.name for path in cache.iterdir()] == [made.name]


def test_lessons_come_before_the_demonstrations_and_name_the_base(cache, monkeypatch):
    taught = bases.base_model(tiny.Edit())
    assert (weights(bases.base_model(tiny.Edit())) == weights(taught)).all()
    monkeypatch.setattr(bases, "LESSONS", {})
    plain = bases.base_model(tiny.Edit())
    assert plain != taught and (weights(plain) != weights(taught)).any()


@pytest.mark.parametrize("lesson", bases.LESSONS["edit"])
def test_a_lesson_is_half_about_the_longest_problems(lesson):
    few = replace(lesson, fit=replace(lesson.fit, updates=5))
    task = replace(tiny.Edit(), **lesson.changes)
    given = bases._given(few, task, np.random.default_rng(0))
    lengths = [len(example.prompt[2:7].rstrip(tiny.PAD)) for example in given]
    assert len(given) == 320 and np.mean(np.array(lengths) == 5) == pytest.approx(0.6, abs=0.1)
    assert sum(lesson.shares.values()) == pytest.approx(1)


def test_bases_that_need_no_lessons_keep_their_names(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = {
        tiny.Chain: "chain-d037a8cc9164e7dd",
        tiny.Sort: "sort-c9f85774229919dc",
        tiny.Add: "add-5c4536b502aa69c6",
    }
    for task, name in names.items():
        (tmp_path / "embodied" / name).mkdir(parents=True)
        assert bases.base_model(task()).name == name  # else it would be made, which takes a minute
