"""F4: one flipped byte anywhere in a checkpoint is found before anything of it is used."""

import numpy as np
import pytest
import safetensors.torch

from embodied.core.checkpoint import Checkpoints, CorruptCheckpoint
from tests.support import make_trainer, make_wsrl

FLIPS = 200
KINDS = (
    "offline.learner.safetensors",  # weights and optimizer moments
    "warmup.learner.safetensors",
    "warmup.source.safetensors",  # replay
    "warmup.source.json",
    "warmup.collector.json",
    "warmup.collector.safetensors",
    "trainer.json",
    "config.json",
    "MANIFEST.json",
)


def build(directory):
    return make_trainer(make_wsrl(offline=3, warmup=12, online=12), directory, checkpoint_every=4)


@pytest.fixture
def run(tmp_path):
    trainer = build(tmp_path)
    while trainer.iteration < 12:
        trainer.step()
    trainer.close()
    return tmp_path


def flip(path, generator):
    content = bytearray(path.read_bytes())
    at = int(generator.integers(len(content)))
    content[at] ^= int(generator.integers(1, 256))
    path.write_bytes(bytes(content))


def test_two_hundred_flips(run, monkeypatch):
    checkpoints = Checkpoints(run / "checkpoints")
    older, newest = checkpoints.steps()
    directory = checkpoints.path(newest)
    assert set(KINDS) <= {p.name for p in directory.iterdir()}
    read = []
    monkeypatch.setattr(safetensors.torch, "load_file", read.append)
    generator = np.random.default_rng(0)
    for i in range(FLIPS):
        name = KINDS[i % len(KINDS)]
        whole = (directory / name).read_bytes()
        flip(directory / name, generator)
        with pytest.raises(CorruptCheckpoint) as caught:
            checkpoints.load()
        assert name in str(caught.value)
        assert f"step {older}" in str(caught.value)
        assert "fallback=true" in str(caught.value)
        (directory / name).write_bytes(whole)
    assert read == []


def test_white_space_of_the_manifest_counts(run):
    checkpoints = Checkpoints(run / "checkpoints")
    path = checkpoints.path(checkpoints.steps()[-1]) / "MANIFEST.json"
    path.write_text(path.read_text().replace("\n ", "\n\t", 1))  # the same JSON
    with pytest.raises(CorruptCheckpoint, match="own SHA-256"):
        checkpoints.load()


@pytest.mark.parametrize("name", KINDS)
def test_resume_falls_back_only_when_told(run, name):
    older, newest = Checkpoints(run / "checkpoints").steps()
    flip(Checkpoints(run / "checkpoints").path(newest) / name, np.random.default_rng(1))
    trainer = build(run)
    with pytest.raises(CorruptCheckpoint):
        trainer.resume()
    assert trainer.iteration == 0
    assert trainer.resume(fallback=True) == older // 2 > 0
    assert (run / "checkpoints" / f"step_{newest:012d}.damaged").is_dir()
    trainer.run()
    assert trainer.done


def test_damaged_twice_at_the_same_step(run):
    checkpoints = Checkpoints(run / "checkpoints")
    for _ in range(2):
        newest = checkpoints.steps()[-1]
        flip(checkpoints.path(newest) / "trainer.json", np.random.default_rng(1))
        step, parts = checkpoints.load(fallback=True)
        checkpoints.save(newest, parts)
    assert step < newest == checkpoints.load()[0]


def test_all_damaged_is_an_error_and_not_a_fresh_start(run):
    checkpoints = Checkpoints(run / "checkpoints")
    for step in checkpoints.steps():
        flip(checkpoints.path(step) / "trainer.json", np.random.default_rng(1))
    trainer = build(run)
    with pytest.raises(CorruptCheckpoint, match="no older checkpoint"):
        trainer.resume(fallback=True)
    with pytest.raises(Exception, match="holds a run"):
        trainer.run()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("how", ["missing", "short"])
def test_missing_and_short_files(run, name, how):
    checkpoints = Checkpoints(run / "checkpoints")
    path = checkpoints.path(checkpoints.steps()[-1]) / name
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptCheckpoint, match=name):
        checkpoints.load()
