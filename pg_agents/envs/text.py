"""A text as an episode: prompts and a reward of prompt and completion, as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from pg_agents.registry import find_env


@runtime_checkable
class TextTask(Protocol):
    """The attribute `text_task` of an environment whose episodes are texts; language models learn from it.

    A task may have a `kl_coef`, the price of KL divergence for which its reference scores are valid.

    Attributes:
        words: The vocabulary, in the order of the tokens; texts have single spaces between words.
        special: The words for padding, beginning and end, by the names `pad`, `bos` and `eos`.
        prompts: The prompts.
        max_new_tokens: Longest completion, the end included.
        reward: The reward of a prompt and a completion.
        corpus: `corpus(n, generator)` draws pairs of prompt and completion, from which the language can be learnt.
    """

    words: Sequence[str]
    special: Mapping[str, str]
    prompts: Sequence[str]
    max_new_tokens: int
    reward: Callable[[str, str], float]
    corpus: Callable[[int, np.random.Generator], list[tuple[str, str]]]


def text_task(env: Any) -> TextTask:
    """The text task of an environment.

    Args:
        env: A registered id, a Gymnasium environment, or an SB3 `VecEnv`.

    Raises:
        ValueError: The environment states none.
    """
    find_env(env)
    made = gym.make(env) if isinstance(env, str) else env
    try:
        task = made.get_attr("text_task")[0] if isinstance(made, VecEnv) else made.get_wrapper_attr("text_task")
    except AttributeError:
        task = None
    if not isinstance(task, TextTask):
        spec = made.get_attr("spec")[0] if isinstance(made, VecEnv) else made.spec
        name = env if spec is None or isinstance(env, str) else spec.id
        raise ValueError(f"`env` must state a `text_task`, as pg/Reviews-v0 does, but is {name!r}.")
    return task


class TextEnv(gym.Env[np.ndarray, np.int64]):
    """One token a step, with a reward at the end.

    An observation is the text so far, prompt and completion, padded at its end. The episode terminates with the token
    of the end or with the longest completion.

    Args:
        prompts: The tokens of each prompt; an episode starts with one of them, each equally probable.
        reward: The reward of the tokens of a prompt and its completion, the end included if there is one.
        n_tokens: Size of the vocabulary.
        max_new_tokens: Longest completion, the end included.
        eos: Token of the end.
        pad: Token of padding.
    """

    metadata: dict[str, Any] = {"render_modes": [], "deterministic_evaluation": False}  # noqa: RUF012

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        reward: Callable[[list[int], list[int]], float],
        *,
        n_tokens: int,
        max_new_tokens: int,
        eos: int,
        pad: int,
    ) -> None:
        self.prompts, self.reward, self.max_new_tokens, self.eos, self.pad = prompts, reward, max_new_tokens, eos, pad
        self.length = max(map(len, prompts)) + max_new_tokens
        self.observation_space = spaces.MultiDiscrete(np.full(self.length, n_tokens))
        self.action_space = spaces.Discrete(n_tokens)
        self._prompt: list[int] = []
        self._completion: list[int] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start with a prompt."""
        super().reset(seed=seed)
        self._prompt, self._completion = list(self.prompts[int(self.np_random.integers(len(self.prompts)))]), []
        return self._text(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Append a token."""
        self._completion.append(int(action))
        ended = int(action) == self.eos or len(self._completion) == self.max_new_tokens
        reward = float(self.reward(self._prompt, self._completion)) if ended else 0.0
        return self._text(), reward, ended, False, {}

    def _text(self) -> np.ndarray:
        tokens = [*self._prompt, *self._completion]
        return np.array(tokens + [self.pad] * (self.length - len(tokens)), dtype=np.int64)
