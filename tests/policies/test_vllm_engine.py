"""The vLLM engine against a stand-in with vLLM's interface, which draws with other probabilities.

vLLM itself needs a GPU to be of use; where it is installed, the last test runs it.
"""

import importlib.util
import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from embodied.llm.collector import ENGINE_CAP, LanguagePolicy, TextCollector
from embodied.llm.grpo import GRPO, GRPOConfig, recipe
from policies import lm
from policies.sampling import Sampling, generate
from policies.vllm_engine import VLLM
from tests import tiny_language


class StandIn:
    """vllm.LLM, as far as the engine uses it: reads a folder, draws at a temperature of its own."""

    def __init__(self, model, **options):
        self.folder, self.options, self.reloads = model, options, 0
        self.model = lm.load(model)

    def collective_rpc(self, what):
        assert what == "reload_weights"
        self.model, self.reloads = lm.load(self.folder), self.reloads + 1

    def generate(self, prompts, params, use_tqdm):
        return [self._answer(*one) for one in zip(prompts, params, strict=True)]

    def _answer(self, prompt, how):
        ids = torch.tensor([prompt["prompt_token_ids"]])
        other = Sampling(how.max_tokens, temperature=1.1 * how.temperature)  # the mismatch
        rng = torch.Generator().manual_seed(how.seed)
        drawn = generate(self.model, ids, torch.ones_like(ids), how.n, other, rng)
        outputs = []
        for row in range(how.n):
            tokens = drawn.tokens[row, drawn.mask[row]].tolist()
            steps = [
                {token: SimpleNamespace(logprob=float(p))}
                for token, p in zip(tokens, drawn.log_prob[row], strict=False)
            ]
            reason = "stop" if drawn.ended[row] else "length"
            outputs.append(SimpleNamespace(token_ids=tokens, logprobs=steps, finish_reason=reason))
        return SimpleNamespace(outputs=outputs)


@pytest.fixture
def vllm(monkeypatch):
    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = StandIn, SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", module)
    return module


def collect(engine, task, seed=0):
    policy = LanguagePolicy(
        task.model, Sampling(task.longest), torch.Generator().manual_seed(seed), engine
    )
    return TextCollector(task.questions(), task.score, 3, 4).collect(policy)


def test_answers_come_in_groups_with_what_the_model_makes_of_them(vllm):
    task = tiny_language.task()
    engine = VLLM(task.model, gpu_memory_utilization=0.3)
    assert engine.llm.options["gpu_memory_utilization"] == 0.3
    rollout = collect(engine, task)
    assert rollout.action.shape[0] == 12
    columns = {k: torch.from_numpy(v) for k, v in (("c", rollout.action), ("m", rollout.mask))}
    prompt, prompt_mask = (
        torch.from_numpy(x) for x in (rollout.observation, rollout.meta["prompt_mask"])
    )
    logits = task.model.logits(prompt, prompt_mask, columns["c"], columns["m"])
    exact = logits.log_softmax(-1).gather(-1, columns["c"][..., None])[..., 0].detach().numpy()
    real = rollout.mask
    np.testing.assert_allclose(rollout.log_prob[real], exact[real], atol=1e-5)
    ratio = rollout.meta["columns"]["engine_ratio"]
    assert (ratio[~real] == 1).all() and ratio.max() <= ENGINE_CAP
    assert ratio[real].std() > 1e-3  # the stand-in's probabilities are others


def test_the_weights_of_the_last_update_are_drawn_from(vllm):
    task = tiny_language.task()
    task.score = lambda prompt, text: float(sum(map(ord, text)) % 2)
    task.engine = VLLM(task.model)
    learner = GRPO(GRPOConfig(prompts=3, group=4, lr=1e-2), task)
    phase = recipe(learner.config, task).phases[0]
    rollout = phase.collector.collect(learner.policy())
    phase.source.add(rollout)
    assert task.engine.llm.reloads == 0
    learner.update(phase.source)
    phase.collector.collect(learner.policy())
    assert task.engine.llm.reloads == 1
    for ours, theirs in zip(
        task.model.network.parameters(), task.engine.llm.model.network.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_the_gradient_is_that_of_the_model_not_of_the_engine(vllm):
    """Weighted, tokens of the wrong distribution give the right expectation; unweighted not."""
    rng = torch.Generator().manual_seed(0)
    p, q = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.5, 0.3, 0.2])
    value = torch.tensor([1.0, -1.0, 2.0])
    drawn = torch.multinomial(q, 200_000, True, generator=rng)
    ratio = (p / q).clamp(max=ENGINE_CAP)[drawn]
    right = float((p * value).sum())
    assert abs(float((ratio * value[drawn]).mean()) - right) < 0.01
    assert abs(float(value[drawn].mean()) - right) > 0.05


def test_it_is_missed_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match=r"embodied\[vllm\]"):
        VLLM(tiny_language.model())


@pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None or not torch.cuda.is_available(),
    reason="vllm and a GPU are not here",
)
def test_vllm_itself():
    task = tiny_language.task()
    rollout = collect(VLLM(task.model, gpu_memory_utilization=0.2, enforce_eager=True), task)
    ratio = rollout.meta["columns"]["engine_ratio"]
    assert abs(float(ratio[rollout.mask].mean()) - 1.0) < 0.05
