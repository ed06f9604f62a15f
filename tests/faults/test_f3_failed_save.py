"""F3: disks that are full, read-only or gone fail saves, not the training."""

import errno
import os
import shutil
import subprocess

import numpy as np
import pytest

from embodied.core.checkpoint import Checkpoints, SaveFailed, verify
from embodied.core.files import Files
from embodied.core.log import read_log
from tests.support import make_trainer, stub_recipe

SAVES = 20
OPERATIONS = ("make_directory", "write_text", "write_tensors", "sync", "rename", "remove")


class Faulty(Files):
    """Fails one operation of each save that it is told to."""

    def __init__(self):
        self.fail_at = None
        self.count = 0

    def arm(self, fail_at):
        self.fail_at, self.count = fail_at, 0


def _faulty(name):
    def operation(self, path, *rest):
        self.count += 1
        if self.count == self.fail_at:
            code = (errno.ENOSPC, errno.EACCES)[self.count % 2]
            raise OSError(code, os.strerror(code), str(path))
        getattr(Files, name)(self, path, *rest)

    return operation


for _name in OPERATIONS:
    setattr(Faulty, _name, _faulty(_name))


def faults(directory):
    return [e["what"] for e in read_log(directory, "fault")]


def step_once(trainer, files, fail_at):
    files.arm(fail_at)
    trainer.step()
    files.arm(None)


def operations_of_a_save(tmp_path):
    files = Faulty()
    trainer = make_trainer(stub_recipe(), tmp_path / "count", files=files, checkpoint_every=1)
    for _ in range(4):
        step_once(trainer, files, None)
    files.arm(None)
    trainer.step()
    return files.count


def test_twenty_saves_that_fail_anywhere(tmp_path):
    files, generator = Faulty(), np.random.default_rng(0)
    count = operations_of_a_save(tmp_path)
    trainer = make_trainer(
        stub_recipe(steps=100), tmp_path / "run", files=files, checkpoint_every=1
    )
    step_once(trainer, files, None)
    for i in range(SAVES):
        step_once(trainer, files, int(generator.integers(1, count + 1)))
        assert len(faults(trainer.directory)) == i + 1
        assert trainer.iteration == i + 2
        step, _ = Checkpoints(trainer.directory / "checkpoints").load()
        assert step >= 3
        for kept in trainer.checkpoints.steps():
            verify(trainer.checkpoints.path(kept))
    assert all("checkpoint not saved" in what for what in faults(trainer.directory))
    trainer.save()
    assert trainer.checkpoints.load()[0] == trainer.checkpoint_key
    assert not list(trainer.checkpoints.root.glob("*.tmp"))


@pytest.mark.parametrize("stopped", [False, True])
def test_final_save_that_fails_is_told(tmp_path, stopped):
    files = Faulty()
    trainer = make_trainer(stub_recipe(steps=6), tmp_path, files=files)
    for _ in range(3):
        trainer.step()
    trainer.save()
    files.write_tensors = Faulty._no_space
    if stopped:
        step = trainer.step

        def interrupted_step():
            step()
            trainer._signals.number = 15

        trainer.step = interrupted_step
    with pytest.raises(SaveFailed, match="not saved") as caught:
        trainer.run()
    assert caught.value.exit_code == 14
    assert trainer.checkpoints.load()[0] == 7


def _no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


Faulty._no_space = staticmethod(_no_space)


def test_directory_replaced_by_a_file_and_back(tmp_path):
    trainer = make_trainer(stub_recipe(steps=6), tmp_path, checkpoint_every=1)
    trainer.step()
    root = trainer.checkpoints.root
    root.rename(tmp_path / "away")
    root.write_text("in the way")
    trainer.step()
    trainer.step()
    assert len(faults(tmp_path)) == 2
    root.unlink()
    (tmp_path / "away").rename(root)
    assert trainer.checkpoints.load()[0] == 3
    trainer.run()
    assert trainer.checkpoints.load()[0] == trainer.checkpoint_key
    assert len(faults(tmp_path)) == 2


def test_run_directory_vanished(tmp_path):
    trainer = make_trainer(stub_recipe(steps=6), tmp_path / "run", checkpoint_every=1)
    trainer.step()
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(SaveFailed):
        trainer.run()
    assert trainer.iteration == 6


def test_batch_of_a_fault_that_cannot_be_kept(tmp_path):
    trainer = make_trainer(stub_recipe(steps=6), tmp_path, files=Faulty())
    trainer.step()
    trainer.checkpoints.files.write_tensors = _no_space
    trainer.log.files.write_tensors = _no_space
    trainer.log.keep("faults", "update_1", {"x": np.zeros(3)}, 1)
    assert faults(tmp_path) == [
        "faults/update_1.safetensors not kept: [Errno 28] No space left on device"
    ]


@pytest.fixture
def small_disk(tmp_path):
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(tmp_path)], capture_output=True
    )
    if made.returncode:
        pytest.skip(f"mounting a small tmpfs is not permitted: {made.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def fill(disk):
    with open(disk / "ballast", "wb", buffering=0) as stream:
        for block in (4096, 1):
            with pytest.raises(OSError, match="No space left"):
                while True:
                    stream.write(b"x" * block)


def test_disk_that_fills_up_and_is_freed(small_disk):
    trainer = make_trainer(
        stub_recipe(steps=40), small_disk / "run", checkpoint_every=2, log_every=1
    )
    for _ in range(4):
        trainer.step()
    saved = trainer.checkpoints.steps()
    fill(small_disk)
    for _ in range(30):
        trainer.step()
    assert trainer.checkpoints.steps() == saved
    assert trainer.checkpoints.load()[0] == saved[-1]
    (small_disk / "ballast").unlink()
    trainer.run()
    assert trainer.checkpoints.load()[0] == trainer.checkpoint_key
    steps = [event["step"] for event in read_log(trainer.directory, "train")]
    assert steps == list(range(1, 41))
    assert len(faults(trainer.directory)) == 15


def test_disk_full_to_the_end(small_disk):
    trainer = make_trainer(stub_recipe(steps=30), small_disk / "run", log_every=1)
    for _ in range(4):
        trainer.step()
    trainer.save()
    fill(small_disk)
    with pytest.raises(SaveFailed):
        trainer.run()
    assert trainer.checkpoints.load()[0] == 9
