"""Several processes train one model as one process with all their rows would."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from embodied.core import ranks

pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]


def port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(count, *arguments):
    """The processes of a run, as torchrun would start them."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port()), "WORLD_SIZE": str(count)}
    settings = {**os.environ, **place, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.core.rank", *map(str, arguments)]
    return [
        subprocess.Popen(
            command,
            env={**settings, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def results(processes):
    found = []
    for process in processes:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        found.append(json.loads(out.splitlines()[-1]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_two_ranks_do_what_one_process_with_the_double_batch_does(tmp_path, method):
    (one,) = results(start(1, method, tmp_path, 16, 4))
    two = results(start(2, method, tmp_path, 8, 4))
    assert two[0] == two[1]
    np.testing.assert_allclose(two[0]["losses"], one["losses"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(two[0]["weights"], one["weights"], rtol=0, atol=1e-5)
    assert len(one["losses"]) == 4 and len(set(one["losses"])) == 4


@pytest.mark.slow
def test_the_other_rank_ends_when_one_is_killed(tmp_path):
    first, second = start(2, "sft", tmp_path, 8, 10**6)
    for _ in range(3):
        assert first.stdout.readline()
    second.kill()
    first.communicate(timeout=30)  # s, what the project promises
    assert first.returncode not in (0, None)
    second.communicate()


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_at_the_same_step(tmp_path):
    processes = start(2, "sft", tmp_path, 8, 10**6)
    for _ in range(3):
        assert processes[0].stdout.readline()
    processes[1].send_signal(signal.SIGTERM)
    for process in processes:
        process.communicate(timeout=60)
    saved = [
        sorted(p.name for p in (tmp_path / f"2-{rank}" / "checkpoints").glob("step_*"))
        for rank in range(2)
    ]
    assert saved[0][-1] == saved[1][-1]


def test_one_rank_needs_nobody():
    value = torch.tensor(3.0)
    assert ranks.mean(value) is value and ranks.least(4) == 4 and not ranks.any_of(False)
    ranks.join("cpu")
    assert value == 3.0 and not torch.distributed.is_initialized()
