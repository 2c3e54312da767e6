"""The one-step actor-critic against an update worked out by hand, and against A2C of one step."""

import numpy as np
import pytest
import torch as th
from problems import TwoStates
from stable_baselines3.common.env_util import make_vec_env

from pg_agents import A2C, ActorCritic, theory

SGD = {"optimizer_class": th.optim.SGD}


def test_each_step_is_an_update_by_hand():
    """θ += α δ (e_a - π) and w += 2 α_w c δ, with δ = r + γ V(s') - V(s), in the row of s alone."""
    alpha, rate, vf_coef, gamma = 0.1, 0.05, 0.5, 0.9
    agent = ActorCritic(
        theory.LinearActorCritic,
        TwoStates(),
        learning_rate=alpha,
        value_learning_rate=rate,
        vf_coef=vf_coef,
        gamma=gamma,
        ent_coef=0.0,
        max_grad_norm=None,
        policy_kwargs=SGD,
        seed=0,
    )
    theta, values = np.zeros((2, 2)), np.zeros(2)
    _, callback = agent._setup_learn(1)
    state, ends = 0, set()
    for _ in range(40):
        agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, 1)
        action, reward = int(agent.rollout_buffer.actions[0, 0, 0]), TwoStates.rewards[state]
        terminated, truncated = agent.rollout_buffer.terminated[0, 0], agent.rollout_buffer.truncated[0, 0]
        ends |= {"terminated"} if terminated else {"truncated"} if truncated else set()
        info = agent.env.buf_infos[0]
        following = info["terminal_observation"] if terminated or truncated else int(agent._last_obs[0])
        agent.train()
        error = reward[action] + gamma * (not terminated) * values[following] - values[state]
        policy = np.exp(theta[state]) / np.exp(theta[state]).sum()
        theta[state] += alpha * error * (np.eye(2)[action] - policy)
        values[state] += rate * vf_coef * 2 * error
        assert pytest.approx(theta, abs=1e-5) == agent.policy.action_net.weight.detach().numpy().T
        assert agent.policy.value_net.weight.detach().numpy()[0] == pytest.approx(values, abs=1e-5)
        state = int(agent._last_obs[0])
    assert ends == {"terminated", "truncated"}


@pytest.mark.parametrize("engine", ["autograd", "mlp"])
def test_with_one_step_size_it_is_a2c_of_one_step(engine):
    shared = {"gamma": 0.9, "ent_coef": 0.02, "learning_rate": 1e-3, "max_grad_norm": 0.5, "engine": engine, "seed": 3}

    def learnt(cls, **kwargs):
        agent = cls("MlpPolicy", make_vec_env("CartPole-v1", 3, seed=3), device="cpu", **shared, **kwargs).learn(300)
        return {name: value.numpy() for name, value in agent.policy.state_dict().items()}

    ours, a2cs = learnt(ActorCritic, value_learning_rate=None), learnt(A2C, n_steps=1, use_rms_prop=False)
    assert ours.keys() == a2cs.keys()
    for name, value in ours.items():
        # Adam sees the parameters in two groups, which adds in the same order.
        assert value == pytest.approx(a2cs[name], abs=1e-6), name
