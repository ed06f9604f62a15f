import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from embodied.report import figures
from embodied.report.run import read_run
from tests.report.lines import counters, evaluation, phase


def train(env_steps, episodes, **metrics):
    return phase("online") | {
        "kind": "train",
        "counters": counters(env_steps, env_steps, episodes),
        "metrics": metrics,
    }


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_figures_of_a_real_run(trained, kind):
    run = read_run(trained)
    drawn = (figures.learning_curve, figures.value_curve, figures.training_metrics)
    for image in (draw(run, kind) for draw in drawn):
        if kind == "png":
            assert image.startswith(b"\x89PNG\r\n")
        else:
            assert ElementTree.fromstring(image).tag.endswith("svg")


def test_figures_are_the_same_bytes_every_time(trained):
    run = read_run(trained)
    assert figures.learning_curve(run) == figures.learning_curve(run)


def test_figures_leave_global_settings_alone(trained):
    import matplotlib

    old = dict(matplotlib.rcParams)
    figures.learning_curve(read_run(trained))
    assert dict(matplotlib.rcParams) == old


def test_an_empty_run_draws_nothing(make_run):
    run = read_run(make_run([phase("online")]))
    assert figures.learning_curve(run) is None
    assert figures.value_curve(run) is None
    assert figures.training_metrics(run) is None


def test_unknown_image_kind(trained):
    with pytest.raises(ValueError, match="svg or png"):
        figures.learning_curve(read_run(trained), "gif")


def test_spans_of_a_real_run(trained):
    spans = read_run(trained).spans
    assert [(s.name, s.env_steps) for s in spans] == [
        ("offline", (0, 0)),
        ("warmup", (0, 60)),
        ("online", (60, 180)),
    ]
    assert spans[0].updates == (0, 60) and spans[1].updates == (60, 60)


def test_offline_only_runs_are_drawn_against_updates(make_run):
    lines = [phase("offline"), evaluation("offline", 3, updates=10, phase="done")]
    assert figures.learning_curve(read_run(make_run(lines))) is not None


def test_probe_series_marks_what_was_measured_before(trained):
    points = figures.probe_series(read_run(trained))["offline_q"]
    assert points[0, 2] == 1 and not points[1:, 2].any()
    assert (np.diff(points[:, 0]) >= 0).all()


def test_collected_success_weighs_by_episodes(make_run):
    lines = [
        train(10, 2, **{"episode/success": 1.0}),
        train(20, 2),
        train(30, 8, **{"episode/success": 0.5}),
        train(40, 28, **{"episode/success": 0.25}),
        train(50, 30, **{"episode/success": 1.0}),
    ]
    points = figures.collected_success(read_run(make_run(lines)))
    # after 28 episodes the last line alone holds 20; after 30 it takes two lines
    expected = [(10, 1.0), (30, 5 / 8), (40, 0.25), (50, 7 / 22)]
    np.testing.assert_allclose(points, expected)


def test_common_grid_interpolates_where_all_seeds_have_values():
    x, y = figures.common_grid([np.array([[0, 0], [4, 4]]), np.array([[1, 3], [2, 3], [6, 3]])])
    np.testing.assert_array_equal(x, [1, 2, 4])
    np.testing.assert_allclose(y, [[1, 2, 4], [3, 3, 3]])
    with pytest.raises(ValueError, match="common range"):
        figures.common_grid([np.array([[0, 0]]), np.array([[1, 1]])])
    with pytest.raises(ValueError, match="at least one seed"):
        figures.common_grid([])


def test_compare_and_strip():
    x = np.arange(10.0)
    seeds = [np.stack([x, x / 10 + s / 50], 1) for s in range(3)]
    for band in ("bootstrap", "range"):
        image = figures.compare({"a": seeds, "b": seeds[:1]}, rate=True, band=band)
        ElementTree.fromstring(image)
    with pytest.raises(ValueError, match="band"):
        figures.compare({"a": seeds}, band="sd")
    image = figures.strip(
        {"a": [0.1, 0.5, 0.4], "b": [0.9]}, ylabel="dip", reference=("paper", 0.3), kind="png"
    )
    assert image.startswith(b"\x89PNG")
