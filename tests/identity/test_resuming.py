"""A training that is interrupted and resumed equals one that is not, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from checkpoints import altered
from gymnasium import spaces
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize

from pg_agents import (
    A2C,
    GRPO,
    NPG,
    PPO,
    REINFORCE,
    RLOO,
    TRPO,
    ActorCritic,
    Checkpoint,
    EvalCallback,
    PolicyGradient,
    ReinforceBaseline,
    make_vec,
)
from pg_agents.resuming import agents
from pg_agents.resuming.environments import keeper_of
from pg_agents.resuming.state import NotFittingError, NotStorableError, capture

SMALL = {"net_arch": [4]}


class KilledError(Exception):
    """Stands for the end of a process."""


class Kill(BaseCallback):
    """Ends a training in the middle of a rollout."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def next_look(self) -> int:
        return max(1, -(-(self.at - self.model.num_timesteps) // self.model.n_envs))

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.at:
            raise KilledError
        return True


class Rows(KVWriter):
    """What was logged, but for times."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        kept = {name: value for name, value in key_values.items() if name not in ("time/fps", "time/time_elapsed")}
        self.rows.append({"step": step, **kept})

    def close(self) -> None:
        pass


def logged(agent: PolicyGradient) -> Rows:
    rows = Rows()
    agent.set_logger(Logger(None, [rows]))
    return rows


def everything(agent: PolicyGradient) -> Any:
    """Whatever a training leaves, but for times."""
    state = agents.state_of(agent)
    del state["elapsed"]
    for episode in agent.ep_info_buffer:
        episode["t"] = 0.0
    state["attributes"]["ep_info_buffer"] = [dict(episode) for episode in agent.ep_info_buffer]
    state["attributes"].pop("_num_timesteps_at_start")
    state["attributes"].pop("_custom_logger", None)
    return state


# Times; what is made when it is needed; generators of spaces, which draw nothing and which no seed determines.
UNDETERMINED = {"episode_times", "t_start", "_t_start", "_cached_spec"}
UNDETERMINED |= {"observation_space", "single_observation_space", "action_space", "single_action_space"}


def assert_equal(one: Any, other: Any, place: str = "") -> None:
    assert type(one) is type(other), (place, one, other)
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            if key not in UNDETERMINED:
                assert_equal(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), place
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{place}[{i}]")
    elif isinstance(one, (np.ndarray, th.Tensor)):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other), err_msg=place)
    else:
        assert one == other or one != one, (place, one, other)


def seed_globally(seed: int) -> None:
    th.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - SB3 draws from this generator


def scramble() -> None:
    """Another process would have other global generators."""
    random.seed(9)
    seed_globally(9)


def compare(
    make: Callable[[], PolicyGradient],
    folder: Path,
    *,
    total: int,
    every: int,
    kill_at: int,
    callbacks: Callable[[], list[BaseCallback]] = list,
    cuts: bool = False,
    **resume: Any,
) -> PolicyGradient:
    """Train in one go, and with an interruption; both end equal. The undisturbed one has checkpoints if these cut."""
    whole = make()
    rows = logged(whole)
    own = [Checkpoint(folder / "whole", every)] if cuts else []
    whole.learn(total, callback=[*callbacks(), *own, Kill(10**9)], log_interval=1)

    interrupted = make()
    first_rows = logged(interrupted)
    with pytest.raises(KilledError):
        interrupted.learn(
            total, callback=[*callbacks(), Checkpoint(folder / "run", every), Kill(kill_at)], log_interval=1
        )
    interrupted.env.close()
    scramble()

    given = {name: value() if name == "env" else value for name, value in resume.items()}
    resumed = type(interrupted).resume(folder / "run", **given)
    assert 0 < resumed.num_timesteps < kill_at
    n_before = sum(row["step"] <= resumed.num_timesteps for row in first_rows.rows)
    last_rows = logged(resumed)
    scramble()
    resumed.learn_on(callback=[*callbacks(), Kill(10**9)])
    assert_equal(everything(resumed), everything(whole))
    if not cuts:
        assert_equal(capture(resumed.env), capture(whole.env))
    assert_equal(first_rows.rows[:n_before] + last_rows.rows, rows.rows)
    whole.env.close(), resumed.env.close()
    return resumed


def cartpole(n_envs: int = 2, **kwargs: Any) -> Any:
    return make_vec_env("CartPole-v1", n_envs, seed=5, **kwargs)


ALGORITHMS: dict[str, Callable[[Any, str], PolicyGradient]] = {
    "ppo": lambda env, engine: PPO(
        "MlpPolicy", env, n_steps=16, batch_size=16, n_epochs=2, seed=0, policy_kwargs=SMALL, engine=engine
    ),
    "a2c": lambda env, engine: A2C("MlpPolicy", env, seed=0, n_steps=8, policy_kwargs=SMALL, engine=engine),
    "reinforce": lambda env, engine: REINFORCE("MlpPolicy", env, seed=0, policy_kwargs=SMALL, engine=engine),
    "baseline": lambda env, engine: ReinforceBaseline(
        "MlpPolicy", env, seed=0, n_episodes=1, value_learning_rate=0.01, policy_kwargs=SMALL, engine=engine
    ),
    "actor_critic": lambda env, engine: ActorCritic("MlpPolicy", env, seed=0, policy_kwargs=SMALL, engine=engine),
    "npg": lambda env, engine: NPG(
        "MlpPolicy", env, n_steps=16, batch_size=16, seed=0, policy_kwargs=SMALL, engine=engine
    ),
    "trpo": lambda env, engine: TRPO(
        "MlpPolicy", env, n_steps=16, batch_size=16, seed=0, policy_kwargs=SMALL, engine=engine
    ),
    "grpo": lambda env, engine: GRPO(
        "MlpPolicy", env, group_size=2, kl_coef=0.1, seed=0, policy_kwargs=SMALL, engine=engine
    ),
    "rloo": lambda env, engine: RLOO("MlpPolicy", env, group_size=2, seed=0, policy_kwargs=SMALL, engine=engine),
}


ENVIRONMENTS: dict[str, Callable[[Path], Any]] = {
    "sync, same step": lambda folder: make_vec("CartPole-v1", 3, seed=5, vectorization_mode="sync"),
    "sync, next step": lambda folder: gym.make_vec("CartPole-v1", 3, "sync"),
    "native": lambda folder: make_vec("CartPole-v1", 3, seed=5),
    "world": lambda folder: make_vec("CartPole-v1", 3, seed=5, world=True),
    "normalised world": lambda folder: VecNormalize(make_vec("CartPole-v1", 3, seed=5, world=True)),
    "normalised": lambda folder: VecNormalize(cartpole(), gamma=0.9),
    "stacked": lambda folder: VecFrameStack(cartpole(), 3),
    "monitored": lambda folder: VecMonitor(make_vec_env("CartPole-v1", 2, seed=5)),
    "wrapped": lambda folder: cartpole(wrapper_class=gym.wrappers.NormalizeObservation),
    "stacked and normalised": lambda folder: VecFrameStack(VecNormalize(cartpole()), 2),
    "an id": lambda folder: "CartPole-v1",
    "frozen lake": lambda folder: make_vec_env("FrozenLake-v1", 2, seed=5),
    "lake": lambda folder: make_vec_env("FrozenLake-v1", 2, seed=5, env_kwargs={"is_slippery": True}),
}


@pytest.mark.filterwarnings("ignore:The environment is already wrapped with a `Monitor`")
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_kind_of_environment_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    def make() -> PolicyGradient:
        return PPO(
            "MlpPolicy",
            ENVIRONMENTS[name](tmp_path),
            n_steps=16,
            batch_size=16,
            n_epochs=1,
            seed=0,
            policy_kwargs=SMALL,
        )

    compare(make, tmp_path, total=400, every=100, kill_at=290)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("engine", ["autograd", "mlp"])
def test_every_algorithm_on_both_engines_goes_on_bit_for_bit(name: str, engine: str, tmp_path: Path) -> None:
    compare(lambda: ALGORITHMS[name](cartpole(), engine), tmp_path, total=400, every=100, kill_at=290)


def small_ppo(env: Any, **arguments: Any) -> PPO:
    policy_kwargs = arguments.pop("policy_kwargs", SMALL)
    arguments = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "seed": 0, **arguments}
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    return PPO(policy, env, policy_kwargs=policy_kwargs, **arguments)


VARIANTS: dict[str, Callable[[], PolicyGradient]] = {
    "gsde": lambda: small_ppo(make_vec_env("Pendulum-v1", 2, seed=5), use_sde=True),
    "gsde, often": lambda: small_ppo(make_vec_env("Pendulum-v1", 2, seed=5), use_sde=True, sde_sample_freq=4),
    "gsde in worlds": lambda: small_ppo(
        make_vec("Pendulum-v1", 2, seed=5, world=True), use_sde=True, sde_sample_freq=4
    ),
    "schedules": lambda: small_ppo(
        cartpole(),
        learning_rate=LinearSchedule(0.01, 0.0, 1.0),
        clip_range=LinearSchedule(0.3, 0.1, 0.5),
        ent_coef=0.01,
    ),
    "adaptive penalty": lambda: small_ppo(cartpole(), kl_target=0.001),
    "no seed": lambda: small_ppo(cartpole(), seed=None),
    "activation": lambda: small_ppo(
        cartpole(), policy_kwargs={"net_arch": {"pi": [4], "vf": [3]}, "activation_fn": th.nn.ReLU}
    ),
    "deviation": lambda: small_ppo(
        make_vec_env("Pendulum-v1", 2, seed=5), policy_kwargs={"net_arch": [4], "state_dependent_std": True}
    ),
    "baseline": lambda: REINFORCE("MlpPolicy", cartpole(), seed=0, n_episodes=1, baseline="time", policy_kwargs=SMALL),
    "near a prior": lambda: small_ppo(cartpole(), prior=small_ppo(cartpole(), seed=7)),
    "groups in worlds": lambda: GRPO(
        "MlpPolicy", make_vec("CartPole-v1", 2, world=True), group_size=2, seed=0, policy_kwargs=SMALL
    ),
    "rms prop": lambda: A2C(
        "MlpPolicy", cartpole(), seed=0, use_rms_prop=False, rms_prop_eps=1e-4, policy_kwargs=SMALL
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    def make() -> PolicyGradient:
        seed_globally(3)
        return VARIANTS[name]()

    again = {"prior": small_ppo(cartpole())} if "prior" in name else {}
    compare(make, tmp_path, total=300, every=50, kill_at=230, **again)


# Environments that cannot be made again from an id


class Counting(gym.Env[Any, Any]):
    """Counts, and draws from a generator of its own."""

    observation_space = spaces.Dict({"count": spaces.Box(-10, 10, (2,)), "kind": spaces.Discrete(3)})
    action_space = spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.n = int(self.np_random.integers(5))
        return self._observation(), {}

    def _observation(self) -> dict[str, Any]:
        return {"count": self.np_random.normal(size=2).clip(-10, 10).astype(np.float32), "kind": self.n % 3}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.n += 1 + int(action[0])
        return self._observation(), float(action[1] == self.n % 3), self.n > 20, False, {}


class Hidden(Counting):
    """As `Counting`, with a state that lies outside Python's sight until a reset."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        answer = super().reset(seed=seed)
        self.steps = iter(range(int(self.np_random.integers(3)), 10**9))
        return answer

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, *rest = super().step(action)
        return observation, float(action[1] == next(self.steps) % 3), *rest


OUTSIDE: dict[int, int] = {}


class Deceiving(Counting):
    """As `Counting`, with a state that a capture does not find."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        answer = super().reset(seed=seed)
        OUTSIDE[id(self)] = int(self.np_random.integers(3))
        return answer

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, *rest = super().step(action)
        OUTSIDE[id(self)] += 1
        return {**observation, "kind": OUTSIDE[id(self)] % 3}, float(action[1]), *rest


class Pictures(gym.Env[Any, Any]):
    """Draws its own number of steps."""

    observation_space = spaces.Box(0, 255, (36, 36, 1), dtype=np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.picture = self.np_random.integers(255, size=(36, 36, 1), dtype=np.uint8)
        return self.picture, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.picture = np.roll(self.picture, int(action) + 1)
        return self.picture, float(self.picture[0, 0, 0] > 100), bool(self.np_random.random() < 0.1), False, {}


def vec(cls: type[gym.Env[Any, Any]], n_envs: int = 2, **kwargs: Any) -> Any:
    return make_vec_env(cls, n_envs, seed=5, **kwargs)


def test_an_environment_of_ones_own_goes_on_where_it_is_given_again(tmp_path: Path) -> None:
    compare(lambda: small_ppo(vec(Counting)), tmp_path, total=300, every=50, kill_at=230, env=lambda: vec(Counting))


def test_convolutions_round_alike_after_a_resumption(tmp_path: Path) -> None:
    def make() -> PPO:
        return PPO("CnnPolicy", vec(Pictures), n_steps=8, batch_size=16, n_epochs=1, seed=0)

    compare(make, tmp_path, total=64, every=16, kill_at=50, env=lambda: vec(Pictures))


@pytest.mark.filterwarnings("ignore:.*checkpoints cut episodes")
@pytest.mark.parametrize(
    "env",
    [
        lambda: vec(Hidden),
        lambda: vec(Deceiving),
        lambda: make_vec("CartPole-v1", 2, seed=5, vectorization_mode="async"),
        lambda: VecNormalize(vec(Hidden), norm_obs_keys=["count"]),
        lambda: vec(Hidden, wrapper_class=gym.wrappers.NormalizeReward),
    ],
)
def test_where_the_state_is_hidden_checkpoints_cut_episodes_and_runs_remain_equal(env: Any, tmp_path: Path) -> None:
    compare(lambda: small_ppo(env()), tmp_path, total=300, every=50, kill_at=230, cuts=True, env=env)


@pytest.mark.filterwarnings("ignore:.*checkpoints cut episodes")
def test_environments_in_other_processes_are_cut(tmp_path: Path) -> None:
    def env() -> Any:
        return make_vec_env(
            "CartPole-v1", 2, seed=5, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": "fork"}
        )

    compare(lambda: small_ppo(env()), tmp_path, total=200, every=50, kill_at=130, cuts=True, env=env)


@pytest.mark.filterwarnings("ignore:.*checkpoints cut episodes")
@pytest.mark.parametrize(("env_id", "module"), [("LunarLander-v3", "Box2D"), ("InvertedPendulum-v5", "mujoco")])
def test_simulators_are_cut(env_id: str, module: str, tmp_path: Path) -> None:
    pytest.importorskip(module)
    compare(lambda: small_ppo(make_vec_env(env_id, 2, seed=5)), tmp_path, total=200, every=50, kill_at=130, cuts=True)


class Simple(gym.Env[Any, Any]):
    """Counts to 20."""

    observation_space = spaces.Box(-10, 10, (2,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._observation(), {}

    def _observation(self) -> np.ndarray:
        return np.array([self.t / 10, self._extra()], dtype=np.float32)

    def _extra(self) -> float:
        return 0.0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self._observation(), 1.0, self.t >= 20, False, {}


class Enemy:
    def __init__(self, x: float) -> None:
        self.x = x


class Appending(Simple):
    """An object comes in the middle of an episode; of a class of this module, or of one that nobody finds."""

    def __init__(self, cls: type = Enemy) -> None:
        self.cls = cls
        self.enemies: list[Any] = []

    def _extra(self) -> float:
        if self.t == 0:
            self.enemies = []
        if self.t == 13:
            self.enemies.append(self.cls(0.5))
        return float(sum(enemy.x for enemy in self.enemies))


class Speed:
    def __init__(self, speed: float) -> None:
        self.speed = speed


SPEEDS = [Speed(1.0), Speed(2.0)]


class Choosing(Simple):
    """Holds one of two objects that others hold, too."""

    def _extra(self) -> float:
        self.at = SPEEDS[self.t // 4 % 2]
        return self.at.speed


class Strict(Simple):
    """Refuses actions that only an agent that knows better never takes."""

    def __init__(self) -> None:
        self.strict = False

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.strict and action == 0:
            raise ValueError("illegal")
        return super().step(action)


def test_objects_that_come_in_the_middle_of_episodes_go_on(tmp_path: Path) -> None:
    compare(lambda: small_ppo(vec(Appending)), tmp_path, total=300, every=30, kill_at=290, env=lambda: vec(Appending))


def test_objects_that_nobody_could_make_again_are_noticed_when_they_come(tmp_path: Path) -> None:
    class Local:
        def __init__(self, x: float) -> None:
            self.x = x

    def env() -> Any:
        return vec(Appending, env_kwargs={"cls": Local})

    checkpoint = Checkpoint(tmp_path, 30)
    with pytest.warns(UserWarning, match=r"enemies\[0\] is a .*Local, and was none after a reset"):
        small_ppo(env()).learn(100, callback=checkpoint)
    PPO.resume(tmp_path, env=env())


@pytest.mark.filterwarnings("ignore:.*checkpoints cut episodes")
def test_objects_that_others_hold_stay_as_they_are(tmp_path: Path) -> None:
    compare(
        lambda: small_ppo(vec(Choosing)),
        tmp_path,
        total=300,
        every=50,
        kill_at=230,
        cuts=True,
        env=lambda: vec(Choosing),
    )
    assert [one.speed for one in SPEEDS] == [1.0, 2.0]


def test_a_trial_that_raises_ends_in_cut_episodes_and_leaves_the_environment() -> None:
    env = vec(Strict)
    env.reset(), env.step(np.ones(2, dtype=np.int64))
    for one in env.envs:
        one.unwrapped.strict = True
    before = capture(env)
    keeper = keeper_of(env, {})
    assert keeper.reason is not None
    assert "ValueError: illegal" in keeper.reason
    assert_equal(capture(env), before)


def test_an_interrupt_in_a_trial_leaves_the_environment() -> None:
    class Interrupting(Simple):
        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            if self.t == 3:
                raise KeyboardInterrupt
            return super().step(action)

    env = vec(Interrupting)
    env.reset()
    with pytest.raises(KeyboardInterrupt):
        keeper_of(env, {})
    assert [one.unwrapped.t for one in env.envs] == [0, 0]


def test_an_evaluation_environment_without_a_seed_is_stored() -> None:
    assert keeper_of(make_vec_env("CartPole-v1", 1), {}, begins=True).reason is None


@pytest.mark.filterwarnings("ignore:.*checkpoints cut episodes")
def test_a_monitor_that_refuses_early_resets_is_cut(tmp_path: Path) -> None:
    env = DummyVecEnv([lambda: Monitor(Deceiving(), allow_early_resets=False)])
    small_ppo(env).learn(64, callback=Checkpoint(tmp_path, 20))


def test_frozen_parameters_stay_frozen(tmp_path: Path) -> None:
    def make() -> PPO:
        agent = small_ppo(cartpole())
        agent.policy.mlp_extractor.policy_net[0].weight.requires_grad_(False)
        return agent

    resumed = compare(make, tmp_path, total=200, every=50, kill_at=130)
    assert not resumed.policy.mlp_extractor.policy_net[0].weight.requires_grad


def test_a_warning_says_that_episodes_are_cut_and_how_often(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"Hidden.*cannot be stored.*every 50 steps, all environments are reset"):
        small_ppo(vec(Hidden)).learn(32, callback=Checkpoint(tmp_path, 50))


def test_an_exact_checkpoint_cuts_nothing_but_refuses(tmp_path: Path) -> None:
    with pytest.raises(NotStorableError):
        small_ppo(vec(Hidden)).learn(100, callback=Checkpoint(tmp_path, 50, exact=True))
    assert not list(tmp_path.iterdir())


def test_cut_episodes_start_anew_and_the_agent_knows(tmp_path: Path) -> None:
    starts = []

    class Look(BaseCallback):
        def _on_rollout_start(self) -> None:
            starts.append(self.model._last_episode_starts.copy())

        def _on_step(self) -> bool:
            return True

    with pytest.warns(UserWarning, match="cut episodes"):
        small_ppo(vec(Hidden, 4), n_steps=4).learn(128, callback=[Checkpoint(tmp_path, 64), Look()])
    assert [bool(one.all()) for one in starts] == [True, False, False, False, True, False, False, False]


# Callbacks


def evaluation(folder: Path, env: Any) -> list[BaseCallback]:
    stop = StopTrainingOnNoModelImprovement(max_no_improvement_evals=100, min_evals=1)
    return [
        EvalCallback(
            env,
            n_eval_episodes=2,
            eval_freq=60,
            callback_after_eval=stop,
            log_path=str(folder),
            best_model_save_path=str(folder),
            verbose=0,
        ),
        CallbackList([EveryNTimesteps(70, StopTrainingOnMaxEpisodes(10**6)), StopTrainingOnMaxEpisodes(10**6)]),
    ]


@pytest.mark.filterwarnings("ignore:Training and eval env are not of the same type")
@pytest.mark.parametrize("world", [False, True])
def test_callbacks_and_their_environments_go_on(world: bool, tmp_path: Path) -> None:
    kept: list[list[BaseCallback]] = []

    def callbacks() -> list[BaseCallback]:
        env = make_vec("CartPole-v1", 2, seed=8, world=True) if world else cartpole()
        kept.append(evaluation(tmp_path, env))
        return kept[-1]

    compare(lambda: small_ppo(cartpole()), tmp_path, total=400, every=100, kill_at=290, callbacks=callbacks)
    whole, _, resumed = kept
    assert whole[0].evaluations_timesteps == resumed[0].evaluations_timesteps == list(range(60, 361, 60))
    assert whole[0].evaluations_results == resumed[0].evaluations_results
    assert whole[0].best_mean_reward == resumed[0].best_mean_reward
    assert whole[0].callback.no_improvement_evals == resumed[0].callback.no_improvement_evals
    assert whole[1].callbacks[0].last_time_trigger == resumed[1].callbacks[0].last_time_trigger > 0
    assert whole[1].callbacks[1].n_episodes == resumed[1].callbacks[1].n_episodes > 0


@pytest.mark.filterwarnings("ignore:.*in which a callback evaluates, cannot be stored")
def test_evaluation_environments_that_cannot_be_stored_get_new_seeds(tmp_path: Path) -> None:
    kept: list[list[BaseCallback]] = []

    def callbacks() -> list[BaseCallback]:
        kept.append([EvalCallback(vec(Hidden), n_eval_episodes=2, eval_freq=20, verbose=0)])
        return kept[-1]

    compare(
        lambda: small_ppo(vec(Counting)),
        tmp_path,
        total=300,
        every=50,
        kill_at=230,
        callbacks=callbacks,
        cuts=True,
        env=lambda: vec(Counting),
    )
    assert kept[0][0].best_mean_reward == kept[2][0].best_mean_reward > -np.inf


def interrupted_run(folder: Path, callbacks: list[BaseCallback] | None = None, **arguments: Any) -> PPO:
    agent = small_ppo(cartpole(), **arguments)
    return agent.learn(100, callback=[Checkpoint(folder, 32, keep=3), *(callbacks or [])])


def test_a_checkpoint_of_an_earlier_version_goes_on_alike(tmp_path: Path) -> None:
    """It has none of what agents have learnt to keep since."""
    interrupted_run(tmp_path)
    whole = PPO.resume(tmp_path).learn_on(200)

    def change(made: dict[str, Any], state: dict[str, Any]) -> None:
        attributes = state["agent"]["attributes"]
        del attributes["_schedules_end"]
        for name in ("n_finished", "looks_at_monitor", "_known", "_since"):
            attributes["episode_statistics"]["attributes"].pop(name, None)

    altered(tmp_path, change)
    earlier = PPO.resume(tmp_path).learn_on(200)
    assert earlier.episode_statistics.finished == whole.episode_statistics.finished
    assert_equal(capture(earlier.policy), capture(whole.policy))


def test_callbacks_that_are_not_given_again_are_named(tmp_path: Path) -> None:
    interrupted_run(tmp_path, [StopTrainingOnMaxEpisodes(10**6)])
    with pytest.raises(ValueError, match=r"StopTrainingOnMaxEpisodes, but has none.*callback=\[\]"):
        PPO.resume(tmp_path).learn_on(200)
    assert PPO.resume(tmp_path).learn_on(200, callback=[]).num_timesteps >= 200


def test_a_callback_keeps_what_it_says_itself(tmp_path: Path) -> None:
    class Own(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.secret = lambda: 1
            self.n = 0

        def checkpoint_state(self) -> Any:
            return {"n": self.n}

        def restore_checkpoint_state(self, state: Any) -> None:
            self.n = state["n"]

        def _on_step(self) -> bool:
            self.n += 1
            return True

    first, second = Own(), Own()
    interrupted_run(tmp_path, [first])
    PPO.resume(tmp_path).learn_on(200, callback=[second])
    assert second.n == first.n * 2 - 1 or second.n > first.n > 0


# Files


def test_two_halves_are_the_whole(tmp_path: Path) -> None:
    small_ppo(cartpole()).learn(128, callback=Checkpoint(tmp_path, 32))
    scramble()
    resumed = PPO.resume(tmp_path).learn_on(256)
    assert_equal(everything(resumed), everything(small_ppo(cartpole()).learn(256)))


def test_a_training_that_was_killed_before_its_first_update_goes_on(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        small_ppo(cartpole()).learn(128, callback=[Checkpoint(tmp_path, 64), Kill(10)])
    resumed = PPO.resume(tmp_path)
    assert resumed.num_timesteps == 0
    assert_equal(everything(resumed.learn_on(callback=Kill(10**9))), everything(small_ppo(cartpole()).learn(128)))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_checkpoints_come_at_the_beginning_after_every_so_many_steps_and_at_the_end(tmp_path: Path) -> None:
    small_ppo(cartpole()).learn(200, callback=Checkpoint(tmp_path, 70, keep=10))
    # Rollouts have 32 steps.
    assert names(tmp_path) == [f"step_{n:09d}" for n in (0, 96, 160, 224)]


def test_the_newest_ones_stay(tmp_path: Path) -> None:
    small_ppo(cartpole()).learn(200, callback=Checkpoint(tmp_path, 32, keep=2))
    assert names(tmp_path) == ["step_000000192", "step_000000224"]


@pytest.mark.parametrize("damage", ["bit", "end", "missing", "manifest", "empty manifest", "no file"])
def test_a_damaged_checkpoint_is_skipped_with_a_line(damage: str, tmp_path: Path) -> None:
    interrupted_run(tmp_path)
    newest = sorted(tmp_path.iterdir())[-1]
    file = newest / ("manifest.json" if "manifest" in damage else "state.safetensors")
    content = bytearray(file.read_bytes())
    if damage == "no file":
        for path in newest.iterdir():
            path.unlink()
    elif damage == "missing":
        file.unlink()
    elif damage == "empty manifest":
        file.write_bytes(b"")
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content[:-1] if damage == "end" else content)
    if damage == "manifest":
        file.write_bytes(b"{" + bytes(content))
    with pytest.warns(UserWarning, match=f"{newest.name} is damaged and skipped"):
        assert PPO.resume(tmp_path).num_timesteps == 96


@pytest.mark.filterwarnings("ignore:The checkpoint .* is damaged")
def test_without_a_whole_checkpoint_the_error_says_what_was_tried(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="it has no folder step_"):
        PPO.resume(tmp_path)
    interrupted_run(tmp_path)
    for checkpoint in tmp_path.iterdir():
        (checkpoint / "state.json").unlink()
    with pytest.raises(FileNotFoundError, match="tried step_000000128, step_000000096, step_000000064"):
        PPO.resume(tmp_path)


def test_a_checkpoint_of_another_class_is_refused_by_name(tmp_path: Path) -> None:
    interrupted_run(tmp_path)
    with pytest.raises(ValueError, match=r"is of the class PPO .*, not A2C: call PPO.resume"):
        A2C.resume(tmp_path)


def test_a_function_as_schedule_is_given_again(tmp_path: Path) -> None:
    def make() -> PPO:
        return small_ppo(cartpole(), learning_rate=lambda left: 0.01 * left)

    make().learn(128, callback=Checkpoint(tmp_path, 32))
    with pytest.raises(ValueError, match=r"`learning_rate` is a function.*PPO.resume\(.*, learning_rate=...\)"):
        PPO.resume(tmp_path)
    compare(make, tmp_path / "more", total=300, every=50, kill_at=230, learning_rate=lambda left: 0.01 * left)


def test_an_environment_that_cannot_be_made_again_is_asked_for(tmp_path: Path) -> None:
    small_ppo(vec(Counting)).learn(32, callback=Checkpoint(tmp_path, 32))
    with pytest.raises(ValueError, match=r"Counting .*was not made by `gym.make`.*env=..."):
        PPO.resume(tmp_path)


@pytest.mark.parametrize(
    ("env", "match"),
    [
        (lambda: cartpole(3), "n_envs=2 .* but has n_envs=3"),
        (lambda: make_vec_env("Acrobot-v1", 2), "the spaces .* but has"),
        (lambda: VecNormalize(cartpole()), "is another one"),
        (lambda: make_vec_env("CartPole-v1", 2, wrapper_class=gym.wrappers.NormalizeReward), "is another one"),
        (lambda: heavier(cartpole()), "does not go on as the one of the checkpoint did"),
    ],
)
def test_another_environment_is_refused(env: Callable[[], Any], match: str, tmp_path: Path) -> None:
    interrupted_run(tmp_path)
    with pytest.raises(ValueError, match=match):
        PPO.resume(tmp_path, env=env())


def heavier(env: Any) -> Any:
    """CartPole of another version, in which an impulse counts double."""
    cls = type(env.envs[0].unwrapped)
    step = cls.step

    class CartPoleEnv(cls):  # type: ignore[misc, valid-type]
        def step(self, action: Any) -> Any:
            step(self, action)
            return step(self, action)

    CartPoleEnv.__module__, CartPoleEnv.__qualname__ = cls.__module__, cls.__qualname__
    for single in env.envs:
        single.unwrapped.__class__ = CartPoleEnv
    return env


def test_checkpoints_of_another_run_are_not_overwritten(tmp_path: Path) -> None:
    interrupted_run(tmp_path)
    with pytest.raises(ValueError, match=r"has checkpoints of another run.*step_000000128.*overwrite=True"):
        interrupted_run(tmp_path)
    small_ppo(cartpole()).learn(32, callback=Checkpoint(tmp_path, 32, overwrite=True))
    assert names(tmp_path) == ["step_000000000", "step_000000032"]


def test_a_run_goes_on_in_its_own_folder(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    interrupted_run(run)
    interrupted_run(other)
    before = names(other)
    with pytest.raises(ValueError, match=r"must go on in .*run, but its folder is .*other"):
        PPO.resume(run).learn_on(200, callback=Checkpoint(other, 32, keep=1))
    assert names(other) == before
    assert PPO.resume(run).learn_on(200, callback=Checkpoint(str(run), 50)).num_timesteps >= 200


def test_learn_on_needs_a_run_to_go_on_with(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="what `resume` has read"):
        small_ppo(cartpole()).learn_on()
    interrupted_run(tmp_path)
    with pytest.raises(ValueError, match="`total_timesteps` is 50, but must be at least 100"):
        PPO.resume(tmp_path).learn_on(50)
    with pytest.raises(TypeError, match="clip_rang"):
        PPO.resume(tmp_path, clip_rang=0.2)


@pytest.mark.parametrize(("name", "value"), [("every", 0), ("every", 1.5), ("keep", 0)])
def test_arguments_are_checked(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        Checkpoint(tmp_path, **{"every": 10, name: value})


# What a training writes beside


def test_a_monitor_goes_on_in_its_file(tmp_path: Path) -> None:
    def monitored(folder: str) -> Any:
        return make_vec_env("CartPole-v1", 2, seed=5, monitor_dir=str(tmp_path / folder))

    small_ppo(monitored("whole")).learn(400).env.close()
    killed = small_ppo(monitored("run"))
    with pytest.raises(KilledError):
        killed.learn(400, callback=[Checkpoint(tmp_path / "c", 100), Kill(290)])
    killed.env.close()
    PPO.resume(tmp_path / "c").learn_on(callback=Kill(10**9)).env.close()
    for n in range(2):
        whole, run = (
            [line.split(",")[:2] for line in (tmp_path / folder / f"{n}.monitor.csv").read_text().splitlines()[1:]]
            for folder in ("whole", "run")
        )
        assert whole == run
        assert len(run) > 3


def test_tensorboard_goes_on_in_its_folder_and_shows_nothing_twice(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def make(folder: str) -> PPO:
        return small_ppo(cartpole(), tensorboard_log=str(tmp_path / folder))

    make("whole").learn(400)
    with pytest.raises(KilledError):
        make("run").learn(400, callback=[Checkpoint(tmp_path / "c", 100), Kill(290)])
    PPO.resume(tmp_path / "c").learn_on(callback=Kill(10**9))
    shown = {}
    for folder in ("whole", "run"):
        assert names(tmp_path / folder) == ["PPO_1"]
        events = EventAccumulator(str(tmp_path / folder / "PPO_1")).Reload()
        shown[folder] = {
            tag: [(event.step, event.value) for event in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]
            if not tag.startswith("time")
        }
    assert_equal(shown["run"], shown["whole"])


def test_a_callback_that_stops_the_training_does_so_again(tmp_path: Path) -> None:
    def stop() -> BaseCallback:
        return StopTrainingOnMaxEpisodes(5)

    whole = small_ppo(cartpole()).learn(1000, callback=stop())
    small_ppo(cartpole()).learn(1000, callback=[stop(), Checkpoint(tmp_path, 32)])
    resumed = PPO.resume(tmp_path).learn_on(callback=stop())
    assert resumed.num_timesteps == whole.num_timesteps < 1000
    assert_equal(everything(resumed), everything(whole))


def test_on_boundary_is_called_between_updates_and_rollouts() -> None:
    told: list[str] = []

    class Look(BaseCallback):
        def on_boundary(self) -> None:
            told.append(f"boundary {self.model.num_timesteps} {self.model._n_updates}")

        def _on_rollout_start(self) -> None:
            told.append("rollout")

        def _on_step(self) -> bool:
            return True

    small_ppo(cartpole()).learn(64, callback=[EveryNTimesteps(10, Look()), Look()])
    expected = [f"boundary {32 * n} {n}" for n in range(3) for _ in range(2)]
    assert told == [*expected[:2], "rollout", *expected[2:4], "rollout", *expected[4:]]


# Files from other people


def test_no_module_is_imported_because_a_checkpoint_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted_run(tmp_path / "run")
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(str(tmp_path))

    def change(made: dict[str, Any], state: dict[str, Any]) -> None:
        made["environment"]["envs"][0]["id"] = "evil:CartPole-v1"

    altered(tmp_path / "run", change)
    with pytest.raises(ValueError, match=r"'evil:CartPole-v1' is not registered"):
        PPO.resume(tmp_path / "run")


def test_no_class_is_made_that_is_not_on_the_allow_list(tmp_path: Path) -> None:
    interrupted_run(tmp_path)

    def change(made: dict[str, Any], state: dict[str, Any]) -> None:
        made["arguments"]["learning_rate"] = {"object": "subprocess:Popen", "attributes": {"args": "true"}}

    altered(tmp_path, change)
    with pytest.raises(ValueError, match=r"subprocess.Popen"):
        PPO.resume(tmp_path)


def test_no_file_but_those_of_monitors_is_cut(tmp_path: Path) -> None:
    interrupted_run(tmp_path / "run")
    (tmp_path / "other.txt").write_text("something")

    def change(made: dict[str, Any], state: dict[str, Any]) -> None:
        state["files"] = [(str(tmp_path / "other.txt"), 0)]

    altered(tmp_path / "run", change)
    PPO.resume(tmp_path / "run")
    assert (tmp_path / "other.txt").read_text() == "something"


def test_strides_that_reach_into_other_memory_are_refused(tmp_path: Path) -> None:
    interrupted_run(tmp_path)

    def change(made: dict[str, Any], state: dict[str, Any]) -> None:
        state["agent"]["attributes"]["_last_obs"]["strides"] = (10**9, 4)

    altered(tmp_path, change)
    with pytest.raises(NotFittingError, match="strides"):
        PPO.resume(tmp_path)
