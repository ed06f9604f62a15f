"""Completions drawn by vLLM, which has its own kernels and so its own probabilities.

The engine reads weights from a folder of its own. When the model has changed since the last call,
they are written there and loaded anew in place. Its log-probabilities differ a little from the
model's: whoever learns from them corrects for that (`embodied.llm.collector`).
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor

from policies.lm import LanguageModel
from policies.sampling import Completions, Draws, Sampling


class VLLM:
    """An `Engine`; the GPU's memory is shared with the learner, so give it a part of it.

    Args:
        model: whose completions are drawn; of no adapters.
        options: of `vllm.LLM`, such as gpu_memory_utilization=0.4.

    Raises:
        ImportError: vllm is not installed.
    """

    def __init__(self, model: LanguageModel, **options: Any) -> None:
        try:
            import vllm
        except ImportError as error:
            raise ImportError(
                'engine=vllm needs vllm, which is missing: pip install "embodied[vllm]"',
                name="vllm",
            ) from error
        self._vllm = vllm
        self._folder = tempfile.TemporaryDirectory(prefix="vllm-")
        self._written = self._version(model)
        model.save(self._folder.name)
        # of the probabilities that were drawn from, not of those before temperature
        options = {"logprobs_mode": "processed_logprobs", "trust_remote_code": False, **options}
        self.llm = vllm.LLM(model=self._folder.name, **options)

    @staticmethod
    @torch.no_grad()
    def _version(model: LanguageModel) -> list[float]:
        """Sums of the weights: fused optimizers change them without any other trace."""
        return torch.stack([p.double().sum() for p in model.network.parameters()]).tolist()

    def __call__(
        self,
        model: LanguageModel,
        prompt: Tensor,
        prompt_mask: Tensor,
        group: int,
        sampling: Sampling,
        generator: Draws,
    ) -> Completions:
        """See `policies.sampling.generate`."""
        if self._version(model) != self._written:
            model.save(self._folder.name)
            self.llm.collective_rpc("reload_weights")
            self._written = self._version(model)
        draws = generator if isinstance(generator, torch.Generator) or not generator else None
        seeds = torch.randint(2**31, (len(prompt),), generator=draws, device=prompt.device)
        if draws is None and generator is not None:  # one for each prompt
            seeds = [torch.randint(2**31, (1,), generator=one).item() for one in generator]
        asked = [
            {"prompt_token_ids": row[real].tolist()}
            for row, real in zip(prompt, prompt_mask.bool(), strict=True)
        ]
        wanted = [
            self._vllm.SamplingParams(
                n=group,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.longest,
                stop=list(sampling.stop),
                include_stop_str_in_output=True,
                skip_special_tokens=False,
                logprobs=0,  # of the token that was drawn
                seed=int(seed),
            )
            for seed in seeds
        ]
        answers = self.llm.generate(asked, wanted, use_tqdm=False)
        return self._rows([one for answer in answers for one in answer.outputs], model, prompt)

    @staticmethod
    def _rows(outputs: list[Any], model: LanguageModel, like: Tensor) -> Completions:
        width = max(len(one.token_ids) for one in outputs)
        tokens = torch.full((len(outputs), width), model.pad)
        mask, log_prob = torch.zeros_like(tokens, dtype=torch.bool), torch.zeros(tokens.shape)
        for row, one in enumerate(outputs):
            ids = list(one.token_ids)
            tokens[row, : len(ids)], mask[row, : len(ids)] = torch.tensor(ids), True
            found = [step[token].logprob for step, token in zip(one.logprobs, ids, strict=True)]
            log_prob[row, : len(ids)] = torch.tensor(found)
        ended = torch.tensor([one.finish_reason == "stop" for one in outputs])
        return Completions(*(part.to(like.device) for part in (tokens, mask, log_prob, ended)))
