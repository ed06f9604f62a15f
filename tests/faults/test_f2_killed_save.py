"""F2: a process killed at any moment of a save leaves a checkpoint that verifies."""

import signal

import pytest
import torch

from embodied.core.checkpoint import Checkpoints, digest
from embodied.core.files import Files
from tests.support import in_child, kill_myself, leftovers

OPERATIONS = ("make_directory", "write_text", "write_tensors", "sync", "rename", "remove")


def parts(step):
    return {
        "learner": {"weight": torch.full((50,), float(step)), "steps": step},
        "replay": {"rows": torch.arange(200.0) * step, "added": step},
        "trainer": {"iteration": step},
    }


class Dying(Files):
    """Kills the process after its k-th operation, or (`torn`) in the middle of it."""

    def __init__(self, k, torn=False):
        self.k, self.torn, self.log = k, torn, []

    def _count(self, name, path):
        self.log.append(name)
        if len(self.log) == self.k:
            if self.torn and name.startswith("write"):
                content = path.read_bytes()
                path.write_bytes(content[: len(content) // 2])
            kill_myself()


class _Partial(Dying):
    """Dies with the first of a directory's files deleted."""

    def remove(self, path):
        if len(self.log) + 1 == self.k:
            next(iter(sorted(path.iterdir()))).unlink()
            kill_myself()
        super().remove(path)


def _counted(name):
    def operation(self, path, *rest):
        getattr(Files, name)(self, path, *rest)
        self._count(name, path)

    return operation


for _name in OPERATIONS:
    setattr(Dying, _name, _counted(_name))


def operations(tmp_path_factory):
    files = Dying(0)
    root = tmp_path_factory / "count"
    Checkpoints(root, keep=1).save(1, parts(1))
    Checkpoints(root, keep=1, files=files).save(2, parts(2))
    return files.log


def test_every_kind_of_operation_is_covered(tmp_path):
    log = operations(tmp_path)
    assert set(log) == set(OPERATIONS)
    assert len(log) > 15


@pytest.mark.parametrize("kind", ["after", "torn", "partial"])
def test_killed_at_every_operation(tmp_path, kind):
    log = operations(tmp_path)
    renamed = log.index("rename") + 1  # from here on the new checkpoint has its name
    for k in range(1, len(log) + 1):
        root = tmp_path / f"run_{k}"
        Checkpoints(root / "checkpoints", keep=1).save(1, parts(1))
        files = _Partial(k) if kind == "partial" else Dying(k, torn=kind == "torn")

        def save(root=root, files=files):
            Checkpoints(root / "checkpoints", keep=1, files=files).save(2, parts(2))

        assert in_child(save) == ("killed", signal.SIGKILL), k

        again = Checkpoints(root / "checkpoints", keep=1)
        step, state = again.load()
        assert step == (2 if k >= renamed else 1), (k, log[k - 1])
        assert digest(state) == digest(parts(step))
        again.save(3, parts(3))
        assert again.load()[0] == 3
        assert again.steps() == [3]
        assert not leftovers(root)
        assert (again.root / "LATEST").read_text() == "step_000000000003\n"


def test_temporary_directory_is_never_chosen(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, parts(1))
    whole = checkpoints.save(2, parts(2))
    whole.rename(whole.with_suffix(".tmp"))  # complete, but not renamed: not promised either
    (tmp_path / "LATEST").write_text("step_000000000002.tmp\n")
    assert checkpoints.load()[0] == 1
