"""Policy gradients on language models: from supervised fine-tuning to PPO with a price on the KL divergence.

A prompt and the words so far are the state, the next word is the action, and the language model is the policy. The
models and tokenizers are Hugging Face's, which the extra `language` installs:

    pip install "pg-agents[language]"
"""

from importlib.util import find_spec

from pg_agents.checks import MissingExtraError

if find_spec("transformers") is None:
    raise MissingExtraError('language models need the extra `language`: pip install "pg-agents[language]"')

from pg_agents.language.best_of_n import BestOfN, best_of_n
from pg_agents.language.direct_preference import DirectPreference
from pg_agents.language.generation import generate
from pg_agents.language.grpo import LanguageGRPO
from pg_agents.language.models import small_gpt2, word_tokenizer
from pg_agents.language.ppo import LanguagePPO
from pg_agents.language.reinforce import LanguageREINFORCE
from pg_agents.language.reward_model import RewardModel
from pg_agents.language.rlhf import LanguageAlgorithm
from pg_agents.language.rloo import LanguageRLOO
from pg_agents.language.supervised import SupervisedFineTuning
from pg_agents.language.texts import Completions

__all__ = [
    "BestOfN",
    "Completions",
    "DirectPreference",
    "LanguageAlgorithm",
    "LanguageGRPO",
    "LanguagePPO",
    "LanguageREINFORCE",
    "LanguageRLOO",
    "RewardModel",
    "SupervisedFineTuning",
    "best_of_n",
    "generate",
    "small_gpt2",
    "word_tokenizer",
]
