"""Reviews: a language of 44 words with a gold reward, preferences, and an exact optimum, for RLHF on a small scale."""

from pg_envs.reviews.environment import Reviews, ReviewsVector, TextTask, text_task
from pg_envs.reviews.grammar import MAX_LENGTH, PROMPTS, WORDS, corpus, is_valid, review
from pg_envs.reviews.optimum import Optimum, optimum
from pg_envs.reviews.reward import gold_reward, preference_probability, preferences

__all__ = [
    "MAX_LENGTH",
    "PROMPTS",
    "WORDS",
    "Optimum",
    "Reviews",
    "ReviewsVector",
    "TextTask",
    "corpus",
    "gold_reward",
    "is_valid",
    "optimum",
    "preference_probability",
    "preferences",
    "review",
    "text_task",
]
