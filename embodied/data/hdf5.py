"""The HDF5 layouts of robomimic and LIBERO.

::

    data                          attributes: env_args (JSON), total, and of LIBERO bddl_file_name,
                                  problem_info (JSON), env_name, num_demos, ...
    data/demo_7                   attributes: num_samples, model_file, init_state
    data/demo_7/actions           [T, A]       column action
    data/demo_7/rewards, dones    [T]          columns next.reward, next.done
    data/demo_7/states, ...       [T, ...]     columns of the same names
    data/demo_7/obs/KEY           [T, ...]     column observation.KEY
    data/demo_7/next_obs/KEY      [T, ...]     column next.observation.KEY
    mask/train, mask/valid        names of demos

Files written here hold `terminated`, `truncated` and `success` beside `dones`, which in robomimic
may mean any of them. For a file without them they are derived from the reward, which in both
packages is 1 where the task is solved: success and termination are a reward of at least 1, and
an episode is truncated at its last row otherwise.

Everything in the attributes of `data` is kept in `meta["hdf5"]`, and written back from there.
LIBERO's own recordings hold observations from *after* each action; `meta["observation_lag"]` is
1 for those, and nothing is shifted. Files regenerated for vision-language-action models have no
attributes at all; their task is in the file's name.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embodied.data.h5layout import (
    MARK,
    TASK,
    Column,
    Contents,
    arrays_of,
    feature_of,
    json_value,
    settings_text,
)
from embodied.data.layout import Feature, IncompatibleDataset, Settings

COLUMNS = {
    "action": "actions",
    "next.reward": "rewards",
    "next.done": "dones",
    "next.terminated": "terminated",
    "next.truncated": "truncated",
    "next.success": "success",
}
FOLDERS = {"next.observation.": "next_obs/", "observation.": "obs/", "action_dict.": "action_dict/"}
DEFAULT_FPS = 20  # robosuite's control frequency
GYM = 2  # robomimic's number for a gymnasium environment
SOLVED = 1.0  # the reward of a solved task in robosuite and LIBERO


class DemoLayout:
    """Episodes as groups `data/demo_i`.

    Attributes:
        name: `robomimic` or `libero`.
        done: the type that the layout's authors store `dones` in.
    """

    def __init__(self, name: str, done: str):
        self.name, self.done = name, done

    def group(self, index: int) -> str:
        """The group of an episode."""
        return f"data/demo_{index}"

    def arrays(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Path in the episode's group -> what is stored there."""
        out = {place(name): values for name, values in columns.items()}
        dones = out.get("dones")
        if dones is not None and dones.dtype == bool:
            out["dones"] = dones.astype(self.done)
        rewards = out.get("rewards")
        if rewards is not None and self.name == "libero" and _is_binary(rewards):
            out["rewards"] = rewards.astype(np.uint8)  # exact, and what its authors store
        return out

    def attributes(self, index: int, length: int) -> dict[str, Any]:
        """Attributes of an episode's group, beside its task and meta."""
        return {"num_samples": length}

    def check(self, settings: Settings, tasks: Sequence[str]) -> None:
        """Refuse two columns in one place, and a second task in a LIBERO file.

        Raises:
            IncompatibleDataset: naming them.
        """
        places: dict[str, str] = {}
        for name in settings.features:
            other = places.setdefault(place(name), name)
            if other != name:
                raise IncompatibleDataset(
                    f"features {other!r} and {name!r} would share {place(name)!r}; rename one"
                )
        if self.name == "libero" and len(set(tasks)) > 1:
            raise IncompatibleDataset(
                f"a LIBERO file holds one task, these are {sorted(set(tasks))}: write one file "
                "per task, or the robomimic format, which keeps a task per episode"
            )

    def finish(
        self, file: Any, settings: Settings, lengths: Sequence[int], tasks: Sequence[str]
    ) -> None:
        """Write the attributes of `data` and the groups of `mask`."""
        self.check(settings, tasks)
        data, meta = file["data"], settings.meta
        kept = dict(meta.get("hdf5", {}))
        kept.setdefault("env_args", default_env_args(settings))
        if self.name == "libero":
            info = {"problem_name": "", "domain_name": "robosuite"}
            kept.setdefault("problem_info", info | {"language_instruction": tasks[0]})
            kept.setdefault("bddl_file_name", "")
            kept.setdefault("env_name", settings.env_id)
            kept["num_demos"] = len(lengths)
        for name, value in kept.items():
            data.attrs[name] = json.dumps(value) if isinstance(value, dict | list) else value
        data.attrs["total"] = sum(lengths)
        data.attrs[MARK] = settings_text(settings)
        for name, indices in meta.get("mask", {}).items():
            known = [f"demo_{i}".encode() for i in indices if f"demo_{i}" in data]
            if known:
                file.require_group("mask").create_dataset(name, data=np.array(known))

    def is_own(self, file: Any) -> bool:
        """Whether this package wrote an open file."""
        return "data" in file and MARK in file["data"].attrs

    def contents(self, file: Any, path: Path) -> Contents:
        """Describe an open file.

        Raises:
            ValueError: the file has no group `data` with demos in it.
        """
        data = file.get("data")
        names = [n for n in data or () if n.startswith("demo_") and n[5:].isdecimal()]
        if not names:
            raise ValueError("it has no groups data/demo_N")
        groups = tuple(f"data/{n}" for n in sorted(names, key=lambda n: int(n[5:])))
        if MARK in data.attrs:
            settings = Settings.from_json(json.loads(data.attrs[MARK]))
            places = {name: place(name) for name in settings.features}
            columns = {
                name: Column(feature, places[name]) for name, feature in settings.features.items()
            }
            return Contents(settings, columns, groups)
        columns, left_out = foreign_columns(file[groups[0]])
        features = {name: column.feature for name, column in columns.items()}
        kept = {name: _parsed(value) for name, value in data.attrs.items()}
        env_args = kept.get("env_args")
        env_args = env_args if isinstance(env_args, dict) else kept.get("env_info", {})
        meta: dict[str, Any] = {"hdf5": kept, "mask": masks(file, groups)}
        if self.name == "libero":
            meta["observation_lag"] = int("problem_info" in kept)
        if left_out:
            meta["left_out"] = left_out
        kwargs = env_args.get("env_kwargs", env_args)
        fps = round(float(kwargs.get("control_freq") or DEFAULT_FPS))
        env_id = env_args.get("env_name") or kept.get("env") or kept.get("env_name") or path.stem
        return Contents(Settings(str(env_id), fps, features, None, meta), columns, groups)

    def task(self, file: Any, group: Any, path: Path) -> str:
        """What an episode was meant to do, in words."""
        if TASK in group.attrs:
            return str(group.attrs[TASK])
        attributes = file["data"].attrs
        problem = _parsed(attributes.get("problem_info", ""))
        if isinstance(problem, dict) and problem.get("language_instruction"):
            words = problem["language_instruction"]
            return words if isinstance(words, str) else " ".join(words)
        if self.name == "libero":
            return path.stem.removesuffix("_demo").replace("_", " ")
        env_args = _parsed(attributes.get("env_args", "")) or {}
        return str(env_args.get("env_name") or attributes.get("env") or path.stem)

    def length(self, group: Any) -> int:
        """Rows of an episode: what its attribute says, which its arrays must match."""
        rows = group.attrs.get("num_samples")
        return int(rows) if rows is not None else len(group["actions"])

    def companions(
        self, path: Path, settings: Settings, lengths: Sequence[int]
    ) -> dict[str, bytes]:
        """None: everything is in the one file."""
        return {}


ROBOMIMIC = DemoLayout("robomimic", "int64")
LIBERO = DemoLayout("libero", "uint8")


def place(name: str) -> str:
    """Where a column lies in the episode's group."""
    if name in COLUMNS:
        return COLUMNS[name]
    for prefix, folder in FOLDERS.items():
        if name.startswith(prefix):
            return folder + name.removeprefix(prefix)
    return name


def column_name(path: str) -> str:
    """Inverse of `place`."""
    for name, known in COLUMNS.items():
        if path == known:
            return name
    for prefix, folder in FOLDERS.items():
        if path.startswith(folder):
            path = prefix + path.removeprefix(folder)
    return path.replace("/", ".")


def foreign_columns(group: Any) -> tuple[dict[str, Column], list[str]]:
    """The columns of another tool's episode, and the arrays that are none (text)."""
    columns, left_out = {}, []
    for path, dataset in arrays_of(group):
        feature = feature_of(dataset, path)
        if feature is None:
            left_out.append(path)
        elif path == "dones":
            columns["next.done"] = Column(Feature("bool"), path, convert=_flags)
        else:
            columns[column_name(path)] = Column(feature, path)
    if "next.reward" in columns and columns["next.reward"].feature.shape == ():
        derived = {
            "next.terminated": _solved,
            "next.truncated": _cut,
            "next.success": _solved,
        }
        for name, convert in derived.items():
            columns.setdefault(name, Column(Feature("bool"), "rewards", convert=convert))
    return columns, left_out


def _is_binary(values: np.ndarray) -> bool:
    """Whether all are 0 or 1 to the bit; -0.0 is not."""
    return values.tobytes() == (values == 1).astype(values.dtype).tobytes()


def _flags(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values)) != 0


def _solved(rewards: np.ndarray) -> np.ndarray:
    return rewards >= SOLVED


def _cut(rewards: np.ndarray) -> np.ndarray:
    last = np.arange(len(rewards)) == len(rewards) - 1
    return last & (rewards < SOLVED)


def masks(file: Any, groups: Sequence[str]) -> dict[str, list[int]]:
    """robomimic's filter keys: name -> indices of episodes."""
    order = {group.removeprefix("data/"): index for index, group in enumerate(groups)}
    found = {}
    for name, dataset in (file.get("mask") or {}).items():
        demos = [json_value(demo) for demo in dataset[()]]
        found[name] = sorted(order[demo] for demo in demos if demo in order)
    return found


def default_env_args(settings: Settings) -> dict[str, Any]:
    """What robomimic needs to know of an environment it has not recorded itself."""
    kwargs = settings.meta.get("env", {}).get("kwargs", {})
    return {"env_name": settings.env_id, "type": GYM, "env_kwargs": kwargs}


def _parsed(value: Any) -> Any:
    """An attribute as a JSON value, JSON text read."""
    value = json_value(value)
    if isinstance(value, str) and value[:1] in "{[":
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
