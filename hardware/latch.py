"""The latch: a stop that outlives connections and processes, and that only an operator clears."""

import contextlib
import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

from hardware.types import Cause


def latch_folder() -> Path:
    """Returns `$EMBODIED_LATCH`, else a folder in the user's state directory."""
    if named := os.environ.get("EMBODIED_LATCH"):
        return Path(named)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "embodied" / "latch"


class Latch:
    """One robot's latch, kept in a file on the machine beside it.

    The file is read again at every question that decides about motion, so that processes agree. A
    file that cannot be read counts as tripped: nobody knows what it said.

    Attributes:
        path: the file; it exists while the latch is tripped.
        log: every trip and reset, one JSON line each.
    """

    def __init__(self, robot: str, folder: str | os.PathLike[str] | None = None) -> None:
        """Finds the latch of a robot.

        Args:
            robot: its name; a different robot has a different latch.
            folder: where latches are kept; see `latch_folder`.
        """
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", robot)
        root = Path(folder) if folder is not None else latch_folder()
        self.path, self.log = root / f"{name}.json", root / f"{name}.log.jsonl"

    @property
    def tripped(self) -> dict[str, Any] | None:
        """Why it is tripped (`cause`, `detail`, `time`), or None."""
        try:
            return json.loads(self.path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            return {"cause": "unreadable latch", "detail": f"{self.path.name}: {error}", "time": 0}

    def trip(self, cause: Cause, detail: str) -> None:
        """Trips it, durably before this returns; the first cause is kept."""
        entry = {"cause": str(cause), "detail": detail, "time": time.time()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=".latch-")
            with os.fdopen(handle, "w") as file:
                json.dump(entry, file)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # another process was first
                os.link(temporary, self.path)
            os.unlink(temporary)
            _sync_folder(self.path.parent)
        self._note({"event": "trip", **entry})

    def reset(self, reason: str, by: str) -> None:
        """Clears it; `Robot.reset_stop` asks first whether it may."""
        self._note({"event": "reset", "reason": reason, "by": by, "was": self.tripped})
        self.path.unlink(missing_ok=True)
        _sync_folder(self.path.parent)

    def _note(self, entry: dict[str, Any]) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as file:
            file.write(json.dumps({"at": time.time(), **entry}) + "\n")
            file.flush()
            os.fsync(file.fileno())


class Deadman:
    """The enabling switch: a button or pedal whose heartbeats say that it is held."""

    def __init__(self) -> None:
        self._beat = float("-inf")

    def beat(self, now: float) -> None:
        """Tells that it is held at this moment, s."""
        self._beat = now

    def held(self, now: float, age: float) -> bool:
        """Whether the last heartbeat is at most `age` seconds old."""
        return now - self._beat <= age


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
