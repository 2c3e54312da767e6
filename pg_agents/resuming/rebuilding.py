"""Environments as descriptions, and environments made from descriptions.

A description consists of registered ids, keyword arguments and numbers. What it names is looked up in Gymnasium's
registry and among the wrappers named here; nothing is imported because a file says so.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, WrapperSpec
from stable_baselines3.common.monitor import Monitor, ResultsWriter
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from pg_agents.envs.adapter import VectorEnvAdapter
from pg_agents.registry import find_env
from pg_agents.resuming.environments import single_layers
from pg_agents.resuming.outputs import ForeignFileError, check_monitor_file

Description = dict[str, Any]


# Those of `gymnasium.wrappers` that change nothing outside, such as files, and take no functions.
_WRAPPERS = frozenset(
    (
        *("AddRenderObservation", "AddWhiteNoise", "AtariPreprocessing", "Autoreset", "ClipAction", "ClipReward"),
        *("DelayObservation", "DiscretizeAction", "DiscretizeObservation", "DtypeObservation", "FilterObservation"),
        *("FlattenObservation", "FrameStackObservation", "GrayscaleObservation", "MaxAndSkipObservation"),
        *("NormalizeObservation", "NormalizeReward", "ObstructView", "OrderEnforcing", "PassiveEnvChecker"),
        *("RecordEpisodeStatistics", "RepeatAction", "RescaleAction", "RescaleObservation", "ReshapeObservation"),
        *("ResizeObservation", "StickyAction", "TimeAwareObservation", "TimeLimit"),
    )
)


class NotDescribableError(ValueError):
    """An environment that cannot be made from a description."""


def describe(env: VecEnv) -> Description:
    """The description of an environment.

    Raises:
        NotDescribableError: It was not made from registered ids and wrappers that are known here.
    """
    describer = _DESCRIBERS.get(type(env))
    if describer is None:
        raise NotDescribableError(f"it is a {type(env).__name__}")
    return {"kind": type(env).__name__, **describer(env)}


def rebuild(description: Description) -> VecEnv:
    """An environment from its description.

    Raises:
        NotDescribableError: An id is not registered, or the environment has other wrappers now.
    """
    builder = _BUILDERS.get(description["kind"])
    if builder is None:
        raise NotDescribableError(f"{description['kind']} is not known")
    env: VecEnv = builder(description)
    return env


def _describe_normalize(env: VecNormalize) -> Description:
    names = ("training", "norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon", "norm_obs_keys")
    return {"env": describe(env.venv), "arguments": {name: getattr(env, name) for name in names}}


def _describe_stack(env: VecFrameStack) -> Description:
    stacked = env.stacked_obs
    parts = getattr(stacked, "sub_stacked_observations", None)
    order: Any = _order(stacked) if parts is None else {key: _order(part) for key, part in parts.items()}
    return {"env": describe(env.venv), "arguments": {"n_stack": stacked.n_stack, "channels_order": order}}


def _order(stacked: Any) -> str:
    return "first" if stacked.channels_first else "last"


def _describe_monitor(env: VecMonitor) -> Description:
    return {"env": describe(env.venv), "file": _file(env), "info_keywords": tuple(env.info_keywords)}


def _describe_transpose(env: VecTransposeImage) -> Description:
    return {"env": describe(env.venv), "arguments": {"skip": env.skip}}


def _describe_dummy(env: DummyVecEnv) -> Description:
    return {"envs": [_describe_single(single) for single in env.envs]}


def _describe_single(env: gym.Env[Any, Any]) -> Description:
    outer: list[Description] = []  # wrappers that `gym.make` has not put round it, from the outermost
    inner: Any = env
    while isinstance(inner, gym.Wrapper):
        wrappers = _wrappers(inner)
        if type(inner) is Monitor:
            outer.append(_describe_single_monitor(inner))
        elif len(wrappers) > len(_wrappers(inner.env)):
            outer.append(_describe_wrapper(wrappers[-1]))
        else:
            break
        inner = inner.env
    spec = inner.spec
    if spec is None:
        raise NotDescribableError(f"{type(inner.unwrapped).__name__} was not made by `gym.make`")
    if spec.additional_wrappers:
        raise NotDescribableError(f"{spec.id} has a wrapper below those of `gym.make`")
    _check_registered(spec.id)
    return {
        "id": spec.id,
        "arguments": _plain(spec.kwargs, spec.id),
        "max_episode_steps": spec.max_episode_steps,
        "outer": outer,
        "layers": _names(env),
    }


def _wrappers(env: gym.Env[Any, Any]) -> tuple[WrapperSpec, ...]:
    return () if env.spec is None else env.spec.additional_wrappers


def _describe_single_monitor(monitor: Monitor) -> Description:
    return {
        "name": "Monitor",
        "file": _file(monitor),
        "allow_early_resets": monitor.allow_early_resets,
        "reset_keywords": tuple(monitor.reset_keywords),
        "info_keywords": tuple(monitor.info_keywords),
    }


def _describe_wrapper(wrapper: WrapperSpec) -> Description:
    if wrapper.kwargs is None or not _is_of_gymnasium(wrapper):
        raise NotDescribableError(f"the wrapper {wrapper.name} is not one of gymnasium.wrappers")
    _known_wrapper(wrapper.name)
    return {"name": wrapper.name, "arguments": _plain(wrapper.kwargs, wrapper.name)}


def _describe_vector(env: VectorEnvAdapter) -> Description:
    spec = getattr(env.env.unwrapped, "spec", None)
    if not isinstance(spec, EnvSpec) or "vectorization_mode" not in spec.kwargs or env.env is not env.env.unwrapped:
        raise NotDescribableError(f"{type(env.env).__name__} was not made by `make_vec` or `gym.make_vec`")
    arguments = {**spec.kwargs, "num_envs": env.num_envs}
    if "wrappers" in arguments:
        raise NotDescribableError("its `wrappers` are functions")
    vector = {name: getattr(value, "value", value) for name, value in arguments.pop("vector_kwargs", {}).items()}
    _check_registered(spec.id)
    return {
        "id": spec.id,
        "arguments": _plain(arguments, spec.id),
        "vector_kwargs": _plain(vector, spec.id),
        "layers": _names(env.env),
    }


def _plain(arguments: dict[str, Any], name: str) -> dict[str, Any]:
    def is_plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
        if isinstance(value, (list, tuple)):
            return type(value) in (list, tuple) and all(map(is_plain, value))
        return value is None or type(value) in (bool, int, float, str)

    for key, value in arguments.items():
        if not is_plain(value):
            raise NotDescribableError(f"the argument {key!r} of {name} is a {type(value).__name__}")
    return dict(arguments)


def _is_of_gymnasium(wrapper: WrapperSpec) -> bool:
    cls = getattr(gym.wrappers, wrapper.name, None)
    return isinstance(cls, type) and wrapper.entry_point == f"{cls.__module__}:{cls.__name__}"


def _names(env: Any) -> list[str]:
    return [f"{type(layer).__module__}.{type(layer).__qualname__}" for layer in single_layers(env)]


def _file(env: Monitor | VecMonitor) -> str | None:
    return None if env.results_writer is None else str(env.results_writer.file_handler.name)


# Making


def _build_normalize(description: Description) -> VecEnv:
    return VecNormalize(rebuild(description["env"]), **description["arguments"])


def _build_stack(description: Description) -> VecEnv:
    return VecFrameStack(rebuild(description["env"]), **description["arguments"])


def _build_transpose(description: Description) -> VecEnv:
    return VecTransposeImage(rebuild(description["env"]), **description["arguments"])


def _build_monitor(description: Description) -> VecEnv:
    env = VecMonitor(rebuild(description["env"]), None, tuple(description["info_keywords"]))
    env.results_writer = _writer(description["file"], env.info_keywords)
    return env


def _build_dummy(description: Description) -> VecEnv:
    made = [_build_single(single) for single in description["envs"]]
    return DummyVecEnv([lambda env=env: env for env in made])  # type: ignore[misc]


def _build_single(description: Description) -> gym.Env[Any, Any]:
    _check_registered(description["id"])
    limit = description["max_episode_steps"]
    spec = gym.spec(description["id"])
    env: gym.Env[Any, Any] = gym.make(
        description["id"],
        max_episode_steps=None if limit == spec.max_episode_steps else -1 if limit is None else limit,
        disable_env_checker=not any(name.endswith(".PassiveEnvChecker") for name in description["layers"]),
        **description["arguments"],
    )
    for wrapper in reversed(description["outer"]):
        if wrapper["name"] == "Monitor":
            env = _build_single_monitor(env, wrapper)
        else:
            env = getattr(gym.wrappers, _known_wrapper(wrapper["name"]))(env, **wrapper["arguments"])
    _check_layers(env, description)
    return env


def _build_single_monitor(env: gym.Env[Any, Any], description: Description) -> Monitor:
    keywords = tuple(description["reset_keywords"]), tuple(description["info_keywords"])
    monitor = Monitor(env, None, description["allow_early_resets"], *keywords)
    monitor.results_writer = _writer(description["file"], (*keywords[0], *keywords[1]))
    return monitor


def _build_vector(description: Description) -> VecEnv:
    _check_registered(description["id"])
    arguments = dict(description["arguments"])
    mode, n_envs = arguments.pop("vectorization_mode"), arguments.pop("num_envs")
    env = gym.make_vec(description["id"], n_envs, mode, dict(description["vector_kwargs"]), **arguments)
    _check_layers(env, description)
    return VectorEnvAdapter(env)


def _check_registered(env_id: str) -> None:
    find_env(env_id)
    if ":" in env_id or env_id not in gym.registry:
        raise NotDescribableError(f"{env_id!r} is not registered: import the module that registers it")
    if str(gym.registry[env_id].entry_point).startswith("shimmy"):
        raise NotDescribableError(f"{env_id!r} would import what its arguments say")


def _known_wrapper(name: str) -> str:
    if name not in _WRAPPERS:
        raise NotDescribableError(f"a checkpoint cannot ask for the wrapper {name!r}")
    return name


def _check_layers(env: Any, description: Description) -> None:
    if (found := _names(env)) != description["layers"]:
        raise NotDescribableError(f"{description['id']} consists of {found} now, but of {description['layers']} then")


def _writer(path: str | None, keywords: tuple[str, ...]) -> ResultsWriter | None:
    """A file that goes on where it ended."""
    if path is None:
        return None
    try:
        check_monitor_file(path)
    except ForeignFileError as error:
        raise NotDescribableError(str(error)) from error
    return ResultsWriter(path, {}, keywords, override_existing=False)


_DESCRIBERS: dict[type, Any] = {
    VecNormalize: _describe_normalize,
    VecFrameStack: _describe_stack,
    VecMonitor: _describe_monitor,
    VecTransposeImage: _describe_transpose,
    DummyVecEnv: _describe_dummy,
    VectorEnvAdapter: _describe_vector,
}
_BUILDERS: dict[str, Any] = {
    "VecNormalize": _build_normalize,
    "VecFrameStack": _build_stack,
    "VecMonitor": _build_monitor,
    "VecTransposeImage": _build_transpose,
    "DummyVecEnv": _build_dummy,
    "VectorEnvAdapter": _build_vector,
}
