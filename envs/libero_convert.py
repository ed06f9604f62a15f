"""Converts LIBERO's stored initial states to one .npz file, once.

    python -m envs.libero_convert

hf-libero ships them as 130 files that `torch.save` wrote, which are pickles. This is the one place
in the project that reads a pickle: with an unpickler that can build a float array and nothing else.
What it writes is checked against a recorded digest, here and whenever it is loaded.
"""

import argparse
import io
import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from envs.base import EnvsError
from envs.libero import (
    INIT_STATES_SHA256,
    BadInitStates,
    check_init_states,
    init_states_path,
    package_folder,
)


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
    check_init_states(states, str(init_files))
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez(file, **states)
        file.flush()
        os.fsync(file.fileno())
    part.replace(out)
    return INIT_STATES_SHA256


def main(argv: list[str] | None = None) -> int:
    """Converts the installed package's files."""
    parser = argparse.ArgumentParser(
        prog="python -m envs.libero_convert", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, default=init_states_path(), help="the .npz to write")
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
