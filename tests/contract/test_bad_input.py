"""Bad input is refused with an error that names what is wrong, and nothing that was learnt is lost."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from fakes import FaultyEnv, TinyEnv
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from pg_agents import A2C, GRPO, NPG, PPO, REINFORCE, TRPO, ActorCritic, ReinforceBaseline
from pg_agents.observations import check_observations

ALGORITHMS = [REINFORCE, ReinforceBaseline, ActorCritic, A2C, PPO, NPG, TRPO]
SHORT = {
    ActorCritic: {"n_steps": 5},
    REINFORCE: {},
    ReinforceBaseline: {},
    A2C: {},
    PPO: {"n_steps": 16, "batch_size": 8},
    NPG: {"n_steps": 16, "batch_size": 8},
    TRPO: {"n_steps": 16, "batch_size": 8},
}


NAN = np.float32([0, np.nan, 0])


@pytest.mark.parametrize(
    ("cls", "kwargs", "message"),
    [
        (PPO, {"n_steps": 0}, r"`n_steps` must be an integer at least 1, but is 0"),
        (A2C, {"n_steps": 2.5}, r"`n_steps` must be an integer at least 1, but is 2.5"),
        (REINFORCE, {"n_episodes": 0}, r"`n_episodes` must be an integer at least 1"),
        (ReinforceBaseline, {"n_episodes": -1}, r"`n_episodes`"),
        (PPO, {"n_epochs": 0}, r"`n_epochs`"),
        (PPO, {"batch_size": 0, "normalize_advantage": False}, r"`batch_size`"),
        (PPO, {"ent_coef": -0.1}, r"`ent_coef` must be a number at least 0, but is -0.1"),
        (A2C, {"vf_coef": -1}, r"`vf_coef`"),
        (A2C, {"gamma": 1.1}, r"`gamma` must be a number at least 0 and at most 1, but is 1.1"),
        (A2C, {"gae_lambda": float("nan")}, r"`gae_lambda`"),
        (A2C, {"learning_rate": -1e-3}, r"`learning_rate`"),
        (A2C, {"learning_rate": "fast"}, r"`learning_rate` must be a number at least 0, but is 'fast'"),
        (A2C, {"max_grad_norm": 0}, r"`max_grad_norm` must be a number greater than 0, or None, but is 0"),
        (A2C, {"rms_prop_eps": 0}, r"`rms_prop_eps`"),
        (PPO, {"target_kl": 0}, r"`target_kl`"),
        (PPO, {"kl_target": -1}, r"`kl_target`"),
        (PPO, {"kl_coef": -1}, r"`kl_coef`"),
        (PPO, {"kl_coef": abs}, r"`kl_coef`"),
        (PPO, {"gamma": abs}, r"`gamma`"),
        (
            REINFORCE,
            {"normalize_returns": True, "estimator": "total_return", "n_episodes": 1},
            r"`normalize_returns=True of total returns`",
        ),
        (PPO, {"clip_range": -0.1}, r"`clip_range`"),
        (A2C, {"stats_window_size": 0}, r"`stats_window_size`"),
        (REINFORCE, {"baseline": "mean"}, r"`baseline` must be one of 'none', 'constant'"),
        (REINFORCE, {"estimator": "reward_togo"}, r"`estimator` .* Did you mean 'reward_to_go'\?"),
        (REINFORCE, {"estimator": "total_return", "discount_updates": True}, r"`discount_updates=True`"),
        (ReinforceBaseline, {"value_learning_rate": -1}, r"`value_learning_rate`"),
        (
            PPO,
            {"engine": "mpl"},
            r"`engine` must be one of 'auto', 'autograd', 'mlp', but is 'mpl'. Did you mean 'mlp'?",
        ),
        (NPG, {"step_size": 0}, r"`step_size` must be a number greater than 0, or None, but is 0"),
        (NPG, {"target_kl": None}, r"`target_kl` must be a number greater than 0, but is None"),
        (NPG, {"cg_max_steps": 0}, r"`cg_max_steps`"),
        (NPG, {"cg_damping": -1e-3}, r"`cg_damping`"),
        (NPG, {"n_critic_updates": 0}, r"`n_critic_updates`"),
        (NPG, {"sub_sampling_factor": 1.5}, r"`sub_sampling_factor`"),
        (TRPO, {"line_search_max_iter": 0}, r"`line_search_max_iter`"),
        (TRPO, {"line_search_shrinking_factor": 1.1}, r"`line_search_shrinking_factor`"),
        (REINFORCE, {"rollout_buffer_class": th.nn.Module}, r"`rollout_buffer_class` is Module, but must derive from"),
    ],
    ids=str,
)
def test_an_argument_out_of_range_is_named_with_what_is_allowed(cls, kwargs, message):
    with pytest.raises(ValueError, match=message):
        cls("MlpPolicy", "CartPole-v1", **kwargs)


@pytest.mark.parametrize(
    ("cls", "keyword", "meant"),
    [
        (PPO, "n_step", "n_steps"),
        (A2C, "entropy_coef", "ent_coef"),
        (REINFORCE, "n_epsiodes", "n_episodes"),
        (ReinforceBaseline, "polcy_kwargs", "policy_kwargs"),
    ],
)
def test_a_misspelt_keyword_suggests_the_right_one(cls, keyword, meant):
    with pytest.raises(TypeError, match=rf"{cls.__name__}\(\) .* '{keyword}'\. Did you mean '{meant}'\?"):
        cls("MlpPolicy", "CartPole-v1", **{keyword: 1})


@pytest.mark.parametrize(
    ("cls", "keyword", "counterpart"),
    [
        (REINFORCE, "n_steps", "`n_episodes` of REINFORCE"),
        (PPO, "n_episodes", "`n_steps` of PPO"),
        (GRPO, "n_steps", "`n_groups` and `group_size` of GRPO"),
        (TRPO, "clip_range", "`target_kl` of TRPO"),
        (REINFORCE, "normalize_advantage", "`normalize_returns` of REINFORCE"),
    ],
)
def test_a_keyword_of_another_algorithm_names_the_one_that_decides_the_same_here(cls, keyword, counterpart):
    with pytest.raises(TypeError, match=rf"'{keyword}'\..* is decided by {counterpart}\.$"):
        cls("MlpPolicy", "CartPole-v1", **{keyword: 1})


@pytest.mark.parametrize("keyword", ["n_epochs", "batch_size", "gae_lambda", "target_kl"])
def test_what_nothing_decides_here_has_no_counterpart(keyword):
    with pytest.raises(TypeError, match=rf"'{keyword}'\.$"):
        REINFORCE("MlpPolicy", "CartPole-v1", **{keyword: 1})


class NotSetUp(gym.Env):
    """Its author has forgotten the spaces."""


@pytest.mark.parametrize(
    ("env", "given"),
    [
        (None, "None"),
        (["CartPole-v1"], r"\['CartPole-v1'\]"),
        (TinyEnv, r"<class '.*TinyEnv'>\. Call it first: it is no environment yet"),
        (lambda: TinyEnv(), r"<function .*>\. Call it first: it is no environment yet"),
        (NotSetUp(), r"<.*NotSetUp object at .*>, which has no `observation_space`"),
    ],
    ids=["None", "a list", "a class", "a function", "an environment without spaces"],
)
def test_what_is_no_environment_is_named_with_what_is_allowed(env, given):
    allowed = "a Gymnasium environment, single or vector, an SB3 `VecEnv`, or a registered id such as 'CartPole-v1'"
    with pytest.raises(ValueError, match=rf"^`env` must be {allowed}, but is {given}\.$"):
        PPO("MlpPolicy", env)


@pytest.mark.parametrize("keyword", ["n_epochs", "batch_size", "n_steps", "gae_lambda", "target_kl"])
def test_what_an_algorithm_has_no_use_for_is_refused_rather_than_ignored(keyword):
    with pytest.raises(TypeError, match=keyword):
        REINFORCE("MlpPolicy", "CartPole-v1", **{keyword: 1})


def test_normalised_advantages_of_one_sample_are_refused_in_sb3s_words():
    with pytest.raises(AssertionError, match=r"`n_steps \* n_envs` must be greater than 1"):
        A2C("MlpPolicy", "CartPole-v1", n_steps=1, normalize_advantage=True)
    with pytest.raises(AssertionError, match="`batch_size` must be greater than 1"):
        PPO("MlpPolicy", "CartPole-v1", batch_size=1)


@pytest.mark.parametrize("cls", ALGORITHMS)
@pytest.mark.parametrize(
    "action_space",
    [spaces.Dict({"a": spaces.Discrete(2)}), spaces.Tuple([spaces.Discrete(2)]), spaces.Text(3)],
    ids=str,
)
def test_an_unsupported_action_space_is_refused_by_name(cls, action_space):
    with pytest.raises(AssertionError, match=rf"only supports .* but {action_space.__class__.__name__}"):
        cls("MlpPolicy", TinyEnv(action_space))


@pytest.mark.parametrize("cls", ALGORITHMS)
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            {"observation": NAN},
            "observation of environment 0 is not finite, after 18 steps in all",
        ),
        (
            {"observation": np.float32([0, 0, np.inf])},
            "observation of environment 0 is not finite, after 18 steps in all",
        ),
        ({"reward": float("nan")}, "reward of environment 0 is not finite, after 18 steps in all: nan"),
        ({"reward": -float("inf")}, "reward of environment 0 is not finite, after 18 steps in all: -inf"),
        (
            {"observation": np.zeros(4, np.float32)},
            r"observation of environment 0 .*shape \(4,\), but the space is",
        ),
        (
            {"observation": {"a": 1}},
            r"observation of environment 0 does not match its observation space: it has keys \['a'\]",
        ),
    ],
    ids=str,
)
def test_a_faulty_environment_is_named_with_the_step(cls, fault, message):
    agent = cls("MlpPolicy", FaultyEnv(**fault), seed=0, **SHORT[cls])
    with pytest.raises(ValueError, match=message):
        agent.learn(100)


def test_the_environment_among_several_is_named():
    env = DummyVecEnv([TinyEnv, lambda: FaultyEnv(reward=float("nan"), at=3), TinyEnv])
    with pytest.raises(ValueError, match="reward of environment 1 is not finite, after 9 steps in all"):
        A2C("MlpPolicy", env).learn(100)


def test_a_wrong_first_observation_is_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"environment 0 .*it has shape \(4,\), but the space is .*\(3,\)"):
        A2C("MlpPolicy", FaultyEnv(at=0, observation=np.zeros(4))).learn(10)


def test_a_category_that_does_not_exist_is_named():
    env = FaultyEnv(observation_space=spaces.Discrete(3), observation=3, at=7)
    with pytest.raises(
        ValueError, match=r"observation of environment 0 is 3, outside its space Discrete\(3\), after 7 steps"
    ):
        A2C("MlpPolicy", env).learn(10)


def test_a_missing_key_of_a_dict_observation_is_named():
    """By SB3's own step."""
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(2)})
    env = FaultyEnv(observation_space=space, observation={"a": np.zeros(2, np.float32)}, at=7)
    with pytest.raises(KeyError, match="'b'"):
        A2C("MultiInputPolicy", env).learn(10)


def test_nan_inside_a_dict_observation_is_named_with_its_key():
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(2)})
    env = FaultyEnv(observation_space=space, observation={"a": np.float32([np.nan, 0]), "b": 0}, at=7)
    with pytest.raises(ValueError, match=r"observation 'a' of environment 0 is not finite, after 7 steps"):
        A2C("MultiInputPolicy", env).learn(10)


def test_an_observation_of_another_shape_from_another_process_is_refused():
    """By NumPy, in SB3's own step."""
    env = SubprocVecEnv([TinyEnv, partial(FaultyEnv, observation=np.zeros(4, np.float32), at=2)])
    with pytest.raises(ValueError, match="must have the same shape"):
        A2C("MlpPolicy", env).learn(10)
    env.close()


@pytest.mark.parametrize(
    ("space", "observation"),
    [(spaces.Discrete(5), 2.7), (spaces.MultiBinary(2), [1, -3]), (spaces.MultiDiscrete([2, 3]), [1, 3])],
    ids=str,
)
def test_a_category_that_is_none_is_named(space, observation):
    with pytest.raises(ValueError, match=r"observation of environment 0 is .*, outside its space"):
        check_observations(np.array([observation]), space, n_envs=1, step=0)


def test_what_is_infinite_in_float32_is_not_finite():
    space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    with pytest.raises(ValueError, match=r"observation of environment 0 is not finite, after 7 steps"):
        A2C("MlpPolicy", FaultyEnv(observation_space=space, observation=np.array([0, 1e300, 0]), at=7)).learn(20)


@pytest.mark.parametrize("cls", [A2C, PPO])
def test_a_last_observation_that_is_not_finite_is_named(cls):
    with pytest.raises(ValueError, match=r"value of the last observation of environment 0 is nan, after 5 steps"):
        cls("MlpPolicy", FaultyEnv(observation=NAN, at=5, time_limit=True), **SHORT[cls]).learn(20)


def test_a_faulty_reset_between_rollouts_is_named():
    class NanAtThirdReset(TinyEnv):
        def reset(self, *, seed=None, options=None):
            observation, info = super().reset(seed=seed)
            return (NAN if self.n_resets == 3 else observation), info

    # The second ends its first episode before the other, and is reset in its second.
    env = DummyVecEnv([NanAtThirdReset, lambda: TinyEnv(length=2)])
    with pytest.raises(ValueError, match=r"observation of environment 0 is not finite, after 10 steps in all"):
        REINFORCE("MlpPolicy", env, n_episodes=1).learn(20)


class WrongShape(DummyVecEnv):
    """A VecEnv of somebody's own, which does not copy observations into an array of the declared shape."""

    def step_wait(self):
        observations, *rest = super().step_wait()
        return observations[:, :2], *rest


def test_a_vec_env_that_returns_another_shape_than_it_declares_is_named():
    with pytest.raises(ValueError, match=r"observation after 2 steps has shape \(2, 2\), but 2 environments"):
        A2C("MlpPolicy", WrongShape([TinyEnv, TinyEnv])).learn(10)


def parameters(agent):
    return {name: value.clone() for name, value in agent.policy.state_dict().items()}


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_a_loss_that_is_not_finite_is_named_and_leaves_the_parameters_alone(cls, tmp_path):
    agent = cls("MlpPolicy", FaultyEnv(reward=3e38, at=3), seed=0, gamma=1.0, learning_rate=0.1, **SHORT[cls])
    before = parameters(agent)
    with pytest.raises(FloatingPointError, match=r"The (loss|gradient's norm) is .* in the update after \d+ steps"):
        agent.learn(200)
    agent.save(tmp_path / "model")
    after = parameters(cls.load(tmp_path / "model"))
    assert all(th.isfinite(value).all() for value in after.values())
    # Normalised advantages may be finite: then the policy can move before the critic's loss is computed.
    if cls not in (PPO, NPG, TRPO):
        assert all(th.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_ctrl_c_leaves_an_agent_that_can_be_saved_and_trained_on(cls, tmp_path):
    env = FaultyEnv(error=KeyboardInterrupt(), at=33)
    agent = cls("MlpPolicy", env, seed=0, **SHORT[cls])
    with pytest.raises(KeyboardInterrupt):
        agent.learn(100)
    assert agent.num_timesteps == 32
    agent.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", env=TinyEnv())
    assert all(th.equal(value, parameters(loaded)[name]) for name, value in parameters(agent).items())
    loaded.learn(50)
    agent.learn(50, reset_num_timesteps=False)


def test_an_error_of_the_environments_own_is_passed_on_as_it_is():
    with pytest.raises(ValueError, match=r"^something else$"):
        A2C("MlpPolicy", FaultyEnv(error=ValueError("something else"))).learn(100)


def test_observations_outside_the_bounds_of_their_box_are_trained_on():
    """Many environments leave theirs, and SB3 trains on them."""
    A2C("MlpPolicy", FaultyEnv(observation=np.float32([5, -7, 0]))).learn(50)


def test_normalised_observations_of_vec_normalize_are_no_fault():
    A2C("MlpPolicy", VecNormalize(DummyVecEnv([TinyEnv]))).learn(50)
