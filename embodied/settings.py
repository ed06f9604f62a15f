"""Settings of a run: dataclasses are the schema, YAML holds named values, hydra composes them."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embodied.core import registry
from embodied.core.types import UserError
from rewards import REWARDS

GROUPS = ("method", "reward", "experiment")
FREE = ("env_args", "data_env_args", "task_args", "method.pretrain_args")
"""Settings whose keys belong to somebody else (an environment, another method)."""

TUNABLE = (
    "trainer.",
    "evaluation.",
    "report",
    "run",
    "resume",
    "fallback",
    "method.online_steps",
    "method.offline_updates",
    "method.eval_every",
)
"""What a resumed run may change: how it is kept and how long it lasts, not what it computes."""

PLACE = ("run", "resume", "fallback")
"""Where a run lies and how it goes on; no part of what it is."""


def _check(section: str, settings: Any, **least: float) -> None:
    """Raise ValueError if a setting is less than it may be."""
    for name, minimum in least.items():
        value = getattr(settings, name)
        if value < minimum:
            raise ValueError(f"{section}{name} must be at least {minimum}, got {value}")


@dataclass
class RewardSettings:
    """r -> scale * r + bias for data and training environments; evaluation is not transformed.

    Attributes:
        scale: factor.
        bias: added after scaling; -1 turns a 0/1 success reward into -1/0.
    """

    scale: float = 1.0
    bias: float = 0.0


@dataclass
class CollectSettings:
    """Data made for `data=scripted` (by the task's expert), `data=play` and `embodied collect`.

    Attributes:
        episodes: how many.
        offset: constant added to the scripted actions, as of a badly calibrated arm.
        noise: standard deviation of Gaussian action noise.
        noise_correlation: of consecutive noise, in [0, 1).
        random_prob: share of uniformly random actions.
        failure_prob: share of episodes that are made to fail.
        seed: of the collection, apart from the run's seed so that runs share a dataset.
    """

    episodes: int = 100
    offset: list[float] = field(default_factory=list)
    noise: float = 0.3
    noise_correlation: float = 0.0
    random_prob: float = 0.0
    failure_prob: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        _check("collect.", self, episodes=1, noise=0, noise_correlation=0, seed=0)
        if self.noise_correlation >= 1:
            raise ValueError(
                f"collect.noise_correlation must be less than 1, got {self.noise_correlation}"
            )
        for name in ("random_prob", "failure_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"collect.{name} must lie in [0, 1], got {getattr(self, name)}")


@dataclass
class EvaluationSettings:
    """Evaluation on a fixed list of initial states.

    Attributes:
        episodes: how many initial states.
        seed: chooses the list; apart from the run's seed so that runs compare.
        data: questions for a language model; null takes some of those it is trained on.
    """

    episodes: int = 50
    seed: int = 0
    data: str | None = None

    def __post_init__(self) -> None:
        _check("evaluation.", self, episodes=1, seed=0)


@dataclass
class KeepingSettings:
    """How a run is kept; none of it changes what is computed.

    Attributes:
        log_every: trainer steps between log lines.
        checkpoint_every: trainer steps between checkpoints; 0 saves at phase ends and stops only.
        keep: checkpoints kept.
        tensorboard: write TensorBoard files.
        wandb: W&B project, or null.
    """

    log_every: int = 500
    checkpoint_every: int = 5000
    keep: int = 2
    tensorboard: bool = True
    wandb: str | None = None

    def __post_init__(self) -> None:
        _check("trainer.", self, log_every=1, checkpoint_every=0, keep=1)


@dataclass
class LoraSettings:
    """LoRA (needs the lora extra).

    Attributes:
        rank: of the matrices; 0 trains the model itself.
        alpha: their scale is alpha / rank.
        targets: names of layers with commas between them, or all-linear.
    """

    rank: int = 0
    alpha: float = 32.0
    targets: str = "all-linear"

    def __post_init__(self) -> None:
        _check("lora.", self, rank=0)


@dataclass
class TrainSettings:
    """Everything `embodied train` takes.

    Attributes:
        method: settings of the method chosen by `method=ID`.
        env: environment id, such as metaworld/door-open-v3.
        env_args: arguments of the environment: obs, reward, horizon, terminate_on_success, ...
        data_env_args: what differs from env_args where scripted data is collected.
        task: of a language method: chain, ..., a game, or `rows`, which nothing judges; null means
            rows for data and a model of yours without a reward, else chain.
        task_args: its options: length, reward (final, all_steps) and turns (asked to look again
            when evaluated), and those of the task.
        model: of a language method: a folder or hub id, or `tiny` for the task's own base model.
        engine: draws a language model's answers: built-in, or vllm (grpo, ppo, self_rewarding_ppo).
        engine_args: of vllm.LLM, such as gpu_memory_utilization.
        lora: small matrices to train instead of the model's own weights.
        longest: tokens of an answer at most; 0 for the task's own, or 256.
        num_envs: training environments stepped together.
        vector: sync (in this process) or async (a process each).
        reward: transform of an environment's rewards (`reward.bias=-1`); for a language method also
            `reward=maths`, format or code, which judge by the rows' own facts (reward.KEY=VALUE).
        scale_observations: centre and scale observations by the offline data's statistics.
        data: a dataset directory, `scripted` or `play` to collect one first, or null.
        collect: how a scripted dataset is made.
        seed: every random stream of the run comes from it.
        evaluation: fixed initial states.
        trainer: logging and checkpoints.
        device: cpu, cuda or auto.
        threads: CPU threads of the learner; 0 lets the learner choose and say why.
        run: run directory; null means runs/METHOD-TASK-SEED.
        report: write report.html at the end (needs the report extra).
        resume: continue this run directory.
        fallback: if its newest checkpoint is damaged, use the newest one that verifies.
    """

    method: Any = None
    env: str = "metaworld/door-open-v3"
    env_args: dict[str, Any] = field(default_factory=dict)
    data_env_args: dict[str, Any] = field(default_factory=dict)
    task: str | None = None
    task_args: dict[str, Any] = field(default_factory=dict)
    model: str = "tiny"
    engine: str = "built-in"
    engine_args: dict[str, Any] = field(default_factory=dict)
    lora: LoraSettings = field(default_factory=LoraSettings)
    longest: int = 0
    num_envs: int = 1
    vector: str = "sync"
    reward: Any = None
    scale_observations: bool = False
    data: str | None = None
    collect: CollectSettings = field(default_factory=CollectSettings)
    seed: int = 0
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    trainer: KeepingSettings = field(default_factory=KeepingSettings)
    device: str = "auto"
    threads: int = 0
    run: str | None = None
    report: bool = True
    resume: str | None = None
    fallback: bool = False

    def __post_init__(self) -> None:
        _check("", self, longest=0, num_envs=1, seed=0, threads=0)
        if self.vector not in ("sync", "async"):
            raise ValueError(f"vector must be sync or async, got {self.vector!r}")
        if self.engine not in ("built-in", "vllm"):
            raise ValueError(f"engine must be built-in or vllm, got {self.engine!r}")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ValueError(f"device must be cpu, cuda, cuda:N or auto, got {self.device!r}")


@dataclass(frozen=True)
class Settings:
    """Composed settings.

    Attributes:
        method_id: the method chosen.
        method: its config dataclass.
        train: everything else.
        overrides: what the user gave.
        plain: all of it as JSON values.
    """

    method_id: str
    method: Any
    train: TrainSettings
    overrides: tuple[str, ...]
    plain: dict[str, Any]


@functools.cache
def _register_schemas() -> None:
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    store = ConfigStore.instance()
    store.store("train_schema", TrainSettings)
    methods = {id: method.config for id, method in registry.methods().items()}
    rewards = {"transform": RewardSettings, **REWARDS}
    for group, configs in (("method", methods), ("reward", rewards)):
        for id, config in configs.items():
            node = OmegaConf.structured(config)
            _unlock(node)
            store.store(f"schema_{id}", node, group=group)


def _unlock(node: Any) -> None:
    """Frozen dataclasses make read-only nodes; while composing they must be writable."""
    from omegaconf import DictConfig, OmegaConf

    OmegaConf.set_readonly(node, False)
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig) and child._value() is not None:
            _unlock(child)


def compose(overrides: Sequence[str] = ()) -> Settings:
    """Compose settings from `key=value` overrides.

    Raises:
        UserError: an unknown key, method or experiment, naming the nearest known ones, or a value
            of the wrong type or range.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.errors import HydraException
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    _register_schemas()
    parsed = parse(overrides)
    for override in parsed:
        if override.is_sweep_override():
            raise UserError(
                f"{override.input_line!r} gives several values: `embodied train -m` runs each of "
                "them; a list is written key=[1,2]"
            )
    groups = [o for o in parsed if o.key_or_group in GROUPS]
    for override in groups:
        _check_choice(override.key_or_group, str(override.value()))
    with initialize_config_module("configs", version_base="1.3"):
        try:
            base = hydra_compose("train", [o.input_line for o in groups])
            known = list(_flat_keys(base))
            ready = [_ready(o, known) for o in parsed]
            full = hydra_compose("train", ready, return_hydra_config=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(_first_line(error)) from error
    method_id = full.hydra.runtime.choices.method
    with open_dict(full):
        del full["hydra"]
    try:
        built = OmegaConf.to_object(full)
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(_first_line(error.__cause__ or error)) from error
    if registry.get(method_id).kind == "robot" and not isinstance(built.reward, RewardSettings):
        name = type(built.reward).__name__.lower()
        raise UserError(f"reward={name} judges answers; {method_id} learns from an environment")
    if built.task is None:
        own = built.data and built.model != "tiny" and isinstance(built.reward, RewardSettings)
        built.task = full.task = "rows" if own else "chain"
    plain = {"method_id": method_id, **OmegaConf.to_container(full, resolve=True)}
    return Settings(method_id, built.method, built, tuple(overrides), plain)


def parse(overrides: Sequence[str]) -> list[Any]:
    """Overrides as hydra reads them."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    for override in overrides:
        if not override.partition("=")[1] or override.startswith("="):
            raise UserError(f"{override!r} is no setting; settings look like key=value")
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise UserError(
            f"cannot read a setting: {_first_line(error)}; settings look like key=value, lists "
            "like key=[1,2], and text with other signs needs quotes: 'key=\"a, b\"'"
        ) from error


def _first_line(error: BaseException) -> str:
    """The first line of an error, and of its cause where that says more."""
    parts = [error, error.__cause__] if error.__cause__ else [error]
    return ": ".join(dict.fromkeys(str(p).strip().splitlines()[0] for p in parts))


def _check_choice(group: str, name: str) -> None:
    known = _choices(group)
    if name not in known:
        raise UserError(f"unknown {group} {name!r}; {registry.nearest(name, known)}")


def _choices(group: str) -> list[str]:
    from importlib.resources import files

    folder = files("configs") / group
    return sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".yaml"))


def _ready(override: Any, known: Sequence[str]) -> str:
    """An override in hydra's syntax: new keys are allowed where they are somebody else's."""
    key = override.key_or_group
    if key in GROUPS or key in known:
        return override.input_line
    if any(key.startswith(f"{free}.") for free in FREE):
        line = override.input_line.lstrip("+~")
        return f"++{line}"
    raise UserError(f"unknown setting {key!r}; {registry.nearest(key, known)}")


def _flat_keys(node: Any, prefix: str = "") -> Any:
    from omegaconf import DictConfig

    for key in node:
        child = node._get_node(key)
        path = f"{prefix}{key}"
        yield path
        if isinstance(child, DictConfig) and not child._is_none():
            yield from _flat_keys(child, f"{path}.")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            out |= flatten(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, as dotted key -> (old, new)."""
    a, b = flatten(old), flatten(new)
    return {k: (a.get(k), b.get(k)) for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)}


def refuse_incompatible(changed: Mapping[str, Any]) -> None:
    """Raise UserError if a resumed run would compute something else than it was started with."""
    bad = [k for k in changed if not k.startswith(TUNABLE)]
    if bad:
        lines = "\n".join(f"  {k}: {changed[k][0]!r} -> {changed[k][1]!r}" for k in bad)
        raise UserError(
            f"a resumed run may not change\n{lines}\nstart a new run for other settings; "
            "lengths, evaluation and logging may change"
        )


def default_directory(settings: Settings) -> Path:
    """runs/METHOD-TASK-SEED."""
    train = settings.train
    what = train.env
    if registry.get(settings.method_id).kind == "text":
        what = train.task if train.task != "rows" else Path(train.data or "rows").stem
        if not isinstance(train.reward, RewardSettings):
            what = type(train.reward).__name__.lower()
    return Path("runs") / f"{settings.method_id}-{what.replace('/', '-')}-{train.seed}"


def quoted(text: object) -> str:
    """Text as a value of an override, whatever signs it has."""
    # to hydra a backslash is itself, except in front of a quote
    escaped = re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + (r"\'" if m[2] else ""), str(text))
    return f"'{escaped}'"


def take(overrides: Sequence[str], key: str) -> tuple[str | None, list[str]]:
    """The value of one override, and the others."""
    value, rest = None, []
    for override in overrides:
        name, _, given = override.partition("=")
        if name == key:
            value = given
        else:
            rest.append(override)
    return value, rest


def free_arguments(overrides: Sequence[str], section: str) -> tuple[dict[str, Any], list[str]]:
    """The values of `section.KEY=VALUE` overrides, and the other overrides."""
    mine = [o for o in overrides if o.startswith(f"{section}.")]
    rest = [o for o in overrides if o not in mine]
    keys = {o.partition("=")[0].removeprefix(f"{section}."): o for o in mine}
    values = {}
    for key, override in keys.items():
        parsed = parse([override])[0]
        if parsed.is_sweep_override():
            raise UserError(f"{override!r} gives several values; a list is written KEY=[1,2]")
        values[key] = parsed.value()
    return values, rest


def merged(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """Overrides of a run with newer ones on top, without those of its place."""
    by_key = {o.partition("=")[0].lstrip("+"): o for o in (*old, *new)}
    return [override for key, override in by_key.items() if key not in PLACE]
