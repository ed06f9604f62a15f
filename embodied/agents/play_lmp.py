"""Play-LMP: latent plans from play.

Lynch et al. 2019, https://arxiv.org/abs/1903.01973; no official training code, read beside the
re-implementations mees/calvin and mees/hulc.

One goal-conditioned policy is learnt from play: hours of somebody doing this and that, without
labels, rewards or resets. Every window of play is a demonstration of reaching its own last state.
Many ways lead there, so a plan z says which: a recogniser q names the plan of a whole window, a
proposer p learns what plans to expect between a state and a goal, and a decoder carries a plan out.
When acting, a plan is drawn from the proposer, followed for a second, and replaced.

    g = E(s_k),  z ~ q(z | s_1..k)
    L = -1/k sum_t log pi(a_t | s_<=t, g, z) + beta KL(q(z | s_1..k) || p(z | s_1, g))
    log pi(a) = sum_d log sum_i w_i P(a_d; m_i, s_i)      (a discretised logistic mixture)
    KL = alpha KL(sg(q) || p) + (1 - alpha) KL(q || sg(p))      (balanced, as hulc does)

`planning=none` is the baseline Play-GCBC, the same policy without z; `planning=standard` replaces
the proposer by N(0, 1).

An observation is a state and a goal state side by side, two halves of equal width. In training the
second half is not looked at: the goal is the window's last state.

Deviations:
1. States in place of images; the recogniser sees states only, as both re-implementations have it
   (the paper's also sees actions).
2. The recogniser's summary is the forward half's last and the backward half's first output. calvin
   takes both at the last step, where the backward half has seen one frame.
3. The windows of a batch have one length, drawn anew for every batch, so that nothing is padded;
   the re-implementations pad with copies of the last frame and train on these.
4. A bin's mass is computed as a product that does not cancel, where the re-implementations fall
   back to the density in its middle (with a constant that is right for bounds +-1 only).
5. Gradients are clipped (`clip_norm`); beta rises linearly over `warmup` updates. Both are off in
   the paper; set clip_norm=0 and warmup=0.
6. Sampled actions are clipped to [-1, 1].
7. The decoder starts with its components side by side over [-1, 1], each as wide as the gaps.
8. Asked without the memory of an episode (`begin`), the policy makes a plan for each observation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from embodied.agents.task import RobotTask
from embodied.core.guards import NonFinite, check_batch, check_loss
from embodied.core.optim import Adam
from embodied.core.phase import Phase, Recipe, Until
from embodied.core.registry import register
from embodied.core.trainer import Trainer
from embodied.core.types import Batch, Metrics, Source, State, UserError
from embodied.objectives.gaussian_kl import balanced_kl, gaussian_kl
from embodied.objectives.logistic_mixture import logistic_mixture_log_prob, sequence_nll
from policies.play_latent import Mixture, Plan, PlanNetworks

PLANNING = ("proposed", "standard", "none")
PARTS = ("goal", "recogniser", "proposer", "decoder")
LEAST_STD = 0.01  # of a state, in its units: what hardly moves is centred, not blown up
MEASURED = 1024  # windows whose states set the scale of observations
PROBED = 256  # windows that both action losses are measured on


@dataclass(frozen=True, kw_only=True)
class PlayLMPConfig:
    """Play-LMP; defaults of calvin's re-implementation where it has one.

    Attributes:
        offline_updates: updates on the play.
        batch_size: windows per update (32 per modality in calvin).
        shortest: steps of the shortest window (16 in calvin, 20 in hulc).
        longest: steps of the longest window (32, about a second at 30 Hz).
        planning: proposed, standard (plans from N(0, 1) instead of the proposer) or none (GCBC).
        latent: width of a plan (256 in calvin).
        goal: width of an encoded goal (32 in calvin).
        width: of the layers of recogniser, proposer and decoder (2048 in the paper, for a GPU).
        goal_width: of the goal encoder's two layers (2048 in calvin).
        recurrent: whether the decoder is an RNN, else it sees the present state only.
        components: logistics per action dimension.
        classes: values per action dimension.
        least_log_scale: lower clip of the logistics' log scale.
        beta: weight of the KL divergence (0.01 in the paper, 0.001 in calvin, 0.01 in hulc). The
            action loss is a mean over steps, so the shorter the windows, the more a nat saves and
            the larger beta has to be; too small, plans carry the noise of actions, which the
            states betray, too large, they carry nothing.
        alpha: share of the KL's gradient that moves the proposer; -1 for the plain KL, which moves
            both with weight 1 (0.8 in hulc, plain in paper and calvin).
        warmup: updates over which beta rises from 0.
        lr: Adam learning rate (1e-4 in calvin, 2e-4 in hulc).
        clip_norm: largest norm of the gradient; 0 for no clipping.
        replan: steps that a plan is followed (a second).
        eval_every: updates between evaluations; 0 evaluates at the end only.
    """

    offline_updates: int = 50_000
    batch_size: int = 64
    shortest: int = 16
    longest: int = 32
    planning: str = "proposed"
    latent: int = 256
    goal: int = 32
    width: int = 512
    goal_width: int = 512
    recurrent: bool = True
    components: int = 10
    classes: int = 256
    least_log_scale: float = -7.0
    beta: float = 0.01
    alpha: float = 0.8
    warmup: int = 0
    lr: float = 1e-4
    clip_norm: float = 1.0
    replan: int = 30
    eval_every: int = 0

    def __post_init__(self) -> None:
        if self.planning not in PLANNING:
            raise ValueError(f"planning must be {', '.join(PLANNING)}, got {self.planning!r}")
        if not 1 <= self.shortest <= self.longest:
            raise ValueError(
                f"windows need 1 <= shortest <= longest, got {self.shortest} and {self.longest}"
            )
        if self.alpha != -1 and not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be -1 or in [0, 1], got {self.alpha}")
        if self.beta < 0 or self.latent < 0 or min(self.replan, self.classes - 1) < 1:
            raise ValueError("beta and latent must not be negative, replan >= 1 and classes >= 2")


def plan_divergence(posterior: Plan, prior: Plan, alpha: float) -> Tensor:
    """Mean over windows of KL(q || p), balanced unless alpha is -1: a scalar."""
    pair = (posterior.mean, posterior.std, prior.mean, prior.std)
    return (gaussian_kl(*pair) if alpha == -1 else balanced_kl(*pair, alpha)).mean()


def action_loss(mixture: Mixture, action: Tensor, classes: int) -> Tensor:
    """-mean over windows and steps of log pi(a), summed over action dimensions: a scalar."""
    return sequence_nll(logistic_mixture_log_prob(action, *mixture, classes=classes))


class PlayLMP:
    """Recogniser, proposer, goal encoder and decoder, fitted together."""

    def __init__(self, config: PlayLMPConfig, task: RobotTask) -> None:
        if task.observation_dim % 2:
            raise UserError(
                f"play_lmp needs observations of a state and a goal of equal width; "
                f"{task.observation_dim} numbers have no halves. Use an environment with goals, "
                "such as tabletop/any"
            )
        self.config = config
        self.device = torch.device(task.device)
        self.states = task.observation_dim // 2
        self.networks = PlanNetworks(
            self.states,
            task.action_dim,
            latent=config.latent,
            goals=config.goal,
            width=config.width,
            goal_width=config.goal_width,
            components=config.components,
            least_log_scale=config.least_log_scale,
            recurrent=config.recurrent,
            planning=config.planning,
            generators={part: task.streams.torch(f"play_lmp/{part}") for part in PARTS},
        ).to(self.device)
        parameters = list(self.networks.parameters())
        self.optimizer = Adam("play", parameters, config.lr, clip_norm=config.clip_norm or None)
        self.shift = torch.zeros(self.states, device=self.device)
        self.scale = torch.ones(self.states, device=self.device)
        self.lengths = task.streams.numpy("play_lmp/lengths")
        self.noise = task.streams.torch("play_lmp/update", self.device)
        self.exploration = task.streams.torch("play_lmp/act", self.device)
        self.steps = 0
        self._draw_length()

    def _draw_length(self) -> None:
        """Choose the length of the next update's windows."""
        config = self.config
        self.length = int(self.lengths.integers(config.shortest, config.longest + 1))

    def measure(self, source: Source) -> None:
        """Set the scale of observations: zero mean and unit deviation over windows of play."""
        seen = self.halves(source.windows(MEASURED, self.config.longest)["observation"])[0]
        seen = seen.flatten(0, 1)
        self.shift.copy_(seen.mean(0))
        self.scale.copy_(1.0 / seen.std(0).clamp(min=LEAST_STD))

    def halves(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """State and goal of observations [..., 2 S], as the networks see them."""
        state, goal = observation.split(self.states, -1)
        return (state - self.shift) * self.scale, (goal - self.shift) * self.scale

    def policy(self, deterministic: bool = False) -> PlayPolicy:
        """The current policy; it follows later updates."""
        return PlayPolicy(self, None if deterministic else self.exploration)

    def update(self, source: Source) -> Metrics:
        """One step on windows of one length."""
        config = self.config
        batch = source.windows(config.batch_size, self.length)
        check_batch(batch)
        states, _ = self.halves(batch["observation"])
        goal = self.networks.goal(states[:, -1])
        plan, divergence = self._recognised(states, goal)
        mixture, _ = self.networks.decoder(plan, states, goal)
        nll = action_loss(mixture, batch["action"], config.classes)
        beta = config.beta * min(1.0, (self.steps + 1) / max(1, config.warmup))
        loss = nll + beta * divergence
        check_loss("play", loss)
        self.optimizer.zero_grad()
        loss.backward()
        norm = self.optimizer.step()
        self.steps += 1
        self._draw_length()
        return {
            "play/nll": nll.detach(),
            "play/kl": divergence.detach(),
            "play/beta": beta,
            "play/grad_norm": norm,
        }

    def _recognised(self, states: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """A plan [B, Z] for each window, drawn from the posterior, and the divergence."""
        networks = self.networks
        if networks.recogniser is None:
            return states.new_zeros(len(states), 0), states.new_zeros(())
        posterior = networks.recogniser(states)
        shape = posterior.mean.shape
        noise = torch.randn(shape, generator=self.noise, device=self.device)
        prior = networks.prior(states[:, 0], goal)
        return posterior.sample(noise), plan_divergence(posterior, prior, self.config.alpha)

    @torch.no_grad()
    def probe(self, batch: Batch) -> Metrics:
        """Action losses with plans of the posterior and with plans of the prior; their KL.

        The second is what acting depends on: the gap is what the proposer has still to learn.
        """
        states, _ = self.halves(batch["observation"])
        goal, networks = self.networks.goal(states[:, -1]), self.networks
        noise = torch.randn(
            (len(states), networks.latent), generator=torch.Generator().manual_seed(0)
        ).to(self.device)
        prior = networks.prior(states[:, 0], goal)
        posterior = prior if networks.recogniser is None else networks.recogniser(states)
        loss = {}
        for name, plan in (("posterior", posterior), ("prior", prior)):
            mixture, _ = networks.decoder(plan.sample(noise), states, goal)
            loss[f"nll_{name}"] = action_loss(mixture, batch["action"], self.config.classes)
        return {**loss, "kl": plan_divergence(posterior, prior, -1)}

    @torch.no_grad()
    def recognise(self, states: np.ndarray) -> np.ndarray:
        """Posterior means [B, Z] of windows of raw states [B, T, S]: a picture of the plans."""
        given = torch.from_numpy(np.ascontiguousarray(states, np.float32)).to(self.device)
        return self.networks.recogniser((given - self.shift) * self.scale).mean.cpu().numpy()

    def state_dict(self) -> State:
        """Networks, optimizer, scale of observations and every generator."""
        return {
            "networks": dict(self.networks.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "shift": self.shift,
            "scale": self.scale,
            "length": self.length,
            "lengths": self.lengths.bit_generator.state,
            "noise": self.noise.get_state(),
            "exploration": self.exploration.get_state(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: State) -> None:
        """Take over a state of the same configuration."""
        self.networks.load_state_dict(state["networks"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.shift.copy_(state["shift"])
        self.scale.copy_(state["scale"])
        self.length = state["length"]
        self.lengths.bit_generator.state = state["lengths"]
        self.noise.set_state(state["noise"].cpu())
        self.exploration.set_state(state["exploration"].cpu())
        self.steps = state["steps"]


class PlayPolicy:
    """Draws a plan and follows it.

    `begin` gives an episode a policy with memory, which keeps a plan and what it has seen since.
    Asked itself, the policy begins anew with every observation.

    Args:
        learner: whose networks act.
        generator: draws plans and actions; None takes the mean plan and the likeliest action.
    """

    def __init__(self, learner: PlayLMP, generator: torch.Generator | None) -> None:
        self.learner, self.generator = learner, generator
        self._plan: Tensor | None = None
        self._memory: Tensor | None = None
        self._age, self._keeps = 0, False

    def begin(self, rng: np.random.Generator) -> PlayPolicy:
        """A policy for one episode; its draws depend on `rng` alone."""
        device = self.learner.device
        generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
        episode = PlayPolicy(self.learner, generator)
        episode._keeps = True
        return episode

    @torch.no_grad()
    def act(self, observation: np.ndarray) -> np.ndarray:
        """[N, 2 S] observations to [N, A] actions in [-1, 1].

        Raises:
            NonFinite: rather than let a non-finite action reach an environment.
        """
        learner = self.learner
        given = torch.from_numpy(np.ascontiguousarray(observation, np.float32)).to(learner.device)
        state, goal = learner.halves(given)
        goal = learner.networks.goal(goal)
        if self._plan is None or not self._keeps or self._age >= learner.config.replan:
            self._plan = self._draw(learner.networks.prior(state, goal))
            self._memory, self._age = None, 0
        mixture, self._memory = learner.networks.decoder(
            self._plan, state[:, None], goal, self._memory
        )
        self._age += 1
        mixture = Mixture(*(part[:, 0] for part in mixture))
        if self.generator is None:
            action = mixture.mode()
        else:
            uniform = self._uniform(*mixture.mean.shape), self._uniform(*mixture.mean.shape[:2])
            action = mixture.sample(*uniform)
        action = action.cpu().numpy()
        if not np.isfinite(action.sum()):
            raise NonFinite("action of the policy")
        return action

    def _draw(self, prior: Plan) -> Tensor:
        if self.generator is None:
            return prior.mean
        shape = prior.mean.shape
        return prior.sample(
            torch.randn(shape, generator=self.generator, device=self.learner.device)
        )

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.learner.device)


def recipe(config: PlayLMPConfig, task: RobotTask) -> Recipe:
    """One offline phase on windows of play."""
    learner, source = PlayLMP(config, task), task.windows()

    def enter(trainer: Trainer) -> None:
        learner.measure(source)
        trainer.set_probe("play", source.windows(PROBED, config.longest))

    until = Until("updates", config.offline_updates)
    phase = Phase("offline", learner, source, until, on_enter=enter, eval_every=config.eval_every)
    return Recipe([phase])


register(
    "play_lmp",
    config=PlayLMPConfig,
    learner=PlayLMP,
    recipe=recipe,
    paper="https://arxiv.org/abs/1903.01973",
    summary="Goal-reaching from unlabelled play, with latent plans for the many ways there",
    updates=("networks", "optimizer", "length", "lengths", "noise", "steps"),
)
