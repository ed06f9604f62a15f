"""Base models: what they are made of names them, and one that is there is not made again."""

from dataclasses import replace

import pytest
import torch

from embodied import bases, lessons
from embodied.core.seeding import Streams
from embodied.data import tiny
from embodied.data.tiny.shown import Shown
from embodied.llm.task import TextTask
from policies import lm
from tests import tiny_language

pytest.importorskip("transformers")
ONCE = replace(bases.BASE, updates=1, batch_size=8)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and recipes of one update."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    taught = tuple(replace(lesson, fit=ONCE) for lesson in bases.LESSONS["edit"])
    monkeypatch.setattr(bases, "BASE", ONCE)
    monkeypatch.setattr(bases, "LESSONS", {"edit": taught})
    return tmp_path / "embodied"


def weights(folder):
    return lm.load(folder).network.lm_head.weight


@pytest.mark.parametrize("task", [tiny.Chain(), tiny.Edit()])
def test_a_base_is_made_once(task, cache, capsys):
    made = bases.base_model(task)
    assert "once" in capsys.readouterr().err and made.parent == cache
    assert bases.base_model(task) == made and not capsys.readouterr().err
    assert [path.name for path in cache.iterdir()] == [made.name]
    first = weights(made)
    made.rename(cache / "other")
    assert (weights(bases.base_model(task)) == first).all()


def test_lessons_teach(cache, monkeypatch):
    taught = bases.base_model(tiny.Edit())
    monkeypatch.setitem(bases.LESSONS, "edit", bases.LESSONS["edit"][:-1])
    fewer = bases.base_model(tiny.Edit())
    assert fewer != taught and (weights(fewer) != weights(taught)).any()


@pytest.mark.parametrize("change", ["task", "fit", "slip", "changes", "texts", "policy"])
def test_a_base_is_named_after_all_that_made_it(change, monkeypatch):
    before, task = bases.base_folder(tiny.Edit()), tiny.Edit()
    assert bases.base_folder(task) == before
    first, *others = bases.LESSONS["edit"]
    if change == "task":
        task = tiny.Edit(slip=0.2)
    elif change == "fit":
        first = replace(first, fit=ONCE)
    elif change == "slip":
        first = replace(first, slip=0.5)
    elif change == "changes":
        first = replace(first, changes={"keep": 0.1})
    elif change == "texts":
        other = Shown("^e3:", "1.", [{"1": 1.0}, {".": 1.0}])
        monkeypatch.setattr(lessons, "shown", lambda *_: other)
    else:
        monkeypatch.setattr(tiny.Edit, "edits", lambda *_: {"=" * 5 + ".": 1.0})
    monkeypatch.setitem(bases.LESSONS, "edit", (first, *others))
    assert bases.base_folder(task) != before


def test_a_pupil_takes_over_the_chances():
    """One question, whose answer is 1 or 2: it learns how often, though 2 was never drawn."""
    shown = Shown("^e3:", "1.", [{"1": 0.7, "2": 0.3}, {".": 1.0}])
    model, streams = tiny_language.model(), Streams(0)
    pupil = lessons.Pupil(replace(ONCE, updates=150, lr=0.03), TextTask(model, streams))
    source = lessons.FreshTexts(lambda rng: shown, model, streams.numpy("texts"))
    for _ in range(150):
        loss = pupil.update(source)["loss"]
    batch = source.next(1)
    inputs = (batch["prompt"], batch["prompt_mask"], batch["completion"], batch["mask"])
    ids = model.tokenizer.convert_tokens_to_ids(["1", "2"])
    with torch.no_grad():
        learned = model.logits(*inputs)[0, 0].softmax(-1)[ids]
    assert learned.tolist() == pytest.approx([0.7, 0.3], abs=0.02)
    assert float(loss) == pytest.approx(0.611 / 2, abs=0.02)  # the entropy, and of the end none
