"""Language models and tokenizers: what they must have, how they are run, and small ones made here."""

from __future__ import annotations

import inspect
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch as th
from safetensors import SafetensorError

from pg_agents.engines import threads
from pg_agents.language.texts import Completions

ADAPTER = "adapter"
"""The folder of an adapter, below that of the whole model."""


class Outputs(NamedTuple):
    """The outputs of a language model at the tokens of completions.

    Attributes:
        log_probs: log π of every token of the vocabulary at each token's place, `(N, T, vocabulary)`.
        hidden: The last layer's output there, from which the token was predicted, `(N, T, width)`.
    """

    log_probs: th.Tensor
    hidden: th.Tensor

    def of(self, actions: th.Tensor) -> th.Tensor:
        """log π of the tokens `(N, T)` that were written."""
        return self.log_probs.gather(-1, actions[..., None]).squeeze(-1)


def run(model: Any, completions: Completions) -> Outputs:
    """Run a causal language model on completions, of at least one token.

    Positions are counted from the first real token, so that padding changes nothing. Numbers in columns of padding are
    meaningless.

    Args:
        model: A Hugging Face causal language model.
        completions: The texts.
    """
    n_completion = completions.actions.shape[1]
    # The last token predicts nothing that counts.
    tokens, mask = completions.tokens[:, :-1], completions.mask[:, :-1]
    out = model(
        input_ids=tokens,
        use_cache=False,
        output_hidden_states=True,
        **places(model, mask),
        **_keep(model, n_completion),
    )
    logits, hidden = out.logits[:, -n_completion:], out.hidden_states[-1][:, -n_completion:]
    return Outputs(th.log_softmax(precise(logits), dim=-1), hidden)


def precise(values: th.Tensor) -> th.Tensor:
    """Numbers of at least 32 bits."""
    return values.float() if values.dtype in (th.float16, th.bfloat16) else values


def last_hidden(trunk: Any, completions: Completions) -> th.Tensor:
    """The last layer's output at the last real token of each text, `(N, width)`.

    Args:
        trunk: A Hugging Face model without a head.
        completions: The texts.
    """
    out = trunk(input_ids=completions.tokens, use_cache=False, **places(trunk, completions.mask))
    columns = th.arange(completions.mask.shape[1], device=completions.mask.device)
    last = (columns * completions.mask).argmax(dim=1)
    hidden: th.Tensor = out.last_hidden_state[th.arange(len(last)), last]
    return hidden


def places(model: Any, mask: th.Tensor) -> dict[str, th.Tensor]:
    """The arguments that tell a model what is padding, and the position of each token."""
    arguments = {"attention_mask": mask.long()}
    if "position_ids" in parameters(model):
        arguments["position_ids"] = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    return arguments


def parameters(model: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of a model's `forward`, that of the base model where adapters wrap it."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inspect.signature(inner.forward).parameters


def _keep(model: Any, n: int) -> dict[str, int]:
    """The logits of the last n columns only, for models that can."""
    return {"logits_to_keep": n} if "logits_to_keep" in parameters(model) else {}


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse a tokenizer without an end or padding of its own.

    Raises:
        ValueError: `eos_token` or `pad_token` is missing, or both are one.
    """
    for name in ("eos_token", "pad_token"):
        if getattr(tokenizer, f"{name}_id", None) is None:
            raise ValueError(
                f"`tokenizer` must have an `{name}`, but has none: tokenizer.add_special_tokens"
                f"({{{name!r}: '<{name[:3]}>'}}), and model.resize_token_embeddings(len(tokenizer))."
            )
    if tokenizer.eos_token_id == tokenizer.pad_token_id:
        raise ValueError(
            "`tokenizer` must tell padding from the end, but `pad_token` and `eos_token` are both "
            f"{tokenizer.eos_token!r}: the model could not learn to end."
        )


def check_positions(model: Any, n_prompt: int, max_new_tokens: int) -> None:
    """Refuse texts that are longer than the model's positions.

    Raises:
        ValueError: The longest prompt and completion have more tokens than the model has positions.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and n_prompt + max_new_tokens > limit:
        raise ValueError(
            f"`max_new_tokens` must be at most {limit - n_prompt}, but is {max_new_tokens}: the longest prompt has "
            f"{n_prompt} tokens, and the model {limit} positions."
        )


def one_text(device: th.device | str) -> Completions:
    """A prompt and a completion of one token each, to measure a model with."""
    tokens = th.zeros(1, 2, dtype=th.long, device=device)
    return Completions(tokens, th.ones_like(tokens, dtype=th.bool), 1)


def has_adapter(model: Any) -> bool:
    """Whether adapters of `peft` wrap a model."""
    return hasattr(model, "merge_and_unload")


def plain(model: Any) -> Any:
    """A copy of a model, with adapters added to the weights where there are some."""
    copied = deepcopy(model)
    return copied.merge_and_unload().requires_grad_(True) if has_adapter(model) else copied


@runtime_checkable
class Tuned(Protocol):
    """A language model with its tokenizer, such as a `SupervisedFineTuning`."""

    model: Any
    tokenizer: Any


def language_model(source: Any, dtype: th.dtype | Literal["auto"] = th.float32) -> Any:
    """A causal language model: the one given, that of a `SupervisedFineTuning`, or that of a folder.

    Args:
        source: One of them; `save_pretrained` writes such folders.
        dtype: The type of the numbers of a folder's model. With 16 bits, as many are stored, small steps round to 0.
            `"auto"` leaves them as they are.

    Raises:
        ValueError: There is no such folder. Nothing is downloaded.
    """
    if isinstance(source, Tuned):
        return source.model
    if not isinstance(source, (str, Path)):
        return source
    from transformers import AutoModelForCausalLM

    check_folder(source)
    with quietly():
        return AutoModelForCausalLM.from_pretrained(source, local_files_only=True, trust_remote_code=False, dtype=dtype)


def model_and_tokenizer(source: Any, tokenizer: Any = None) -> tuple[Any, Any]:
    """The model and the tokenizer of a source, checked against each other.

    Args:
        source: As for `language_model`.
        tokenizer: The tokenizer; None for the source's own.

    Raises:
        ValueError: One is missing, the tokenizer has no end or padding of its own, or more tokens than the model.
    """
    model = language_model(source)
    tokenizer = tokenizer_of(source, tokenizer)
    n_tokens = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > n_tokens:
        raise ValueError(
            f"`tokenizer` must have at most {n_tokens} tokens, the model's embeddings, but has {len(tokenizer)}: "
            "model.resize_token_embeddings(len(tokenizer))."
        )
    return model, tokenizer


def check_cache(model: Any) -> None:
    """Refuse a model that, read token by token, gives other probabilities than for the whole text.

    Recurrent models keep a state where attention keeps keys and values, and read the mask in another way.

    Raises:
        ValueError: It does, or has no cache.
    """
    length = min(5, getattr(model.config, "max_position_embeddings", None) or 5)
    tokens = th.arange(length, device=model.device)[None] % model.get_input_embeddings().weight.shape[0]
    name, cache, found = cache_name(model), None, []
    try:
        with evaluating(model):
            whole = run(model, Completions(tokens, th.ones_like(tokens, dtype=th.bool), 1)).log_probs
            for n in range(1, length):
                seen = th.ones_like(tokens[:, :n])
                told = {key: value[:, n - 1 :] for key, value in places(model, seen.bool()).items()}
                told["attention_mask"] = seen
                out = model(input_ids=tokens[:, n - 1 : n], use_cache=True, **{name: cache}, **told)
                cache = out[name]
                found.append(th.log_softmax(precise(out.logits[:, -1]), dim=-1))
        atol = 1e-4 if whole.dtype == model.dtype else 0.05  # 16 bits are rough
        agrees = th.allclose(th.stack(found, dim=1), whole, atol=atol)
    except (KeyError, RuntimeError):
        agrees = False
    if not agrees:
        raise ValueError(
            "`policy` must be a model that reads a text token by token with the same probabilities as in one piece, as "
            f"those with attention do, but {type(model).__name__} does not."
        )


def cache_name(model: Any) -> str:
    """The name of the cache among the arguments of a model's `forward`."""
    return "cache" if "cache" in parameters(model) else "past_key_values"


def tokenizer_of(source: Any, tokenizer: Any = None) -> Any:
    """The tokenizer given, or that of a `SupervisedFineTuning` or of a folder.

    Args:
        source: As for `language_model`.
        tokenizer: The tokenizer; None for the source's own.

    Raises:
        ValueError: There is none, or it has no end or padding of its own.
    """
    if tokenizer is None and isinstance(source, Tuned):
        tokenizer = source.tokenizer
    if tokenizer is None and isinstance(source, (str, Path)):
        check_folder(source)
        tokenizer = load_tokenizer(source)
    if tokenizer is None:
        raise ValueError("`tokenizer` must be given with a model, but is None.")
    check_tokenizer(tokenizer)
    return tokenizer


@contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' progress bars for files."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def between_libraries() -> Iterator[None]:
    """Without the warnings of one library about the names and layers that the other uses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to")  # and then set rightly
        warnings.filterwarnings("ignore", ".*base_model_name_or_path")
        yield


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Have what safetensors says of the disk as Python says it, with the name of what was to be written.

    Raises:
        OSError: The disk is full, or fails.
    """
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def save_model(model: Any, folder: str | Path, tokenizer: Any = None) -> None:
    """Write a model, and its tokenizer if one is given, to a folder.

    Where adapters wrap the model, it is written with them added to its weights, and the one in use alone to the folder
    `adapter` below.
    """
    with quietly(), between_libraries():
        if has_adapter(model):
            plain(model).save_pretrained(folder)
            model.save_pretrained(
                Path(folder) / ADAPTER,
                selected_adapters=[model.active_adapter],
                save_embedding_layers=False,  # the base's own, and "auto" would look for it in the internet
            )
        else:
            model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def check_folder(source: str | Path) -> None:
    """Refuse a path that is no folder with a model.

    Raises:
        ValueError: There is no such folder, no `config.json` in it, or an adapter only.
    """
    if (Path(source) / "adapter_config.json").is_file():
        raise ValueError(
            f"The folder {str(source)!r} must hold a model, but holds an adapter only: give "
            "PeftModel.from_pretrained(base, folder, is_trainable=True)."
        )
    if not (Path(source) / "config.json").is_file():
        raise ValueError(
            f"The folder {str(source)!r} must hold a model, with a file config.json. Nothing is downloaded: save the "
            "model with `save_pretrained` first."
        )


def load_tokenizer(source: str | Path) -> Any:
    """The tokenizer of a folder."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)


@contextmanager
def evaluating(*models: Any) -> Iterator[None]:
    """Without gradients and dropout, and small models in one thread."""
    before = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        with th.no_grad(), ExitStack() as stack:
            for model in models:
                stack.enter_context(threads.for_policy(model))
            yield
    finally:
        for module, training in before:
            module.training = training


def small_gpt2(
    tokenizer: Any,
    *,
    n_positions: int = 27,
    width: int = 64,
    n_layers: int = 2,
    n_heads: int = 4,
) -> Any:
    """A GPT-2 with fresh random weights from torch's generator, without dropout.

    Args:
        tokenizer: Its tokenizer; the vocabulary is as large.
        n_positions: Longest text, prompt and completion.
        width: Width of the layers, a multiple of `n_heads`.
        n_layers: Number of layers.
        n_heads: Heads of the attention.

    Returns:
        A `transformers.GPT2LMHeadModel`.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    check_tokenizer(tokenizer)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=n_positions,
        n_embd=width,
        n_layer=n_layers,
        n_head=n_heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own function, in one operation
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return GPT2LMHeadModel(config)


def word_tokenizer(words: Sequence[str], *, pad: str = "<pad>", bos: str = "<bos>", eos: str = "<eos>") -> Any:
    """A tokenizer of a small vocabulary: a token is a word, and words are separated by spaces.

    Args:
        words: The vocabulary; a word's token is its place.
        pad: The word for padding.
        bos: The word for the beginning of a text.
        eos: The word for its end.

    Returns:
        A `transformers.PreTrainedTokenizerFast`. An unknown word becomes padding.

    Raises:
        ValueError: A word occurs twice, or `pad`, `bos` or `eos` is not among the words.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    if len(set(words)) < len(words):
        raise ValueError(f"`words` must be different, but {sorted({w for w in words if words.count(w) > 1})} recur.")
    for name, word in (("pad", pad), ("bos", bos), ("eos", eos)):
        if word not in words:
            raise ValueError(f"`{name}` must be one of the words, but is {word!r}.")
    inner = Tokenizer(WordLevel({word: token for token, word in enumerate(words)}, unk_token=pad))
    inner.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=pad, bos_token=bos, eos_token=eos, clean_up_tokenization_spaces=False
    )
