"""`embodied eval` of a language run: the same questions every time, several answers to each.

A question's answers are drawn by a generator of its own, on one thread, so the ledger is the same
for any number of workers, and of questions asked together up to what rounding does: the sums inside
a matrix product depend on how many rows it has, which moves about one token in ten million. With
`batch=1`, nothing does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from embodied import assemble
from embodied.actors import is_run
from embodied.core.evaluate import Episode, Evaluation
from embodied.core.seeding import Streams
from embodied.core.stats import pass_at_k
from embodied.core.types import UserError
from embodied.data.games import GAMES
from embodied.data.io import sha256_file
from embodied.data.text import Prompt, read
from embodied.evaluation import SuiteEvaluation, ledger_path, summary, write_ledger
from embodied.jobs import in_order
from embodied.progress import bar
from embodied.questions import majority, short
from embodied.report.ledger import SCHEMA, Ledger
from embodied.report.ledger_page import write_page
from embodied.settings import RewardSettings, free_arguments, take
from rewards import Maths, Reward
from rewards.maths import extract, tidy

TINY, GSM8K = "tiny", "gsm8k_jsonl"


@dataclass(frozen=True)
class Question(Episode):
    """One line of the ledger; `success` is that of the first answer, `length` its tokens.

    Attributes:
        correct: how many answers are right.
        majority: whether the most frequent one is, the earliest of a tie.
        answers: all of them.
    """

    correct: int = 0
    majority: bool = False
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Paper:
    """Questions of one kind.

    Attributes:
        prompts: the questions.
        score: rewards an answer; 1 and above is right.
        vote: what of an answer is counted in a majority.
        longest: tokens of an answer at most.
        about: what else identifies it.
    """

    prompts: Sequence[str]
    score: Callable[[str, str], float]
    vote: Callable[[str], str]
    longest: int
    about: dict[str, Any]


@dataclass
class Examiner:
    """Asks groups of questions; a copy lives in each worker, and loads the model there.

    Attributes:
        run: run directory.
        suite: see `evaluate`.
        data: see `evaluate`.
        task_args: see `evaluate`.
        episodes: questions of each paper at most.
        seed: chooses questions and draws answers.
        samples: answers to each.
        sampling: what differs from how the run sampled: temperature, top_p, longest.
        papers: by name, once open.
        about: the run, once open.
    """

    run: Path
    suite: str | None
    data: str | None
    task_args: Mapping[str, Any]
    episodes: int
    seed: int
    samples: int
    sampling: Mapping[str, Any]
    papers: dict[str, Paper] = field(default_factory=dict, init=False)
    about: dict[str, Any] = field(default_factory=dict, init=False)
    _policy: Any = field(default=None, init=False)

    def open(self) -> None:
        """Load the model and set the papers."""
        import torch

        from embodied.loading import load

        torch.set_num_threads(1)
        learnt = load(self.run)
        self.about = {"name": self.run.name, "updates": learnt.counters["updates"]}
        self._policy = learnt.policy(deterministic=False)
        self.papers = self._papers(learnt.settings.train)
        for name, paper in self.papers.items():
            order = Streams(self.seed).numpy(f"questions/{name}").permutation(len(paper.prompts))
            chosen = [paper.prompts[i] for i in order[: self.episodes]]
            self.papers[name] = replace(paper, prompts=chosen)

    def __call__(self, job: tuple[str, Sequence[int]]) -> list[tuple[Question, np.ndarray]]:
        """Answer questions of a paper: a line of the ledger and the tokens of each."""
        from embodied.llm.collector import LanguagePolicy

        if self._policy is None:
            self.open()
        name, indices = job
        paper, streams = self.papers[name], Streams(self.seed)
        sampling = replace(self._policy.sampling, longest=paper.longest)
        sampling = replace(sampling, **{k: v for k, v in self.sampling.items() if v is not None})
        draws = [streams.torch(f"answers/{name}/{i}") for i in indices]
        asked = [paper.prompts[i] for i in indices]
        drawn, texts, _ = LanguagePolicy(self._policy.model, sampling, draws).answer(
            asked, self.samples
        )
        marked = []
        for at, (index, prompt) in enumerate(zip(indices, asked, strict=True)):
            rows = slice(at * self.samples, (at + 1) * self.samples)
            tokens, mask = drawn.tokens[rows].cpu().numpy(), drawn.mask[rows].cpu().numpy()
            row = self._marked(paper, index, prompt, texts[rows], int(mask[0].sum()))
            marked.append((row, np.where(mask, tokens, -1)))
        return marked

    def _marked(
        self, paper: Paper, index: int, prompt: str, answers: Sequence[str], length: int
    ) -> Question:
        scores = [paper.score(prompt, answer) for answer in answers]
        right = [score >= 1 for score in scores]
        votes = [paper.vote(answer) for answer in answers]
        end = self._policy.model.tokenizer.eos_token
        return Question(
            index,
            self.seed,
            short(prompt),
            float(np.mean(scores)),
            right[0],
            length,
            correct=sum(right),
            majority=right[votes.index(majority(votes))],
            answers=tuple(answer.removesuffix(end) for answer in answers),
        )

    def _papers(self, train: Any) -> dict[str, Paper]:
        judged = not isinstance(train.reward, RewardSettings)
        if self.suite == GSM8K:
            if not self.data:
                raise UserError("suite=gsm8k_jsonl needs data=FILE with question and answer")
            reward = train.reward if isinstance(train.reward, Maths) else Maths()
            return {GSM8K: self._file(self.data, reward, train)}
        rows = train.task == "rows" and not judged
        if rows and self.suite is None:
            return self._rows(self.data or train.evaluation.data or train.data, train)
        if self.suite == TINY or (self.suite is None and not judged):
            if self.data:
                raise UserError(f"data={self.data} goes with suite=gsm8k_jsonl, or a judged run")
            return self._tiny(train)
        if self.suite is not None:
            raise UserError(
                f"unknown suite {self.suite!r} of a language run; there are {TINY} and {GSM8K}"
            )
        name = type(train.reward).__name__.lower()
        data = self.data or train.evaluation.data or train.data
        return {f"text/{name}": self._file(data, train.reward, train)}

    def _file(self, path: str, reward: Reward, train: Any) -> Paper:
        from embodied.judged import LONGEST, questions_in, scored

        prompts = questions_in(path, self._policy.model, reward)
        about = {**asdict(reward), "data": sha256_file(path)[:16]}
        vote = _final if isinstance(reward, Maths) else str
        longest = train.longest or LONGEST
        return Paper(prompts, scored(reward, self._policy.model), vote, longest, about)

    def _rows(self, path: str, train: Any) -> dict[str, Paper]:
        """The prompts of examples, where an answer is right if it is the given one."""
        from embodied.given import LONGEST

        end = self._policy.model.tokenizer.eos_token
        examples = read(path, self._policy.model.tokenizer).examples
        if not examples:
            raise UserError(
                f"{path} has no examples with responses to compare answers with; give data=FILE "
                "with some, or suite=gsm8k_jsonl with questions and answers"
            )
        prompts = [Prompt(row.prompt, {"response": row.response}) for row in examples]

        def score(prompt: Prompt, answer: str) -> float:
            return float(answer.removesuffix(end) == prompt.facts["response"].removesuffix(end))

        paper = Paper(
            prompts, score, str, train.longest or LONGEST, {"data": sha256_file(path)[:16]}
        )
        return {f"text/{Path(path).stem}": paper}

    def _tiny(self, train: Any) -> dict[str, Paper]:
        """The run's own problems, or with `suite=tiny` those of every length."""
        from embodied.text import tiny_task

        changed = replace(train, task_args={**train.task_args, **self.task_args})
        task, own, reward = tiny_task(changed)

        def score(prompt: str, response: str) -> float:
            return float(getattr(task.verify(prompt, response), reward))

        lengths = {f"{TINY}/{train.task}": own}
        if self.suite == TINY:
            lengths = {f"{TINY}/{train.task}/{k}": k for k in range(1, task.longest + 1)}
        papers = {}
        for name, length in lengths.items():
            rng = Streams(self.seed).numpy(f"problems/{name}")
            prompts = task.problems(self.episodes, rng, length)
            about = {**asdict(task), "length": length, "reward": reward}
            papers[name] = Paper(prompts, score, str, task.response_length, about)
        return papers

    def close(self) -> None:
        """Does nothing."""


def is_language_run(policy: str | Path) -> bool:
    """Whether a policy is named by the run directory of a language method."""
    return is_run(policy) and "model" in assemble.read_run(policy)[0]


def is_game_run(policy: str | Path) -> bool:
    """Whether a language run learnt a game."""
    return assemble.read_run(policy)[0]["env"].partition("/")[2] in GAMES


def _final(answer: str) -> str:
    return tidy(extract(answer) or "")


def evaluate(
    policy: str | Path,
    episodes: int = 50,
    seed: int = 0,
    *,
    suite: str | None = None,
    data: str | None = None,
    task_args: Mapping[str, Any] | None = None,
    samples: int = 1,
    temperature: float | None = None,
    top_p: float | None = None,
    longest: int | None = None,
    workers: int = 1,
    batch: int = 1,
    out: str | Path | None = None,
) -> tuple[SuiteEvaluation, Path]:
    """Evaluate a language run, but for games (`embodied.arena`), and write ledger and page.

    Args:
        policy: run directory.
        episodes: questions, at most as many as there are.
        seed: chooses questions and draws answers.
        suite: "tiny" for problems of every length of the run's task, "gsm8k_jsonl" for those of
            `data`; by default what the run was trained on.
        data: file of questions.
        task_args: options of a tiny task, over those of the run.
        samples: answers to each question.
        temperature: of the answers; by default that of the run.
        top_p: draw from the likeliest tokens that sum to this.
        longest: tokens of an answer at most.
        workers: processes.
        batch: questions asked together.
        out: directory of ledger and page; by default that of the run.

    Returns:
        The evaluation, and where its ledger lies.
    """
    least = {"episodes": episodes, "samples": samples, "workers": workers, "batch": batch}
    least["longest"] = 1 if longest is None else longest
    for name, value in least.items():
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
    if temperature is not None and temperature < 0:
        raise UserError(f"temperature must not be negative, got {temperature}")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p must lie in (0, 1], got {top_p}")
    sampling = {"temperature": temperature, "top_p": top_p, "longest": longest}
    examiner = Examiner(
        Path(policy), suite, data, task_args or {}, episodes, seed, samples, sampling
    )
    examiner.open()
    count = min(len(paper.prompts) for paper in examiner.papers.values())
    groups = [tuple(range(i, min(i + batch, count))) for i in range(0, count, batch)]
    jobs = [(name, group) for name in examiner.papers for group in groups]
    marked: dict[str, list[tuple[Question, np.ndarray]]] = {name: [] for name in examiner.papers}
    head = _head(examiner, count)
    workers = min(workers, len(jobs))
    if workers > 1:
        examiner = replace(examiner)  # nothing open is copied into the processes
    with bar("asking", len(jobs) // len(groups) * count) as advance:
        for (name, group), rows in in_order(examiner, jobs, workers):
            marked[name] += rows
            advance(len(group), "asking")
    results = {name: Evaluation(*map(list, zip(*m, strict=True))) for name, m in marked.items()}
    for name, one in results.items():
        digests = "".join(question.initial_state for question in one.episodes)
        head["tasks"][name] |= {
            "initial_states": short(digests),
            "metrics": metrics(one.episodes, samples),
        }
    result = SuiteEvaluation.of(results, head)
    path = ledger_path(policy, suite, out, f"{count}-seed{seed}")
    write_ledger(path, result)
    write_page(Ledger.read(path))
    return result, path


def metrics(questions: Sequence[Question], samples: int) -> dict[str, float]:
    """pass@k for powers of two and for all answers, and the majority of all."""
    ks = sorted({samples, *(2**i for i in range(samples.bit_length()) if 2**i <= samples)})
    found = {
        f"pass@{k}": float(np.mean([pass_at_k(samples, q.correct, k) for q in questions]))
        for k in ks
    }
    return found | {f"majority@{samples}": float(np.mean([q.majority for q in questions]))}


def _head(examiner: Examiner, count: int) -> dict[str, Any]:
    from embodied.text import fingerprint

    tasks = {}
    for name, paper in examiner.papers.items():
        asked = {k: v for k, v in examiner.sampling.items() if v is not None}
        args = {**paper.about, "samples": examiner.samples, **asked}
        tasks[name] = {
            "instruction": name,
            "env_args": args,
            "versions": {},
            "env_hash": fingerprint([name, args]),
            "look": None,
        }
    return {
        "schema": SCHEMA,
        "suite": examiner.suite,
        "tasks": tasks,
        "episodes": count,
        "seed": examiner.seed,
        "policy": examiner.about,
        "versions": assemble.versions(),
        "renderer": "none",
    }


def command(policy: str, overrides: Sequence[str]) -> int:
    """Evaluate as the command line asks and print what came of it."""
    if is_game_run(policy):
        from embodied import arena

        return arena.command(policy, overrides)
    task_args, rest = free_arguments(overrides, "task_args")
    texts, numbers = {}, {}
    for key in ("suite", "data", "out"):
        texts[key], rest = take(rest, key)
    kinds = dict.fromkeys(("episodes", "seed", "samples", "longest", "workers", "batch"), int)
    kinds |= {"temperature": float, "top_p": float}
    for override in rest:
        key, _, value = override.partition("=")
        try:
            numbers[key] = kinds[key](value)
        except (KeyError, ValueError) as error:
            raise UserError(
                "embodied eval of a language run takes suite=tiny or gsm8k_jsonl, data=FILE, "
                f"task_args.KEY=VALUE, out=DIRECTORY and numbers for {', '.join(kinds)}, "
                f"not {override!r}"
            ) from error
    result, path = evaluate(policy, task_args=task_args, **texts, **numbers)
    for name, one in result.tasks.items():
        found = result.head["tasks"][name]["metrics"]
        print(f"{name}: {summary(one)}")
        print("  " + ", ".join(f"{metric} {value:.1%}" for metric, value in found.items()))
    if len(result.tasks) > 1:
        print(summary(result))
    print(f"ledger: {path}\npage: {path.with_suffix('.html')}")
    return 0
