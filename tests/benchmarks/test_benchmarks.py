"""The driver measures, skips what is missing, and writes its page. No times are asserted."""

import dataclasses
import importlib
import math

import pytest

from benchmarks.__main__ import main, parse
from benchmarks.driver import Options, Result, run_group
from benchmarks.page import markdown
from benchmarks.rows import ROWS, WORKERS, Row
from benchmarks.workers import gemm

BATCH = next(row for row in ROWS if row.name == "replay-numpy")


def test_a_row_without_peers_is_measured_and_what_is_missing_is_named():
    broken = dataclasses.replace(BATCH, ours="plain:nothing", peers=("sb3:batch", "plain:batch"))
    result, skipped = run_group([BATCH, broken], Options(rounds=2, secs=0.01))
    assert len(result.ours) == len(result.theirs) == len(result.ratios) == 2
    assert all(math.isfinite(ratio) and ratio > 0 for ratio in result.ratios)
    assert result.met in (True, False)
    assert "torch" in result.versions["this project"]
    assert any("EMBODIED_PEERS is not set" in note for note in skipped.notes)
    assert any("nothing" in note for note in skipped.notes)
    assert math.isnan(skipped.ratio) and skipped.met is None


def test_ratio_is_the_median_of_round_ratios():
    result = Result(BATCH, [2.0, 30.0, 8.0], "peer", [1.0, 10.0, 1.0])
    assert result.ratio == 3.0  # not 8 / 1, the ratio of the medians
    assert result.met is (BATCH.goal <= 3.0)


def test_page_names_every_row_and_no_ratio_without_a_peer():
    results = [Result(row, [1.0, 2.0], "peer", [1.0, 1.0]) for row in ROWS]
    results.append(Result(BATCH, [1.0], notes=["SB3 skipped: why"]))
    page = markdown(results, Options(), "python -m benchmarks")
    assert all(row.title in page for row in ROWS)
    assert "not measured" in page and "SB3 skipped: why" in page
    assert "AMX" in page


def test_rows_name_variants_that_exist():
    assert len({row.name for row in ROWS}) == len(ROWS)
    ours = importlib.import_module("benchmarks.workers.ours").VARIANTS
    for row in ROWS:
        for name in (row.ours, *row.peers):
            key, variant = name.split(":")
            assert key in WORKERS
            assert key != "ours" or variant in ours


def test_the_bound_counts_the_lean_step():
    flops = sum(2 * m * k * n for m, k, n in gemm.wsrl_products())
    assert flops == pytest.approx(7.15e9, rel=0.01)
    layers, head = 4 * 12 * 128**2, 128 * 64
    read, fed = 64 * 8, 512 * 31
    sampling = 2 * (layers * (read + fed) + head * (64 + fed))
    learning = 6 * (layers * (read + fed) + head * 512 * 32)
    flops = sum(2 * m * k * n for m, k, n in gemm.grpo_products("gpt2"))
    assert flops == sampling + learning


def test_quick_is_short_and_unknown_rows_are_refused(capsys):
    assert (parse(["--quick"]).rounds, parse(["--quick"]).secs) == (3, 0.3)
    assert main(["--only", "no-such-row"]) == 1
    assert "wsrl-official" in capsys.readouterr().out


def test_rows_of_a_group_share_a_first_word():
    assert Row("a-b", "", "", "", (), None).group == "a"
