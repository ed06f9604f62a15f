"""Converts LIBERO's stored initial states to one .npz file, once.

    python -m envs.libero_convert

hf-libero ships them as 130 files that `torch.save` wrote, which are pickles. This is the one place
in the project that reads a pickle: with an unpickler that can build a float array and nothing else.
What it writes is checked against the digest below, here and whenever it is loaded.
"""

import argparse
import hashlib
import io
import os
import pickle
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from envs.base import EnvsError

# Of hf-libero 0.1.4, whose files are those of the original repository.
SHA256 = "3e43926e69859b7b260e8a88fa00eff2803e84952066910d509f667bade8f4ef"


class BadInitStates(EnvsError, ValueError):
    """A file of initial states is not what was expected."""


def _empty_array(kind: Any, shape: Any, dtype: Any) -> np.ndarray:
    """Stands for numpy's `_reconstruct`, restricted to what numpy itself writes."""
    if kind is not np.ndarray:
        raise BadInitStates(f"a pickle wants to build a {kind!r}")
    return np.ndarray((0,), np.int8)


def _latin1(text: str, encoding: str) -> bytes:
    """Stands for `_codecs.encode`, with which protocol 2 writes bytes."""
    if encoding != "latin1":
        raise BadInitStates(f"a pickle wants to encode to {encoding!r}")
    return text.encode("latin1")


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}


class ArrayUnpickler(pickle.Unpickler):
    """Builds numpy arrays; any other name in the pickle is refused before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns an allowed constructor.

        Raises:
            BadInitStates: the name is not on the list.
        """
        if (module, name) not in _ALLOWED:
            raise BadInitStates(f"a pickle asks for {module}.{name}; only arrays are allowed")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Refuses torch's own storages."""
        raise BadInitStates(f"a pickle refers to {pid!r} outside itself; only arrays are allowed")


def read_array(data: bytes) -> np.ndarray:
    """Reads what `torch.save(array)` wrote.

    Args:
        data: the file's bytes.

    Returns:
        `float64[states, 1 + nq + nv]`.

    Raises:
        BadInitStates: it is damaged, or holds anything else.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            (name,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
            array = ArrayUnpickler(io.BytesIO(archive.read(name))).load()
    except BadInitStates:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise BadInitStates(f"not a saved array: {type(error).__name__}: {error}") from error
    if type(array) is not np.ndarray or array.dtype != np.float64 or array.ndim != 2:
        raise BadInitStates(f"need float64[states, numbers], found a {type(array).__name__}")
    return np.ascontiguousarray(array)


def digest(states: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 over names, shapes and numbers, in the order of the names."""
    sha = hashlib.sha256()
    for name in sorted(states):
        array = np.ascontiguousarray(states[name], "<f8")
        sha.update(f"{name} {array.shape}\n".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def default_path() -> Path:
    """Returns `$LIBERO_INIT_STATES`, else a file in the user's cache."""
    if named := os.environ.get("LIBERO_INIT_STATES"):
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "embodied" / "libero_init_states.npz"


def convert(init_files: Path, out: Path) -> str:
    """Converts all `<suite>/<task>.pruned_init` below a folder.

    Args:
        init_files: the folder `init_files` of LIBERO.
        out: the .npz to write, whole or not at all.

    Returns:
        The digest.

    Raises:
        BadInitStates: a file is not a saved array, or they are not those of hf-libero 0.1.4.
    """
    states = {}
    for path in sorted(init_files.glob("*/*.pruned_init")):
        try:
            states[f"{path.parent.name}/{path.stem}"] = read_array(path.read_bytes())
        except BadInitStates as error:
            raise BadInitStates(f"{path}: {error}") from error
    _check(states, str(init_files))
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez(file, **states)
        file.flush()
        os.fsync(file.fileno())
    part.replace(out)
    return SHA256


def load(path: Path) -> dict[str, np.ndarray]:
    """Loads the converted states: `<suite>/<task>` to `float64[50, 1 + nq + nv]`.

    Raises:
        BadInitStates: there is no such file, or its content is not the expected one.
    """
    if not path.is_file():
        raise BadInitStates(
            f"no initial states at {path}; make them once: python -m envs.libero_convert "
            "(LIBERO_INIT_STATES names another file)"
        )
    with np.load(path, allow_pickle=False) as archive:
        states = {name: archive[name] for name in archive.files}
    _check(states, str(path))
    return states


def _check(states: Mapping[str, np.ndarray], where: str) -> None:
    found = digest(states)
    if found != SHA256:
        raise BadInitStates(
            f"{where}: {len(states)} tasks with digest {found}; expected are the 130 of hf-libero "
            f"0.1.4 with {SHA256}"
        )


def main(argv: list[str] | None = None) -> int:
    """Converts the installed package's files."""
    from envs.libero import package_folder

    parser = argparse.ArgumentParser(
        prog="python -m envs.libero_convert", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, default=default_path(), help="the .npz to write")
    args = parser.parse_args(argv)
    try:
        sha = convert(package_folder("libero_convert") / "init_files", args.out)
    except EnvsError as error:
        print(f"libero_convert: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: 130 tasks, SHA-256 {sha}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
