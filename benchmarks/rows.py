"""The table: what is compared with what, in which unit, and the ratio aimed at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Worker:
    """A process.

    Attributes:
        module: of benchmarks.workers.
        label: its name in tables.
        env: virtual environment under the peers' directory; empty means this Python.
        checkout: repository under the peers' directory that it needs.
    """

    module: str
    label: str
    env: str = ""
    checkout: str = ""

    def missing(self, peers: Path | None) -> str:
        """Why it cannot run, or an empty string."""
        if not self.env:
            return ""
        if peers is None:
            return "EMBODIED_PEERS is not set"
        if not (peers / self.env / "bin" / "python").exists():
            return f"no environment {self.env}"
        if self.checkout and not (peers / self.checkout).is_dir():
            return f"no check-out {self.checkout}"
        return ""


WORKERS = {
    "ours": Worker("ours", "this project"),
    "loop": Worker("ours_loop", "this project"),
    "envs": Worker("ours_envs", "this project"),
    "released": Worker("released_envs", "the released package"),
    "pictures": Worker("ours_pictures", "this project"),
    "released_pictures": Worker("released_pictures", "the released package"),
    "policy": Worker("policy_round_trip", "this project"),
    "bare_policy": Worker("policy_round_trip", "websockets and msgpack alone"),
    "gemm": Worker("gemm", "matrix products alone"),
    "plain": Worker("plain_data", "plain torch and numpy"),
    "packed": Worker("packed", "this project"),
    "robomimic": Worker("robomimic_windows", "robomimic", "fmt"),
    "plain_loop": Worker("plain_loop", "plain one-file loop"),
    "sb3": Worker("sb3", "Stable-Baselines3", "rl"),
    "d3rlpy": Worker("d3rlpy_calql", "d3rlpy", "rl"),
    "corl": Worker("corl", "CORL", "rl", "CORL"),
    "wsrl": Worker("wsrl", "official WSRL (jax)", "jaxv", "wsrl"),
    "text": Worker("ours_text", "this project"),
    "trl": Worker("trl_text", "TRL", "trl"),
    "transformers": Worker("trl_text", "transformers", "trl"),
}


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        name: what `--only` selects; rows with the same first word are measured together.
        title: what is done.
        unit: what is counted.
        ours: "worker:variant".
        peers: the same; the fastest of them is compared with.
        goal: ratio aimed at, or None where the row only informs.
        note: how the two sides differ, for the page.
    """

    name: str
    title: str
    unit: str
    ours: str
    peers: tuple[str, ...]
    goal: float | None
    note: str = ""

    @property
    def group(self) -> str:
        """Rows of one group share their processes and rounds."""
        return self.name.split("-")[0]


TEXT = (
    (
        "sample",
        "8 answers of 32 tokens to each of 64 prompts",
        "answers",
        "transformers:generate",
        2.0,
        "The peer is `generate` on 512 rows, as TRL calls it; ours also returns each token's "
        "log-probability.",
    ),
    (
        "update",
        "a policy-gradient update on 512 answers",
        "answers",
        "transformers:update",
        1.8,
        "The peer is the model's forward with all logits, the loss by hand, and AdamW.",
    ),
    (
        "grpo",
        "a whole GRPO step: 64 prompts, 8 answers each, reward, update",
        "answers",
        "trl:grpo",
        2.0,
        "The same prompts, reward, group and length; GRPOTrainer with its defaults.",
    ),
    (
        "dpo",
        "a DPO step on 64 pairs of 29 tokens and an end",
        "pairs",
        "trl:dpo",
        1.25,
        "Both evaluate the reference in the step.",
    ),
    (
        "sft",
        "an SFT step on 64 answers of 29 tokens and an end",
        "answers",
        "trl:sft",
        1.1,
        "Loss on the answers alone on both sides.",
    ),
)

ROWS = (
    Row(
        "wsrl-official",
        "WSRL step: 10 critics, LayerNorm, UTD 4",
        "critic updates",
        "ours:wsrl",
        ("wsrl:sac-ln",),
        2.5,
        "4 critic updates of 256 rows, then one actor and temperature update on all 1024. Ours "
        "includes drawing the batch; the peer is handed one. The peer evaluates all ten target "
        "critics and then picks the random pair; ours evaluates the pair.",
    ),
    Row(
        "wsrl-bound",
        "the same against the matrix products alone",
        "critic updates",
        "ours:wsrl",
        ("gemm:wsrl",),
        0.45,
        "The products of the leanest form of the step (7.15 GFLOP per 4 critic updates: only the "
        "drawn pair of targets, the actor's gradient only through each row's smallest critic) at "
        "their shapes, in float32, in the same rounds: the share of the bound that is reached.",
    ),
    Row(
        "wsrl-plain",
        "WSRL step without LayerNorm",
        "critic updates",
        "ours:wsrl-plain",
        ("sb3:sac-10", "wsrl:sac-plain"),
        2.0,
        "SB3: train(gradient_steps=4) with 10 critics; it updates the actor on 256 rows after "
        "each critic update (the same rows) and takes the minimum over all ten targets.",
    ),
    Row(
        "sac-unit",
        "SAC, 2 critics, 4 critic updates and one actor update of 1024 rows",
        "critic updates",
        "ours:sac-4",
        ("sb3:sac-2",),
        1.6,
        "The same rows go through every network on both sides; SB3 takes four actor steps of 256 "
        "rows where ours takes one of 1024. Both draw their batches from their replay buffers.",
    ),
    Row(
        "sac-step",
        "SAC, 2 critics, one critic and one actor update of 256 rows",
        "critic updates",
        "ours:sac-1",
        ("sb3:sac-2",),
        1.0,
        "Exactly SB3's algorithm, step for step.",
    ),
    Row(
        "calql2",
        "Cal-QL offline, 2 critics, 10 actions",
        "updates",
        "ours:calql-2",
        ("corl:calql", "d3rlpy:calql"),
        1.25,
        "No max backup, fixed weight 5, three hidden layers in the actor as CORL hard-codes "
        "(d3rlpy is given the same). Ours draws its batch; the peers are handed one.",
    ),
    Row(
        "calql10-pair",
        "Cal-QL offline, 10 critics, regulariser on a random pair, max backup over 10 actions",
        "updates",
        "ours:calql-10",
        ("wsrl:calql-10",),
        1.5,
        "The same loss on both sides. The official code evaluates all ten critics on the 30 "
        "sampled actions, and all ten targets on the 10 next actions, and then picks the pairs "
        "(agents/cql.py `_get_cql_q_diff`, agents/sac.py `critic_loss_fn`); ours draws the pairs "
        "first and evaluates only them. Most of this ratio is that.",
    ),
    Row(
        "calql10-all",
        "the same peer, ours with the regulariser and the backup on all 10 critics",
        "updates",
        "ours:calql-10-all",
        ("wsrl:calql-10",),
        None,
        "Equal critic evaluations on both sides, so this is speed alone; ours also propagates the "
        "regulariser's gradient through all ten.",
    ),
    Row(
        "replay-sb3",
        "uniform batch of 256 transitions (obs 39, act 4, 100k rows)",
        "batches",
        "ours:batch",
        ("sb3:batch",),
        4.0,
    ),
    Row(
        "replay-numpy",
        "the same against five numpy arrays, indexed, to torch",
        "batches",
        "ours:batch",
        ("plain:batch",),
        2.0,
        "The peer is the shortest code there is: it has no checks and no resumable sampler.",
    ),
    Row(
        "windows-two",
        "256 windows of 64 steps, observations and actions (500 episodes of 200 steps)",
        "batches",
        "ours:windows-two",
        ("plain:windows-two",),
        5.0,
        "The peer is an in-memory torch Dataset with a DataLoader without workers.",
    ),
    Row(
        "windows-all",
        "the same with next observations, rewards and masks (5.5 MB per batch)",
        "batches",
        "ours:windows-all",
        ("plain:windows-all",),
        None,
        "The same peer. Moving the bytes is most of our time here.",
    ),
    Row(
        "disk",
        "256 windows of 64 steps from disk, observations, actions, rewards and dones",
        "batches",
        "packed:windows",
        ("robomimic:windows",),
        20.0,
        "500 episodes of 200 steps. Ours are packed rows, mapped into memory (`data.pack`); the "
        "peer is robomimic's SequenceDataset on HDF5 without a cache, and a DataLoader without "
        "workers.",
    ),
    Row(
        "loop",
        "the whole training loop: environment, replay, WSRL updates",
        "environment steps",
        "loop:train",
        ("plain_loop:train",),
        2.0,
        "Meta-World door-open-v3, state observations, one WSRL step (10 critics, LayerNorm, UTD 4) "
        "per environment step. The peer is CORL's style in one file on the released environment: "
        "its replay buffer, one nn.Sequential per critic, torch.optim.Adam. It also evaluates "
        "only the drawn pair of targets. Ours includes its finite checks and its log.",
    ),
    Row(
        "acting",
        "one observation to one action",
        "actions",
        "ours:act",
        ("sb3:act",),
        None,
        "An actor of two hidden layers of 256, exploring. SB3: SAC.predict.",
    ),
    Row(
        "collecting",
        "a collector step with a trivial policy against env.step",
        "environment steps",
        "loop:collect",
        ("loop:raw",),
        None,
        "The same environment class on both sides (door-open-v3): what vectorising, episode book-"
        "keeping and the rollout record cost.",
    ),
    *(
        Row(
            f"{group}-{name}",
            title,
            "environment steps",
            f"envs:{name}",
            (f"released:{name}",),
            goal,
            note,
        )
        for group, name, title, goal, note in (
            (
                "metaworld",
                "reach",
                "Meta-World reach-v3, one step",
                2.5,
                "The package's environment as `gymnasium.make` gives it. The simulator calls, the "
                "observations and the rewards are the same to the bit "
                "(`python -m envs.checker --released --all`). Both sides reset every 500 steps.",
            ),
            ("metaworld", "assembly", "Meta-World assembly-v3, one step", 2.0, "As above."),
            (
                "dmcontrol",
                "walker",
                "dm_control walker-walk, one step",
                1.5,
                "The released environment returns a dictionary; ours also flattens it, checks it "
                "and the action, and tells success.",
            ),
            ("dmcontrol", "cheetah", "dm_control cheetah-run, one step", 2.0, "As above."),
            (
                "robosuite",
                "lift",
                "robosuite Lift, one Panda under OSC_POSE at 20 Hz, one step",
                3.0,
                "Both sides step 50 random actions from one state, again and again. Observations "
                "are the same to the bit (`python -m envs.checker --released`).",
            ),
            ("robosuite", "wipe", "robosuite Wipe, one step", 3.0, "As above."),
            ("robosuite", "two-arms", "robosuite TwoArmLift, one step", 3.0, "As above."),
            (
                "libero",
                "goal",
                "LIBERO libero_goal/7, one step",
                3.0,
                "As above; the peer is the package's ControlEnv. MuJoCo's own functions, called "
                "as often as the package calls them because otherwise the last bits differ, are "
                "two thirds of our time in a scene of this size.",
            ),
            ("libero", "object", "LIBERO libero_object/0, one step", 3.0, "As above."),
        )
    ),
    Row(
        "vector",
        "two Meta-World reach-v3 as one vector environment in one process",
        "environment steps",
        "envs:vector",
        ("envs:side-by-side",),
        0.95,
        "The same environments stepped one after another without a vector.",
    ),
    *(
        row
        for name, title, goal, note in (
            (
                "metaworld",
                "Meta-World assembly-v3, camera corner2",
                8.0,
                "The peer is `env.render()` of the environment as `gymnasium.make` gives it.",
            ),
            (
                "robosuite",
                "robosuite Lift, agentview",
                3.0,
                "The peer is `env.sim.render` of the environment as `robosuite.make` gives it.",
            ),
            (
                "libero",
                "LIBERO libero_object/4, agentview",
                3.0,
                "The peer is `sim.render` of the package's OffScreenRenderEnv.",
            ),
        )
        for row in (
            Row(
                f"render_{name}-fast",
                f"{title}: a picture of 84x84 in the fast look",
                "pictures",
                f"pictures:{name}-fast",
                (f"released_pictures:{name}",),
                goal,
                f"{note} Other pixels: the fast look has no shadows, reflections and "
                "multisampling, and its meshes are no finer than the picture and shaded smoothly "
                "(`envs/rendering.py`).",
            ),
            Row(
                f"render_{name}-package",
                f"{title}: the same in the package's look",
                "pictures",
                f"pictures:{name}-package",
                (f"released_pictures:{name}",),
                1.0,
                "The same shadows, reflections and samples on both sides.",
            ),
        )
    ),
    Row(
        "policy-state",
        "a policy server's answer to a state of 39 numbers, over loopback",
        "round trips",
        "policy:ours",
        ("bare_policy:bare",),
        0.4,
        "Both ends in one process, no inference. The peer is `websockets` and `msgpack` with the "
        "same payload and nothing checked; ours walks over each message before it is built and "
        "checks names, dtypes, shapes and finiteness. Waiting times, whose p50 is to be under "
        "2 ms: `python -m benchmarks.workers.policy_round_trip`.",
    ),
    *(
        Row(
            f"text-{kind}-{shape}",
            f"{title}, {shape} shape",
            unit,
            f"text:{kind}-{shape}",
            (f"{peer}-{shape}",),
            goal,
            note,
        )
        for shape in ("gpt2", "llama")
        for kind, title, unit, peer, goal, note in TEXT
    ),
    *(
        Row(
            f"text-bound-{shape}",
            f"the whole GRPO step against the matrix products alone, {shape} shape",
            "answers",
            f"text:grpo-{shape}",
            (f"gemm:grpo-{shape}",),
            0.3,
            "The products of the linear layers alone, each prompt read once: the share of the "
            "bound that is reached.",
        )
        for shape in ("gpt2", "llama")
    ),
)
