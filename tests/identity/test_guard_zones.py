"""Compiled code writes nothing beyond its arrays, which lie between guard zones here."""

import numpy as np
import pytest
import torch as th
from fakes import TinyEnv
from guards import Guards, OverrunError
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from pg_agents import A2C, GRPO, PPO, REINFORCE, TRPO
from pg_agents.envs.make import make_vec

pytest.importorskip("numba")
pytestmark = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")

ACTIONS = {
    "Discrete": spaces.Discrete(5),
    "Box": spaces.Box(-1, 1, (3,), np.float32),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(3),
}
MIXED = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Discrete(3)})
NETS = ([], [5], [17, 3], {"pi": [64], "vf": []})


class Checks(BaseCallback):
    """Checks the zones after every step."""

    def __init__(self, guards):
        super().__init__()
        self.guards = guards

    def _on_step(self):
        self.guards.check()
        return True


@pytest.fixture
def guards(monkeypatch):
    return Guards(monkeypatch)


def trained(guards, cls, env, steps, *, watched=True, policy="MlpPolicy", **kwargs):
    """An agent after some updates, checked after each step or, unwatched, after all of compiled rollouts."""
    agent = cls(policy, env, seed=0, device="cpu", engine="mlp", **kwargs)
    guards.parameters(agent.policy)
    agent.learn(steps, callback=Checks(guards) if watched else None)
    guards.check()
    return agent


def noise(actions):
    return {"use_sde": True, "sde_sample_freq": 4} if "gSDE" in actions else {}


@pytest.mark.parametrize("net", NETS, ids=str)
@pytest.mark.parametrize("actions", [*ACTIONS, "Box with σ of a network", "Box with gSDE"])
def test_acting_and_learning_stay_inside(actions, net, guards):
    """The number of environments and of samples is no multiple of a vector or of a block."""
    space = ACTIONS[actions.split()[0]]
    env = DummyVecEnv([lambda: TinyEnv(space, time_limit=True)] * 3)
    of_policy = {"net_arch": net, "optimizer_class": th.optim.Adam}
    if "σ" in actions:
        of_policy["state_dependent_std"] = True
    kwargs = {"n_steps": 13, "batch_size": 17, "n_epochs": 2, **noise(actions)}
    agent = trained(guards, PPO, env, 78, policy_kwargs=of_policy, **kwargs)
    agent.predict(np.zeros((70, 3), np.float32))
    agent.predict(np.zeros(3, np.float32), deterministic=True)
    guards.check()


@pytest.mark.parametrize("optimizer", [th.optim.RMSprop, RMSpropTFLike])
def test_parts_of_observations_and_the_other_optimisers_stay_inside(optimizer, guards):
    env = DummyVecEnv([lambda: TinyEnv(observation_space=MIXED)] * 2)
    of_policy = {"net_arch": [6], "optimizer_class": optimizer}
    trained(guards, A2C, env, 40, n_steps=5, policy="MultiInputPolicy", policy_kwargs=of_policy)


@pytest.mark.parametrize("actions", [*ACTIONS, "Box with σ of a network", "Box with gSDE"])
def test_natural_steps_stay_inside(actions, guards):
    of_policy = {"net_arch": [17, 3]} | ({"state_dependent_std": True} if "σ" in actions else {})
    env = DummyVecEnv([lambda: TinyEnv(ACTIONS[actions.split()[0]])] * 3)
    kwargs = {"n_steps": 26, "batch_size": 17, "n_critic_updates": 2, **noise(actions)}
    trained(guards, TRPO, env, 78, policy_kwargs=of_policy, **kwargs)


@pytest.mark.parametrize("name", ["pg/CartPole-v1", "pg/Pendulum-v1", "pg/FrozenLake-v1"])
@pytest.mark.parametrize("normalised", [False, True])
def test_compiled_rollouts_stay_inside(name, normalised, guards):
    env = make_vec(name, 3, seed=1, world=True, env_kwargs={"max_episode_steps": 7})
    env = VecNormalize(env, norm_obs=name != "pg/FrozenLake-v1") if normalised else env
    kwargs = noise("gSDE") if name == "pg/Pendulum-v1" else {}
    agent = trained(guards, A2C, env, 150, watched=False, n_steps=10, policy_kwargs={"net_arch": [5]}, **kwargs)
    assert agent.engine_in_use == "mlp"


@pytest.mark.parametrize("cls", [REINFORCE, GRPO])
@pytest.mark.parametrize("watched", [False, True])
def test_whole_episodes_stay_inside(cls, watched, guards):
    """The buffer grows in the rollout."""
    env = make_vec("pg/CartPole-v1", 3, seed=1, world=True)
    groups = {"group_size": 3, "n_groups": 2, "batch_size": 32, "kl_coef": 0.1}
    kwargs = {"n_episodes": 6} if cls is REINFORCE else groups
    trained(guards, cls, env, 300, watched=watched, policy_kwargs={"net_arch": [5]}, **kwargs)


def test_a_write_beyond_an_array_is_found(guards):
    """One environment too many: its V and log π lie behind the last row."""
    agent = A2C("MlpPolicy", DummyVecEnv([TinyEnv] * 2), seed=0, device="cpu", engine="mlp")
    agent.learn(10)
    guards.check()
    buffer = agent.rollout_buffer
    buffer.reset()
    actor = agent._engine.actor(agent.policy, buffer, agent.action_generator)
    actor.step["n_envs"] = 3
    buffer.pos = 4
    actor.act(np.zeros((2, 3), np.float32), np.zeros(2, bool))
    with pytest.raises(OverrunError, match="bytes after an array"):
        guards.check()
