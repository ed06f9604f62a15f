"""Language runs on rows of one's own that nothing judges: examples to imitate, or preferences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from embodied.core.seeding import Streams
from embodied.core.types import UserError
from embodied.data.io import sha256_file
from embodied.data.text import Example, Pair, Texts, read
from embodied.llm.collector import LanguagePolicy
from embodied.llm.task import TextTask, rows
from embodied.objectives.likelihood import sequence_sums, token_log_probs
from embodied.questions import QuestionEvaluator, Reply
from embodied.settings import Settings
from embodied.text import TINY, fingerprint, load_engine, load_model
from policies.sampling import Sampling
from policies.shared_prompts import logits

LONGEST = 256  # tokens of an answer, where a method draws some


class RowEvaluator(QuestionEvaluator):
    """Measures how likely given responses are; nothing is drawn.

    An example is a success if the model's likeliest token is the given one throughout, so that it
    would answer just that at temperature 0; its reward is the log-probability per token. A pair is
    a success if the chosen response is likelier than the rejected one; its reward is the difference
    of their log-probabilities.

    Args:
        held: the rows, all of one kind.
        seed: stands in the ledger.
    """

    def __init__(self, held: Sequence[Example] | Sequence[Pair], seed: int = 0) -> None:
        super().__init__([row.prompt for row in held], Sampling(1), seed, batch=64)
        self.held = held

    @torch.no_grad()
    def ask(self, policy: LanguagePolicy, some: Sequence[int]) -> list[Reply]:
        """What the model makes of some rows."""
        chosen = [self.held[i] for i in some]
        paired = isinstance(chosen[0], Pair)
        texts = [row.chosen if paired else row.response for row in chosen]
        prompts = [row.prompt for row in chosen] * (1 + paired)
        texts += [row.rejected for row in chosen] if paired else []
        batch = rows(policy.model, prompts, texts)
        tokens, mask = batch["completion"], batch["mask"].bool()
        found = logits(policy.model, batch["prompt"], batch["prompt_mask"], tokens, batch["mask"])
        sums = sequence_sums(token_log_probs(found, tokens), batch["mask"])
        if paired:
            better, worse = sums.chunk(2)
            reward, success = better - worse, better > worse
        else:
            reward = sums / mask.sum(1)
            success = ((found.argmax(-1) == tokens) | ~mask).all(1)
        return [
            Reply(float(r), bool(s), row[real].cpu().numpy(), int(real.sum()), float(total))
            for r, s, row, real, total in zip(reward, success, tokens, mask, sums, strict=False)
        ]

    def metrics(self, policy: LanguagePolicy, details: list[Any]) -> dict[str, float]:
        """The mean log-probability of a whole response: of the chosen one, where there are two."""
        return {"log_prob": sum(details) / len(details)}


def build(settings: Settings, device: str) -> tuple[TextTask, RowEvaluator, dict[str, Any]]:
    """Model and rows of a run, its evaluator, and what run.json says of them.

    Raises:
        UserError: there is no model or data of one's own, or a row is not as it must be.
    """
    train = settings.train
    if not train.data or train.model == TINY:
        raise UserError("task=rows learns from rows of yours: give data=rows.jsonl and model=PATH")
    model = load_model(train, None, device)
    texts = read(train.data, model.tokenizer)
    held = texts if not train.evaluation.data else read(train.evaluation.data, model.tokenizer)
    asked = _some(held, train.evaluation.data or train.data, train.evaluation)
    name, longest = Path(train.data).stem, train.longest or LONGEST
    about = {
        "env": f"text/{name}",
        "env_args": {"longest": longest},
        "env_hash": fingerprint([name, longest, asked]),
        "model": train.model,
        "dataset": {"path": train.data, "fingerprint": sha256_file(train.data)[:16]},
        "observation_scaling": None,
    }
    task = TextTask(
        model,
        Streams(train.seed),
        longest=longest,
        examples=texts.examples or None,
        pairs=texts.pairs or None,
        engine=load_engine(settings, model),
        about=about,
    )
    return task, RowEvaluator(asked, train.evaluation.seed), about


def _some(texts: Texts, path: str, evaluation: Any) -> list[Example] | list[Pair]:
    """As many rows as an evaluation has episodes."""
    held = texts.pairs or texts.examples
    if not held:
        raise UserError(
            f"{path} has prompts alone, and no responses to learn from or to compare with; answers "
            "to them are judged by a reward (reward=maths, format or code) or a task (task=...)"
        )
    order = Streams(evaluation.seed).numpy("questions").permutation(len(held))
    return [held[i] for i in order[: evaluation.episodes]]
