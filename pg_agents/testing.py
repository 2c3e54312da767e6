"""`check_agent`: the conformance test of algorithms, for their own test suites.

from pg_agents.testing import check_agent

def test_mine_behaves_like_an_algorithm_of_sb3():
    check_agent(Mine)
"""

from __future__ import annotations

import csv
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from pg_agents.agent import PolicyGradient
from pg_agents.arguments import constructor_arguments
from pg_agents.objectives import check_weight

__all__ = ["Capabilities", "check_agent"]


@dataclass(frozen=True)
class Capabilities:
    """The parts of SB3's contract that an algorithm keeps, as its class attribute `capabilities` states them.

    Attributes:
        on_policy: Callbacks see the events and local variables of SB3's on-policy loop. By default, whether the class
            derives from `OnPolicyAlgorithm`.
        deterministic: Two runs with one seed are equal.
        actions: Kinds of action spaces that it must support; None for those that its constructor accepts.
    """

    on_policy: bool
    deterministic: bool = True
    actions: tuple[str, ...] | None = None


def capabilities_of(cls: type[BaseAlgorithm]) -> Capabilities:
    """The capabilities that a class states, or else those of its base class."""
    stated: Capabilities = getattr(cls, "capabilities", Capabilities(on_policy=issubclass(cls, OnPolicyAlgorithm)))
    return stated


def check_agent(cls: type[BaseAlgorithm], *, progress: bool | None = None, **kwargs: Any) -> None:
    """Check that an algorithm keeps the contract of Stable-Baselines3, as far as its `Capabilities` go.

    It trains for a few dozen steps on tiny environments: every kind of action space that the algorithm supports, with
    flat, image and Dict observations where it has policies for them, and with one and two environments. It checks what
    `learn` and `predict` return, seeds, files, checkpoints, callbacks, logging and interruption. The `weight` of an
    algorithm's objective is compared with the objective's derivative.

    Args:
        cls: The algorithm.
        progress: Print a line for each of the environments, and at the end how many checks have passed; by default, if
            stdout is a terminal.
        **kwargs: Arguments for its constructor. `n_steps`, `batch_size`, `n_epochs`, `n_episodes`, `group_size`,
            `cg_max_steps` and `n_critic_updates`, where it takes them, are small unless given here.

    Raises:
        AssertionError: It does not keep the contract; the message says what is wrong and what is expected.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ResourceWarning)  # could come from anything that is collected meanwhile
        _require(
            isinstance(cls, type) and issubclass(cls, BaseAlgorithm),
            f"{cls!r} must be a class derived from stable_baselines3.common.base_class.BaseAlgorithm.",
        )
        cases = _supported_cases(cls, kwargs)
        _check_defaults(cases[0])
        shown = sys.stdout.isatty() if progress is None else progress
        passed = 1
        # What hardly depends on the number of environments is checked with the largest that there is.
        whole = {(case.policy, case.action): case for case in cases}
        for number, case in enumerate(cases):
            if shown:
                print(f"{number + 1} of {len(cases)}: {case}", flush=True)
            trained = _check_training(case)
            passed += 1
            if case is whole[case.policy, case.action]:
                untrained = case.agent()
                if isinstance(untrained, PolicyGradient):
                    _check_objective(case, untrained)
                    passed += 1
                _check_predictions(case, untrained)
                _check_files(case, trained)
                passed += 2
        if shown:
            print("Callbacks, log, interruption and files", flush=True)
        for case in cases[:2]:  # with one environment and with two
            for check in _PROTOCOL:
                check(case)
                passed += 1
    _require(not caught, lambda: f"{cls.__name__} must not warn, but warned: {caught[0].message}")
    if shown:
        print(f"{cls.__name__} has passed all {passed} checks, and has not warned.", flush=True)


# What it is checked on

_ACTIONS: dict[str, spaces.Space[Any]] = {
    "Discrete": spaces.Discrete(3),
    "Box": spaces.Box(np.array([-1, 0], np.float32), np.array([1, 2], np.float32)),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(2),
}
_FLAT = spaces.Box(-1, 1, (3,), np.float32)
_OBSERVATIONS: dict[str, spaces.Space[Any]] = {  # by the policy that reads them
    "MlpPolicy": _FLAT,
    "CnnPolicy": spaces.Box(0, 255, (36, 36, 1), np.uint8),
    "MultiInputPolicy": spaces.Dict({"flat": _FLAT, "category": spaces.Discrete(3)}),
}
_PICKLABLE = "Name attributes that cannot be pickled in `_excluded_save_params`, and build them in `_setup_model`."
_SHORT = {"n_steps": 8, "batch_size": 8, "n_epochs": 2, "n_episodes": 1, "group_size": 2}
_SHORT |= {"cg_max_steps": 3, "n_critic_updates": 2}


class _TinyEnv(gym.Env[Any, Any]):
    """Episodes of five steps, every other one cut by a time limit, with random observations."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        # Copies, because each environment draws from its own.
        self.observation_space, self.action_space = deepcopy(observation_space), deepcopy(action_space)
        self.n_steps, self.t = 0, 0
        self.interrupt_at: int | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        _require(
            self.action_space.contains(action),
            lambda: (
                f"Environments must be given actions in their action space {self.action_space}, but got {action!r}."
            ),
        )
        self.n_steps += 1
        if self.n_steps == self.interrupt_at:
            raise KeyboardInterrupt
        self.t += 1
        over, time_limit = self.t == 5, self.n_steps % 10 == 0
        return self.observation_space.sample(), float(np.sum(action)), over and not time_limit, over and time_limit, {}


@dataclass(frozen=True)
class _Case:
    """One algorithm on one kind of environment."""

    cls: type[BaseAlgorithm]
    policy: str
    action: str
    n_envs: int
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.cls.__name__} ({self.policy}, {self.action} actions, n_envs={self.n_envs})"

    def env(self, n_envs: int | None = None) -> DummyVecEnv:
        def make() -> gym.Env[Any, Any]:
            return Monitor(_TinyEnv(_OBSERVATIONS[self.policy], _ACTIONS[self.action]))

        return DummyVecEnv([make] * (n_envs or self.n_envs))

    def agent(self, env: DummyVecEnv | None = None, **kwargs: Any) -> BaseAlgorithm:
        arguments: dict[str, Any] = {"seed": 0, "device": "cpu", **self.kwargs, **kwargs}
        return self.cls(self.policy, self.env() if env is None else env, **arguments)

    def load(self, path: Path, env: DummyVecEnv | None = None) -> BaseAlgorithm:
        return self.cls.load(path, env=env, device="cpu")

    def observations(self) -> Any:
        """Observations of five environments, always the same."""
        env = self.env(5)
        env.seed(7)
        return env.reset()


def _supported_cases(cls: type[BaseAlgorithm], kwargs: dict[str, Any]) -> list[_Case]:
    # An off-policy algorithm means another thing by `n_steps`.
    short = _SHORT if capabilities_of(cls).on_policy else {"batch_size": _SHORT["batch_size"]}
    arguments = {name: value for name, value in short.items() if name in constructor_arguments(cls)} | kwargs
    cases = [
        _Case(cls, policy, action, n_envs, arguments)
        for policy in _OBSERVATIONS
        if policy in cls.policy_aliases
        for action in _ACTIONS
        for n_envs in (1, 2)
    ]
    supported = [case for case in cases if _supports_actions(case)]
    promised = capabilities_of(cls).actions or ()
    refused = set(promised) - {case.action for case in supported}
    _require(not refused, f"{cls.__name__} states that it supports {sorted(refused)} actions, but refuses them.")
    _require(
        supported,
        f"{cls.__name__} must have one of the policies {', '.join(_OBSERVATIONS)} in `policy_aliases` and support one "
        f"of the action spaces {', '.join(_ACTIONS)}.",
    )
    return supported


def _supports_actions(case: _Case) -> bool:
    try:
        case.agent()
    except AssertionError as error:
        if "only supports" in str(error):  # SB3's words
            return False
        raise
    except Exception as error:
        raise AssertionError(
            f"{case} must take the arguments that are common to all algorithms, seed and device among them. Instead: "
            f"{type(error).__name__}: {error}"
        ) from error
    return True


# What is checked everywhere


def _check_defaults(case: _Case) -> None:
    name = case.cls.__name__
    with _explained(f"{name}(policy, env) must do: every other argument needs a default."):
        case.cls(case.policy, case.env())  # type: ignore[call-arg] # that is the question


def _check_objective(case: _Case, agent: PolicyGradient) -> None:
    objective = agent.objective()
    if objective.weight is not None:
        with _explained(f"The objective's `weight` of {case} must be the derivative of its value by log π."):
            check_weight(objective)


def _check_training(case: _Case) -> BaseAlgorithm:
    env = case.env()
    agent = case.agent(env)
    before = _weights(agent)
    with _explained(f"`learn(12)` of {case} must train."):
        returned = agent.learn(12)
    _require(returned is agent, lambda: f"`learn` of {case} must return the agent itself, but returned {returned!r}.")
    taken = sum(tiny.n_steps for tiny in _tiny(env))
    _require(taken >= 12, f"`learn(12)` of {case} must take at least 12 steps, but took {taken}.")
    _require(
        agent.num_timesteps == taken,
        f"`num_timesteps` of {case} must count the steps of all environments, which took {taken}, but is "
        f"{agent.num_timesteps}.",
    )
    after = _weights(agent)
    _require(not _equal(before, after), f"Training must change the policy's parameters, but {case} left all of them.")
    _require(
        all(bool(th.isfinite(value).all()) for value in after.values()),
        f"Parameters must stay finite, but those of {case} did not.",
    )
    return agent


def _check_predictions(case: _Case, agent: BaseAlgorithm) -> None:
    space, observations = _ACTIONS[case.action], case.observations()
    one = {key: value[0] for key, value in observations.items()} if isinstance(observations, dict) else observations[0]
    for deterministic in (True, False):
        actions, _ = agent.predict(observations, deterministic=deterministic)
        shape = (5, *(space.shape or ()))
        _require(
            actions.shape == shape,
            f"`predict` of {case} must give actions of shape {shape} for five observations, but gave {actions.shape}.",
        )
        for action in (*actions, agent.predict(one, deterministic=deterministic)[0]):
            _require(
                space.contains(action),
                f"`predict` of {case} must give actions in {space}, but gave {action!r}.",
            )
        _require(
            actions.dtype == space.dtype or isinstance(space, spaces.MultiBinary),  # SB3's own are float32 there
            f"`predict` of {case} must give actions of the space's dtype {space.dtype}, but gave {actions.dtype}.",
        )
    _require(
        np.array_equal(_predictions(agent, case), _predictions(agent, case)),
        f"`predict(deterministic=True)` of {case} must answer the same observation with the same action each time.",
    )


def _check_files(case: _Case, agent: BaseAlgorithm) -> None:
    with TemporaryDirectory() as folder, _explained(f"{case} must be saved and loaded. {_PICKLABLE}"):
        agent.save(Path(folder, "agent"))
        loaded, elsewhere = case.load(Path(folder, "agent")), case.load(Path(folder, "agent"), case.env(3))
    _require(
        _equal(_weights(loaded), _weights(agent))
        and np.array_equal(_predictions(loaded, case), _predictions(agent, case)),
        f"A file must hold all of the policy, but {case} has other parameters or predictions after save and load.",
    )
    _require(
        _equal(_optimizers(loaded), _optimizers(agent)),
        f"A file must hold the optimiser's state too, but that of {case} is another after save and load; see "
        "`_get_torch_save_params`.",
    )
    with _explained(
        f"A file of {case} must load with three environments and train on: allocate by `n_envs` in `_setup_model`, not "
        "in `__init__`."
    ):
        elsewhere.learn(12, reset_num_timesteps=False)
        _require(elsewhere.n_envs == 3, f"`n_envs` is {elsewhere.n_envs}.")


# What is checked on the plainest environments


def _check_seeds(case: _Case) -> None:
    first, again, other = (_weights(case.agent(seed=seed).learn(24)) for seed in (1, 1, 2))
    _require(
        _equal(first, again) or not capabilities_of(case.cls).deterministic,
        f"Two runs of {case} with one seed must have the same parameters, but theirs differ.",
    )
    _require(
        not _equal(first, other), f"Runs of {case} with different seeds must differ, but have the same parameters."
    )


def _check_checkpoints(case: _Case) -> None:
    with TemporaryDirectory() as folder:
        with _explained(f"{case} must be saved at any moment, also in the middle of a rollout. {_PICKLABLE}"):
            case.agent().learn(24, callback=CheckpointCallback(3, folder))
        with _explained(f"What {case} saves in the middle of a rollout must load and train on."):
            for path in Path(folder).glob("*.zip"):
                case.load(path, case.env()).learn(12, reset_num_timesteps=False)


def _check_callbacks(case: _Case) -> None:
    watch = _Watch()
    agent = case.agent().learn(24, callback=watch)
    updates = watch.events.count("rollout_start")
    steps = watch.events.count("step")
    _require(
        steps * case.n_envs == agent.num_timesteps,
        f"Callbacks of {case} must be called once for each step of the VecEnv, that is "
        f"{agent.num_timesteps // case.n_envs} times, but were called {steps} times.",
    )
    _require(
        watch.num_timesteps_seen == [case.n_envs * (step + 1) for step in range(steps)],
        f"`num_timesteps` of {case} must have grown by n_envs before each `on_step`, but callbacks saw "
        f"{watch.num_timesteps_seen}.",
    )
    order = [event for event, previous in zip(watch.events, [None, *watch.events], strict=False) if event != previous]
    expected = ["training_start", *updates * ["rollout_start", "step", "rollout_end"], "training_end"]
    names = {"new_obs", "rewards", "dones", "infos", "actions"}
    if capabilities_of(case.cls).on_policy:
        _require(order == expected, f"Callbacks of {case} must see the events {expected}, but saw {order}.")
        names |= {"values", "log_probs"}
    missing = names - watch.names_seen
    _require(not missing, f"Callbacks of {case} must see SB3's local variables, but {sorted(missing)} are missing.")
    _require(
        "total_timesteps" in watch.names_at_start,
        f"Callbacks of {case} must see `total_timesteps` in their local variables when training starts, but do not.",
    )


def _check_stopping(case: _Case) -> None:
    for answer in (False, np.bool_(False)):
        env, watch = case.env(), _Watch(stop_after=3, answer=answer)
        agent = case.agent(env)
        before = _weights(agent)
        agent.learn(100, callback=watch)
        taken = _tiny(env)[0].n_steps
        _require(
            taken == 3,
            f"{case} must stop at once when a callback returns {answer!r}, here in its third step, but took {taken} "
            "steps of the VecEnv.",
        )
        _require(
            _equal(before, _weights(agent)) or not capabilities_of(case.cls).on_policy,
            f"{case} must not train on a rollout that a callback has stopped, but its parameters have changed.",
        )
        _require(
            watch.events[-1] == "training_end",
            f"Callbacks of {case} must see `on_training_end` after one has stopped it, but saw {watch.events}.",
        )


def _check_continuing(case: _Case) -> None:
    agent = case.agent().learn(12)
    steps = agent.num_timesteps
    agent.learn(12, reset_num_timesteps=False)
    _require(
        agent.num_timesteps >= steps + 12,
        f"`learn(12, reset_num_timesteps=False)` of {case} must go on from {steps} steps to at least {steps + 12}, but "
        f"ended at {agent.num_timesteps}.",
    )
    agent.learn(12)
    _require(
        12 <= agent.num_timesteps <= steps + 11,
        f"`learn(12)` of {case} must count from 0 again, but ended at {agent.num_timesteps} steps.",
    )


def _check_set_env(case: _Case) -> None:
    old, new = case.env(), case.env()
    agent = case.agent(old).learn(12)
    before = _tiny(old)[0].n_steps
    agent.set_env(new)
    agent.learn(12, reset_num_timesteps=False)
    _require(
        _tiny(old)[0].n_steps == before and _tiny(new)[0].n_steps > 0,
        f"{case} must train in the environment that `set_env` has set, but went on in the old one.",
    )


def _check_parameters(case: _Case) -> None:
    agent, other = case.agent().learn(12), case.agent(seed=1)
    other.set_parameters(agent.get_parameters())  # type: ignore[arg-type]
    _require(
        _equal(_weights(other), _weights(agent)),
        f"`set_parameters(other.get_parameters())` of {case} must copy all parameters, but some differ afterwards.",
    )


def _check_logging(case: _Case) -> None:
    expected = {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps"}
    with TemporaryDirectory() as folder:
        case.agent(tensorboard_log=folder).learn(24, log_interval=1)
        runs = [path for path in Path(folder).iterdir() if path.is_dir()]
        _require(
            len(runs) == 1, f"{case} must write one TensorBoard run into `tensorboard_log`, but wrote {len(runs)}."
        )
        events = EventAccumulator(str(runs[0]))
        events.Reload()
        tags = set(events.Tags()["scalars"])

        agent = case.agent()
        agent.set_logger(configure(folder, ["csv"]))
        agent.learn(24, log_interval=1)
        agent.logger.close()
        with open(Path(folder, "progress.csv")) as file:
            rows = list(csv.DictReader(file))
    for where, keys in (("TensorBoard", tags), ("the CSV file", set(rows[0]) if rows else set())):
        missing = expected - keys
        _require(not missing, f"{case} must log {sorted(missing)} to {where}; it logged {sorted(keys)}.")
        _require(
            any(key.startswith("train/") for key in keys),
            f"{case} must log its training under `train/` to {where}; it logged {sorted(keys)}.",
        )


def _check_modes(case: _Case) -> None:
    collecting: set[bool] = set()
    training: set[bool] = set()
    in_train = False

    def note(module: th.nn.Module, _: Any) -> None:
        if th.is_grad_enabled():
            training.add(module.training)
        elif not in_train:  # an update may evaluate its result without gradients
            collecting.add(module.training)

    def train(*args: Any, **kwargs: Any) -> None:
        nonlocal in_train
        in_train = True
        original(*args, **kwargs)
        in_train = False

    agent = case.agent()
    original: Callable[..., None] = getattr(agent, "train", lambda: None)
    agent.train = train  # type: ignore[attr-defined]
    for module in agent.policy.modules():
        module.register_forward_pre_hook(note)
    agent.learn(12)
    _require(
        collecting <= {False},
        f"{case} must collect in evaluation mode, `policy.set_training_mode(False)`, but some module was in training "
        "mode: dropout and batch normalisation would act there.",
    )
    _require(
        training <= {True},
        f"{case} must train in training mode, `policy.set_training_mode(True)`, but some module was not.",
    )


def _check_interruption(case: _Case) -> None:
    env = case.env()
    agent = case.agent(env)
    _tiny(env)[0].interrupt_at = 13
    try:
        agent.learn(100)
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError(f"`learn` of {case} must let KeyboardInterrupt through, but returned.")
    with (
        TemporaryDirectory() as folder,
        _explained(f"Ctrl-C must leave a model of {case} that can be saved, loaded and trained on."),
    ):
        agent.save(Path(folder, "agent"))
        case.load(Path(folder, "agent"), case.env()).learn(12, reset_num_timesteps=False)
        agent.learn(12, reset_num_timesteps=False)


_PROTOCOL: tuple[Callable[[_Case], None], ...] = (
    _check_seeds,
    _check_checkpoints,
    _check_callbacks,
    _check_stopping,
    _check_continuing,
    _check_set_env,
    _check_parameters,
    _check_logging,
    _check_modes,
    _check_interruption,
)


# What checks use


class _Watch(BaseCallback):
    """Records the calls of callbacks; returns `answer` at the step `stop_after`."""

    def __init__(self, stop_after: int | None = None, answer: Any = False) -> None:
        super().__init__()
        self.stop_after, self.answer = stop_after, answer
        self.events: list[str] = []
        self.num_timesteps_seen: list[int] = []
        self.names_at_start: set[str] = set()
        self.names_seen: set[str] = set()

    def _on_training_start(self) -> None:
        self.events.append("training_start")
        self.names_at_start = set(self.locals)

    def _on_rollout_start(self) -> None:
        self.events.append("rollout_start")

    def _on_step(self) -> bool:
        self.events.append("step")
        self.num_timesteps_seen.append(self.model.num_timesteps)
        self.names_seen = set(self.locals)
        return self.answer if self.n_calls == self.stop_after else True

    def _on_rollout_end(self) -> None:
        self.events.append("rollout_end")

    def _on_training_end(self) -> None:
        self.events.append("training_end")


def _require(condition: Any, message: str | Callable[[], str]) -> None:
    # Not `assert`, which `python -O` leaves out.
    if not condition:
        raise AssertionError(message if isinstance(message, str) else message())


@contextmanager
def _explained(expected: str) -> Iterator[None]:
    """Turn any error into an AssertionError that states the expectation."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{expected} Instead: {type(error).__name__}: {error}") from error


def _tiny(env: DummyVecEnv) -> list[Any]:
    return [each.unwrapped for each in env.envs]


def _weights(agent: BaseAlgorithm) -> dict[str, th.Tensor]:
    return {name: value.clone() for name, value in agent.policy.state_dict().items()}


def _optimizers(agent: BaseAlgorithm) -> dict[str, Any]:
    """States of all optimisers that the agent or its policy has."""
    held = {**vars(agent), **vars(agent.policy)}
    return {name: value.state_dict() for name, value in held.items() if isinstance(value, th.optim.Optimizer)}


def _predictions(agent: BaseAlgorithm, case: _Case) -> Any:
    return agent.predict(case.observations(), deterministic=True)[0]


def _equal(one: Any, other: Any) -> bool:
    """Whether two nested dictionaries and lists of tensors are equal to the last bit."""
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    return th.equal(one, other) if isinstance(one, th.Tensor) else bool(one == other)
