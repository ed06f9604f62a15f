"""What is wrong with a dataset, and what a repair did about it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """Something wrong with a file of a dataset.

    Attributes:
        path: the file, relative to the dataset.
        reason: what is wrong with it.
        episode: the episode it holds, or None for metadata.
        fatal: whether the dataset is refused when it is opened. What an interrupted writer
            leaves is not fatal; `resume` and `repair` clear it away.
    """

    path: str
    reason: str
    episode: int | None = None
    fatal: bool = True

    def __str__(self):
        where = self.path if self.episode is None else f"{self.path} (episode {self.episode})"
        return f"{where}: {self.reason}"


@dataclass(frozen=True)
class RepairReport:
    """What `repair` did.

    Attributes:
        num_episodes: episodes in the dataset now.
        num_frames: their rows.
        problems: what was wrong, in the order found.
        quarantined: files moved to `quarantine/`, by their old paths.
        removed: temporary files deleted.
        rewritten: metadata files written anew.
    """

    num_episodes: int
    num_frames: int
    problems: tuple[Problem, ...]
    quarantined: tuple[str, ...]
    removed: tuple[str, ...]
    rewritten: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Whether anything on disk was changed."""
        return bool(self.quarantined or self.removed or self.rewritten)
