"""Dialogues: many at once, each turn of the model one row; and a pool of opponents.

A row is a prompt that holds all its speaker sees and the answer to it, so whoever learns from
dialogues learns from rows, with the dialogue, the turn and the player of each beside them.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from embodied.core.types import Rollout, State, UserError
from embodied.llm.collector import LanguagePolicy
from embodied.llm.task import Dialogue, Passes, Player, stacked
from policies.lm import LanguageModel

SELF, SNAPSHOT = "self", "snapshot"
Speaker = Callable[[list[str]], list[str]]
"""Prompts -> answers."""


@dataclass(frozen=True)
class Turn:
    """What the model was asked once, and answered.

    Attributes:
        episode: which dialogue.
        turn: number in the dialogue, whoever speaks, from 0.
        player: as whom.
        texts: prompt and answer.
        prompt: [P] ids.
        answer: [T] ids.
        log_prob: [T].
        ended: whether the answer came to its end.
    """

    episode: int
    turn: int
    player: int
    texts: tuple[str, str]
    prompt: np.ndarray
    answer: np.ndarray
    log_prob: np.ndarray
    ended: bool


def play(
    dialogues: Sequence[Dialogue],
    policy: LanguagePolicy,
    rivals: Sequence[tuple[Speaker, int] | None] | None = None,
    *,
    turns: int | None = None,
    tries: Sequence[int] = (1,),
    until_right: bool = False,
) -> list[Turn]:
    """Hold dialogues to their end, all who speak next in one batch per speaker.

    Args:
        dialogues: fresh ones.
        policy: the model.
        rivals: for each, who else speaks and as whom the model does; None where it is both.
        turns: of a dialogue at most.
        tries: answers drawn at each turn of the model, the first one of the highest reward goes on;
            the last number holds for all later turns.
        until_right: a dialogue is over once a turn was a success.

    Returns:
        The model's turns, dialogue by dialogue.
    """
    rivals = rivals or [None] * len(dialogues)
    active, taken, number = list(range(len(dialogues))), [], 0
    while active and (turns is None or number < turns):
        asked: dict[Speaker | None, list[tuple[int, int, str]]] = {}
        for i in list(active):
            question = dialogues[i].ask()
            if question is None:
                active.remove(i)
                continue
            rival = rivals[i]
            speaker = None if rival is None or rival[1] == question[0] else rival[0]
            asked.setdefault(speaker, []).append((i, *question))
        for speaker, questions in asked.items():
            prompts = [prompt for _, _, prompt in questions]
            if speaker is None:
                many = tries[min(number, len(tries) - 1)]
                taken += _answered(dialogues, questions, policy, many, number)
            else:
                for (i, _, _), answer in zip(questions, speaker(prompts), strict=True):
                    dialogues[i].take(answer)
        if until_right:
            active = [i for i in active if dialogues[i].rewards()[-1] < 1]
        number += 1
    return sorted(taken, key=lambda turn: (turn.episode, turn.turn))


def _answered(
    dialogues: Sequence[Dialogue],
    questions: Sequence[tuple[int, int, str]],
    policy: LanguagePolicy,
    tries: int,
    number: int,
) -> list[Turn]:
    """Answer questions, (dialogue, player, prompt) each, and go on with the dialogues."""
    drawn, texts, (ids, ids_mask) = policy.answer([prompt for _, _, prompt in questions], tries)
    ids, ids_mask = ids.cpu().numpy(), ids_mask.cpu().numpy()
    tokens, mask = drawn.tokens.cpu().numpy(), drawn.mask.cpu().numpy()
    log_prob, ended = drawn.log_prob.cpu().numpy(), drawn.ended.cpu().numpy()
    found = []
    for at, (i, player, prompt) in enumerate(questions):
        row = at * tries
        if tries > 1:
            row += _best(dialogues[i], texts[row : row + tries])
        dialogues[i].take(texts[row])
        real = mask[row]
        words = tokens[row][real], log_prob[row][real], bool(ended[row])
        both = prompt, texts[row]
        found.append(Turn(i, number, player, both, ids[at][ids_mask[at]], *words))
    return found


def _best(dialogue: Dialogue, answers: Sequence[str]) -> int:
    """Which answer gets the highest reward, the first of those."""
    rewards = []
    for answer in answers:
        tried = copy.deepcopy(dialogue)
        tried.take(answer)
        rewards.append(tried.rewards()[-1])
    return int(np.argmax(rewards))


class OpponentPool:
    """Whom the model plays against, drawn for each dialogue.

    Args:
        weights: share of the dialogues, by name: `self`, `snapshot` for the model as it was
            earlier, and the names of `players`.
        players: opponents that need no model.
        model: the one that learns; snapshots are copies of it.
        rng: draws opponents and their moves.
        every: rollouts between snapshots; 0 keeps the model of the first rollout.
        keep: snapshots at most; the oldest goes.

    Raises:
        UserError: there is no such opponent, or no weight.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        players: Mapping[str, Player],
        model: LanguageModel,
        rng: np.random.Generator,
        *,
        every: int = 0,
        keep: int = 4,
    ) -> None:
        known = (SELF, SNAPSHOT, *players)
        strange = [name for name in weights if name not in known]
        if strange or min(weights.values(), default=0) < 0 or sum(weights.values()) <= 0:
            raise UserError(
                f"opponents {dict(weights)}: give weights, none negative and not all 0, to some of "
                f"{', '.join(known)}"
            )
        self.players, self.model, self.rng, self.every = dict(players), model, rng, every
        self.names = list(weights)
        self.shares = np.array(list(weights.values())) / sum(weights.values())
        self.snapshots: deque[LanguageModel] = deque(maxlen=keep)
        self.rollouts = 0

    def rivals(self, count: int, policy: LanguagePolicy) -> list[tuple[Speaker, int] | None]:
        """An opponent for each of so many dialogues; the model plays both roles equally often."""
        wanted = SNAPSHOT in self.names
        due = self.rollouts % self.every == 0 if self.every else self.rollouts == 0
        if wanted and due:
            self.snapshots.append(self.model.frozen_copy())
        self.rollouts += 1
        speakers: dict[str, Speaker] = {}
        for name, player in self.players.items():
            speakers[name] = self._scripted(player)
        past = [self._snapshot(model, policy) for model in self.snapshots]
        rivals: list[tuple[Speaker, int] | None] = []
        for i, name in enumerate(self.rng.choice(self.names, count, p=self.shares).tolist()):
            if name == SELF:
                rivals.append(None)
            elif name == SNAPSHOT:
                rivals.append((past[self.rng.integers(len(past))], i % 2))
            else:
                rivals.append((speakers[name], i % 2))
        return rivals

    def _scripted(self, player: Player) -> Speaker:
        return lambda prompts: [player(prompt, self.rng) for prompt in prompts]

    def _snapshot(self, model: LanguageModel, policy: LanguagePolicy) -> Speaker:
        past = LanguagePolicy(model, policy.sampling, policy.generator, policy.engine)
        return lambda prompts: past.answer(prompts)[1]

    def state_dict(self) -> State:
        """The draws, the count of rollouts, and the weights of the snapshots."""
        return {
            "rng": self.rng.bit_generator.state,
            "rollouts": self.rollouts,
            "snapshots": [dict(model.network.state_dict()) for model in self.snapshots],
        }

    def load_state_dict(self, state: State) -> None:
        """Take over draws, count and snapshots."""
        self.rng.bit_generator.state = state["rng"]
        self.rollouts = int(state["rollouts"])
        self.snapshots.clear()
        for weights in state["snapshots"]:
            past = self.model.frozen_copy()
            past.network.load_state_dict(weights)
            self.snapshots.append(past)


class DialogueCollector:
    """Holds fresh dialogues, a batch per call; each turn of the model is a row.

    The columns `episode`, `turn` and `player` say of each row where it comes from. The reward of a
    row, on its last token, is that of its turn.

    Args:
        prompts: where dialogues begin.
        begin: starts one.
        batch: prompts per call.
        group: dialogues per prompt.
        pool: who speaks besides the model; without it the model is every speaker.
        turns: of a dialogue at most; see `play` for this and what follows.
        tries: answers drawn at each turn.
        until_right: stop a dialogue at its first success.
    """

    def __init__(
        self,
        prompts: Passes,
        begin: Callable[[str], Dialogue],
        batch: int,
        group: int = 1,
        *,
        pool: OpponentPool | None = None,
        turns: int | None = None,
        tries: Sequence[int] = (1,),
        until_right: bool = False,
    ) -> None:
        self.prompts, self.begin, self.batch, self.group = prompts, begin, batch, group
        self.pool, self.turns, self.tries = pool, turns, tuple(tries)
        self.until_right = until_right

    @property
    def num_envs(self) -> int:
        """Dialogues per call."""
        return self.batch * self.group

    def abandon(self, mask: np.ndarray) -> None:
        """Nothing outlasts a call."""

    def collect(self, policy: LanguagePolicy) -> Rollout:
        """One batch of dialogues."""
        openings = self.prompts.draw(self.batch)
        dialogues = [self.begin(opening) for opening in openings for _ in range(self.group)]
        rivals = self.pool.rivals(len(dialogues), policy) if self.pool else None
        taken = play(
            dialogues,
            policy,
            rivals,
            turns=self.turns,
            tries=self.tries,
            until_right=self.until_right,
        )
        return rollout(taken, [dialogue.rewards() for dialogue in dialogues], policy.model.pad)

    def state_dict(self) -> State:
        """Where the prompts are, and the pool."""
        state = {"prompts": self.prompts.state_dict()}
        return state | ({"pool": self.pool.state_dict()} if self.pool else {})

    def load_state_dict(self, state: State) -> None:
        """Take over the place among the prompts, and the pool."""
        self.prompts.load_state_dict(state["prompts"])
        if self.pool:
            self.pool.load_state_dict(state["pool"])


def rollout(taken: Sequence[Turn], rewards: Sequence[Sequence[float]], pad: int) -> Rollout:
    """Turns as the rows of a rollout, in their order.

    Args:
        taken: at least one.
        rewards: of each dialogue, by turn.
        pad: the id that fills up rows.
    """
    prompt, prompt_mask = stacked([turn.prompt for turn in taken], pad, left=True)
    answer, mask = stacked([turn.answer for turn in taken], pad)
    lengths = mask.sum(1)
    last = np.arange(mask.shape[1]) == lengths[:, None] - 1
    earned = np.array([rewards[turn.episode][turn.turn] for turn in taken], np.float32)
    columns = {
        name: np.array([getattr(turn, name) for turn in taken])
        for name in ("episode", "turn", "player")
    }
    first = np.unique(columns["episode"], return_index=True)[1]
    final = [*(first[1:] - 1), len(taken) - 1]
    episodes = [
        {
            "stream": int(start),
            "return": float(earned[end]),
            "success": bool(earned[end] >= 1),
            "length": int(lengths[start : end + 1].sum()),
        }
        for start, end in zip(first, final, strict=True)
    ]
    return Rollout(
        observation=prompt,
        action=answer,
        reward=np.where(last, earned[:, None], np.float32(0)),
        terminated=last & np.array([turn.ended for turn in taken])[:, None],
        mask=mask,
        log_prob=stacked([turn.log_prob for turn in taken], 0.0)[0],
        meta={
            "prompt_mask": prompt_mask,
            "columns": columns,
            "texts": [turn.texts for turn in taken],
            "episodes": episodes,
            "tokens": int(lengths.sum()),
        },
    )
