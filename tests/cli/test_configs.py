"""Every YAML file composes, and what is cheap to build is built."""

import dataclasses
import inspect
from importlib.resources import files
from pathlib import Path

import pytest

from embodied import assemble, settings
from embodied.core import registry

CONFIGS = Path(str(files("configs")))
METHODS = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))


def test_the_folder_holds_nothing_else():
    found = {p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob("*.yaml")}
    named = {f"method/{name}.yaml" for name in METHODS}
    named |= {f"experiment/{name}.yaml" for name in EXPERIMENTS}
    assert found == named | {"train.yaml"}
    assert set(METHODS) == set(registry.methods())
    assert "maze" in EXPERIMENTS


@pytest.mark.parametrize("name", METHODS)
def test_methods_compose_and_build(name, dataset, tmp_path):
    composed = settings.compose(
        [f"method={name}", "env=maze/point-v0", f"data={dataset}", f"run={tmp_path / 'run'}"]
    )
    assert type(composed.method) is registry.get(name).config
    run = assemble.build(composed)
    run.trainer.log.close()
    assert run.trainer.phase is not None
    assert run.about["dataset"]["episodes"] == 3


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
