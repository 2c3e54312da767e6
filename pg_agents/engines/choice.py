"""Which engine serves a policy: by name, built in or a plugin's, or the fastest that does."""

from __future__ import annotations

import warnings
from contextlib import suppress

from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from pg_agents import registry
from pg_agents.checks import check_choice
from pg_agents.contract import (
    Engine,
    EngineFactory,
    Loss,
    NotServedError,
    Predictor,
    Predicts,
    WrongWeightError,
)
from pg_agents.engines.autograd import AutogradEngine
from pg_agents.engines.mlp.engine import MLPEngine
from pg_agents.engines.mlp.predicting import MLPPredictor
from pg_agents.engines.mlp.served import check_policy, check_served
from pg_agents.engines.mlp.tables import kernels_are_kept, kernels_are_loaded, load_kernels

BUILT_IN = ("auto", "autograd", "mlp")


def check_engine(name: str, policy: ActorCriticPolicy, buffer: RolloutBuffer, loss: Loss) -> None:
    """Refuse an engine that does not exist, or that cannot serve, without compiling anything.

    Raises:
        ValueError: With the reason.
    """
    if name not in BUILT_IN:
        check_choice("engine", name, (*BUILT_IN, *registry.plugins(registry.ENGINES)))
    if name == "mlp":
        try:
            check_served(policy, buffer, loss)
        except NotServedError as reason:
            raise _refusal(name, reason) from None


def make_engine(name: str, policy: ActorCriticPolicy, buffer: RolloutBuffer, loss: Loss, *, verbose: int = 0) -> Engine:
    """The engine of that name; `"auto"` is the compiled one where it serves, else autograd.

    Args:
        name: `"auto"`, `"autograd"`, `"mlp"`, or the name of a plugin of the group `pg_agents.engines`.
        policy: The policy.
        buffer: Its rollout buffer.
        loss: Its loss.
        verbose: 1 prints why the compiled engine does not serve.

    Raises:
        ValueError: There is no such engine, or it does not serve.
        PluginError: The plugin cannot be imported, or two distributions have an engine of this name.
    """
    if name == "autograd":
        return AutogradEngine()
    try:
        return _factory(name)(policy, buffer, loss)
    except NotServedError as reason:
        if name != "auto":
            raise _refusal(name, reason) from reason
        if isinstance(reason, WrongWeightError):
            warnings.warn(f"Using the autograd engine, because {reason}.", stacklevel=3)
        elif verbose >= 1:
            print(f"Using the autograd engine; the compiled one does not serve this agent: {reason}.")
        return AutogradEngine()


def make_predictor(name: str, engine: Engine | None, policy: ActorCriticPolicy) -> Predictor | None:
    """The predictor that goes with an agent's engine; None if its policy has to answer itself.

    Args:
        name: As for `make_engine`.
        engine: The agent's engine; None if it has none yet. Nothing is loaded or compiled for a predictor.
        policy: The policy.
    """
    try:
        if isinstance(engine, Predicts):
            return engine.predictor(policy)
        # Also where autograd trains for want of a `weight`: the same agent, loaded, is asked before it has an engine.
        return MLPPredictor(policy) if name in ("auto", "mlp") and kernels_are_loaded() else None
    except NotServedError:
        return None


def load_predictor(name: str, policy: ActorCriticPolicy) -> None:
    """Load what `make_predictor` needs for a policy, if that takes less than a second: nothing is compiled.

    Args:
        name: As for `make_engine`.
        policy: The policy.
    """
    if name in ("auto", "mlp") and not kernels_are_loaded() and kernels_are_kept():
        with suppress(NotServedError):
            check_policy(policy)
            load_kernels()


def _factory(name: str) -> EngineFactory:
    if name in BUILT_IN:
        return MLPEngine
    plugins = registry.plugins(registry.ENGINES)
    check_choice("engine", name, (*BUILT_IN, *plugins))
    factory: EngineFactory = plugins[name].load()
    return factory


def _refusal(name: str, reason: NotServedError) -> ValueError:
    return ValueError(
        f"`engine` is {name!r}, which does not serve this agent: {reason}. engine='auto' takes autograd in its place."
    )
