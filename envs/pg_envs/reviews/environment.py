"""Reviews: write a text word by word, for a reader whose taste is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from pg_envs.batched import Batched, Dynamics, Single
from pg_envs.checks import check_number
from pg_envs.references import computed_scores
from pg_envs.rendering import BLACK, BLUE, Canvas
from pg_envs.reviews.grammar import EOS, MAX_LENGTH, PAD, PROMPT_LENGTH, PROMPTS, WORDS, corpus
from pg_envs.reviews.optimum import optimum
from pg_envs.reviews.reward import gold_reward
from pg_envs.worlds.world import METADATA

_PAD, _EOS = WORDS.index(PAD), WORDS.index(EOS)
_LENGTH = PROMPT_LENGTH + MAX_LENGTH
_PROMPT_TOKENS = np.array([[WORDS.index(word) for word in prompt.split()] for prompt in PROMPTS])


@dataclass(frozen=True)
class TextTask:
    """A task whose episodes are texts, as language models need it.

    Attributes:
        words: The vocabulary, in the order of the tokens; texts have single spaces between words.
        special: The words for padding, beginning and end, by the names `pad`, `bos` and `eos`.
        prompts: The prompts.
        max_new_tokens: Longest completion, the end included.
        reward: The reward of a prompt and a completion.
        corpus: `corpus(n, generator)` draws pairs of prompt and completion, from which the language can be learnt.
        kl_coef: Price of the KL divergence from the language for which the reference scores hold.
    """

    words: Sequence[str]
    special: Mapping[str, str]
    prompts: Sequence[str]
    max_new_tokens: int
    reward: Callable[[str, str], float]
    corpus: Callable[[int, np.random.Generator], list[tuple[str, str]]]
    kl_coef: float


class State(NamedTuple):
    """Texts `(copies, 27)`, padded behind their end, and their lengths `(copies,)`, the prompt included."""

    tokens: np.ndarray
    length: np.ndarray


class ReviewsDynamics(Dynamics[State]):
    """The task as functions on arrays; see `Reviews`."""

    observation_space = spaces.MultiDiscrete(np.full(_LENGTH, len(WORDS)))
    action_space = spaces.Discrete(len(WORDS))
    image_size = (640, 120)

    def __init__(self, kl_coef: float = 0.1) -> None:
        if kl_coef != 0:
            check_number("kl_coef", kl_coef, at_least=1e-3)
        self.kl_coef = kl_coef

    def start(self, rngs: Sequence[np.random.Generator]) -> State:
        """A prompt, each equally probable."""
        tokens = np.full((len(rngs), _LENGTH), _PAD)
        tokens[:, :PROMPT_LENGTH] = _PROMPT_TOKENS[[rng.integers(len(PROMPTS)) for rng in rngs]]
        return State(tokens, np.full(len(rngs), PROMPT_LENGTH))

    def step(self, state: State, actions: np.ndarray) -> tuple[State, np.ndarray, np.ndarray]:
        """One word more; the reward comes with the last."""
        tokens, rows = state.tokens.copy(), np.arange(len(actions))
        tokens[rows, np.minimum(state.length, _LENGTH - 1)] = actions
        length = np.minimum(state.length + 1, _LENGTH)
        terminated = (actions == _EOS) | (length == _LENGTH)
        rewards = np.zeros(len(actions))
        for i in np.flatnonzero(terminated):
            rewards[i] = gold_reward(*_texts(tokens[i], length[i]))
        return State(tokens, length), rewards, terminated

    def observe(self, state: State) -> np.ndarray:
        """The text so far."""
        return state.tokens.astype(np.int64)

    def optimum(self) -> float:
        """Mean reward of π*, which maximises J = E[r] - β KL(π || language)."""
        return optimum(self.kl_coef).reward

    def known_returns(self) -> dict[str, float]:
        """J*, which π* has, and the language's own mean reward."""
        return {"objective": optimum(self.kl_coef).objective, "reference": optimum(np.inf).reward}

    def draw(self, state: State, canvas: Canvas) -> None:
        """The prompt, and the text below it in lines."""
        canvas.view((0, 0), (640, 120))
        prompt, completion = _texts(state.tokens[0], state.length[0])
        canvas.text((320, 100), prompt, BLUE, 18)
        words = completion.split()
        for line, first in enumerate(range(0, len(words), 9)):
            canvas.text((320, 75 - 24 * line), " ".join(words[first : first + 9]), BLACK, 18)


def _texts(tokens: np.ndarray, length: int) -> tuple[str, str]:
    words = [WORDS[token] for token in tokens[:length]]
    return " ".join(words[:PROMPT_LENGTH]), " ".join(words[PROMPT_LENGTH:])


class Reviews(Single[State]):
    """Write a review of a thing, word by word: the smallest task of a language model, with its optimum known.

    ## Description
    An episode is a text over 44 words that answers the prompt `<bos> NOUN :`. A language tells which texts are natural,
    a gold reward which of them please. `pg_envs.reviews` has both as functions: a corpus of natural texts, the gold
    reward, preferences of a rater who follows it, and the exact optimum of the reward with a price on the KL divergence
    from the language.

    ## Action space
    `Discrete(44)`: the next word.

    ## Observation space
    `MultiDiscrete([44] * 27)`: prompt and text so far, then `<pad>`.

    ## Dynamics
    The word is appended to the text. Natural texts are those of `TEXT = (CL (& CL)? .){1,3} <eos>`, with the clauses
    `CL = (D N | T) C A? J (& A? J)?` and `I V (D N | T)`; their probabilities stand in `pg_envs.reviews.grammar`.

    ## Rewards
    0 until the last word, then min(#distinct praise, 4) - #blame, ½ more or less for a text on or off the prompt's
    topic, and 3 (1 - w) less, with w the share of words in well-formed sentences; w = 0 without an end. At most 4.5.

    ## Start and end
    An episode starts with one of 8 prompts, and terminates with the word `<eos>` or the 24th word.

    ## Evaluation
    Stochastic: `metadata["deterministic_evaluation"]` is False. Three reference scores are exact: `optimum`, the mean
    reward of the policy π* that maximises J = E[r] - β KL(π || language) with β = `kl_coef`; `objective`, its J;
    `reference`, the mean reward of the language itself. The environment does not know a policy's probabilities, and so
    does not charge the price β.

    ## Version history
    * v0: first version.

    Args:
        kl_coef: Price of a nat of KL divergence from the language, 0 or at least .001, for which the reference scores
            hold.
        render_mode: None, `"rgb_array"` or `"human"`.

    Raises:
        ValueError: An argument is out of range.
    """

    metadata: dict[str, Any] = {
        **METADATA,
        "render_fps": 4,
        "deterministic_evaluation": False,
        "reference_scores": partial(computed_scores, "pg/Reviews-v0"),
    }

    def __init__(self, kl_coef: float = 0.1, render_mode: str | None = None) -> None:
        super().__init__(ReviewsDynamics(kl_coef), render_mode)
        self.text_task = text_task(kl_coef)


class ReviewsVector(Batched[State]):
    """Many reviews at once; see `Reviews` and, for the other arguments, `Batched`."""

    def __init__(
        self,
        num_envs: int = 1,
        kl_coef: float = 0.1,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
    ) -> None:
        dynamics = ReviewsDynamics(kl_coef)
        super().__init__(dynamics, num_envs, max_episode_steps, autoreset_mode, render_mode, Reviews.metadata)
        self.text_task = text_task(kl_coef)


def text_task(kl_coef: float = 0.1) -> TextTask:
    """The task as a language model needs it.

    Args:
        kl_coef: As in `Reviews`.
    """
    return TextTask(
        words=WORDS,
        special={"pad": PAD, "bos": WORDS[1], "eos": EOS},
        prompts=PROMPTS,
        max_new_tokens=MAX_LENGTH,
        reward=gold_reward,
        corpus=corpus,
        kl_coef=kl_coef,
    )
