"""Signals and the lock, in real processes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from embodied.core.checkpoint import Checkpoints
from embodied.core.lock import DirectoryLock
from embodied.core.signals import StopSignals
from embodied.core.types import UserError
from tests.support import in_child, kill_myself, make_trainer, stub_recipe

SCRIPT = """
import sys
from embodied.core.types import UserError
from tests.support import make_trainer, stub_recipe
trainer = make_trainer(stub_recipe(steps=10**9), sys.argv[1], evaluate=1)
if "resume" in sys.argv:
    trainer.resume()
step = trainer.step
def told_step():
    step()
    if trainer.iteration == 5:
        print("running", flush=True)
trainer.step = told_step
try:
    trainer.run()
except UserError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize(
    ("number", "name", "code"), [(signal.SIGTERM, "SIGTERM", 0), (signal.SIGINT, "SIGINT", 130)]
)
def test_a_signal_saves_and_says_so(tmp_path, number, name, code):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout.readline() == "running\n"
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"{name}: saved after" in said
    saved = int(said.split("saved after ")[1].split()[0])
    step, state = Checkpoints(tmp_path / "checkpoints").load()
    assert state["trainer"]["iteration"] == saved == step // 2
    trainer = make_trainer(stub_recipe(steps=saved + 3), tmp_path)
    assert trainer.resume() == saved
    trainer.run()
    assert trainer.iteration == saved + 3


def test_signal_during_an_evaluation(tmp_path):
    def work():
        trainer = make_trainer(stub_recipe(steps=4, eval_at_end=True), tmp_path, evaluate=2)
        step, calls = trainer.evaluator.env.step, []

        def stopped_step(action):
            calls.append(0)
            os.kill(os.getpid(), signal.SIGTERM)
            return step(action)

        trainer.evaluator.env.step = stopped_step
        try:
            trainer.run()
        except UserError as error:
            return [error.exit_code, len(calls), trainer.due]

    assert in_child(work) == ("ok", [0, 1, "online"])
    trainer = make_trainer(stub_recipe(steps=4, eval_at_end=True), tmp_path, evaluate=2)
    trainer.resume()
    assert trainer.due == "online"
    trainer.run()
    assert trainer.evaluation is not None


def test_handlers_are_put_back():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    signals = StopSignals()
    with signals:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)
        assert signals.number == signal.SIGINT
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    with signals:
        signals.check(1)  # what came before does not stop the next run


def test_two_runs_in_one_directory(tmp_path):
    trainer = make_trainer(stub_recipe(), tmp_path)

    def second():
        try:
            make_trainer(stub_recipe(), tmp_path)
        except UserError as error:
            return str(error)

    status, message = in_child(second)
    assert status == "ok"
    assert f"another run is using {tmp_path} (process {os.getpid()})" in message
    with pytest.raises(UserError, match="another run"):
        make_trainer(stub_recipe(), tmp_path)
    trainer.run()  # the first is not disturbed
    trainer.close()
    trainer.close()
    make_trainer(stub_recipe(), tmp_path).resume()


def test_death_releases_the_lock(tmp_path):
    def die():
        make_trainer(stub_recipe(), tmp_path)
        kill_myself()

    assert in_child(die) == ("killed", signal.SIGKILL)
    make_trainer(stub_recipe(), tmp_path)


def test_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=r"cannot write to the run directory .*another"):
            make_trainer(stub_recipe(), directory)
    if os.geteuid():
        tmp_path.chmod(0o500)
        with pytest.raises(UserError, match="cannot write"):
            DirectoryLock(tmp_path)
        tmp_path.chmod(0o700)
