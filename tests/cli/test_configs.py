"""Every YAML file composes, and what is cheap to build is built."""

import dataclasses
import inspect
from importlib.resources import files
from pathlib import Path

import pytest

from embodied import assemble, settings
from embodied.core import registry
from rewards import REWARDS
from tests import tiny_language

CONFIGS = Path(str(files("configs")))
METHODS = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))


def test_the_folder_holds_nothing_else():
    found = {p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob("*.yaml")}
    named = {f"method/{name}.yaml" for name in METHODS}
    named |= {f"experiment/{name}.yaml" for name in EXPERIMENTS}
    named |= {f"reward/{name}.yaml" for name in ("transform", *REWARDS)}
    assert found == named | {"train.yaml"}
    assert set(METHODS) == set(registry.methods())
    assert "maze" in EXPERIMENTS


@pytest.mark.parametrize("name", METHODS)
def test_methods_compose_and_build(name, dataset, tmp_path):
    method, run = registry.get(name), f"run={tmp_path / 'run'}"
    if method.kind == "text":
        tiny_language.model().save(tmp_path / "model")
        overrides = ["task=chain", "task_args.length=2", f"model={tmp_path / 'model'}", run]
    else:
        overrides = ["env=maze/point-v0", f"data={dataset}", run]
    composed = settings.compose([f"method={name}", *overrides])
    assert type(composed.method) is method.config
    run = assemble.build(composed)
    run.trainer.log.close()
    assert run.trainer.phase is not None
    assert method.kind == "text" or run.about["dataset"]["episodes"] == 3


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_compose_and_cheap_ones_build(name, dataset, tmp_path):
    overrides = [f"experiment={name}", f"run={tmp_path / 'run'}"]
    train = settings.compose(overrides).train
    assert train.env.count("/") == 1
    if train.env.startswith("maze/"):
        run = assemble.build(settings.compose([*overrides, f"data={dataset}"]))
        run.trainer.log.close()


def dataclasses_of(module):
    found = vars(module).values()
    return [c for c in found if inspect.isclass(c) and dataclasses.is_dataclass(c)]


@pytest.mark.parametrize(
    "config",
    [*dataclasses_of(settings), *(m.config for m in registry.methods().values())],
    ids=lambda config: config.__name__,
)
def test_docstrings_list_every_setting(config):
    documented = "\n".join(inspect.getdoc(c) or "" for c in config.__mro__[:-1])
    missing = [f.name for f in dataclasses.fields(config) if f"    {f.name}: " not in documented]
    assert not missing
