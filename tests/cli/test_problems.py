"""Files of the tiny suite: what is in them is what training reads."""

import pytest

from embodied.cli import main
from embodied.core.types import UserError
from embodied.data import tiny
from embodied.data.text import read
from embodied.problems import command
from tests import tiny_language

pytest.importorskip("transformers")


@pytest.mark.parametrize("name", tiny.TASKS)
def test_files_are_read_again(name, tmp_path):
    words = ["suite=tiny", f"task={name}", "episodes=20", "task_args.length=2", "seed=3"]
    for folder in ("a", "b", "a"):
        assert main(["collect", *words, f"out={tmp_path / folder}"]) == 0
    task, tokenizer = tiny.TASKS[name](), tiny_language.tokenizer()
    texts = {path.stem: read(path, tokenizer) for path in (tmp_path / "a").iterdir()}
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert len(texts["problems"].prompts) == 20
    assert all(map(task.understands, texts["problems"].prompts))
    assert all(task.verify(e.prompt, e.response).all_steps for e in texts["examples"].examples)
    for pair in texts["pairs"].pairs:
        assert task.verify(pair.prompt, pair.chosen).all_steps
        assert not task.verify(pair.prompt, pair.rejected).all_steps


@pytest.mark.parametrize(
    "words, message",
    [
        (["task=chian"], "did you mean chain"),
        (["workers=2"], "not 'workers=2'"),
        (["episodes=0"], "at least 1"),
        (["task_args.length=9"], "must lie in 1 to 8"),
    ],
)
def test_mistakes(words, message, tmp_path):
    with pytest.raises(UserError, match=message):
        command(str(tmp_path), words)


def test_other_data_is_not_overwritten(tmp_path):
    assert command(str(tmp_path), ["episodes=2"]) == 0
    with pytest.raises(UserError, match="holds other data"):
        command(str(tmp_path), ["episodes=3"])
