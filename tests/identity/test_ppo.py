"""PPO's other options, and what it has in common with its relatives."""

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule

from pg_agents import A2C, PPO
from pg_agents.engines.autograd import evaluate
from pg_agents.objectives import mean_kl

SHORT = {"n_steps": 32, "batch_size": 32, "n_epochs": 3}


def ppo(n_updates=3, n_envs=2, **kwargs):
    env = make_vec_env("CartPole-v1", n_envs, seed=0)
    return PPO("MlpPolicy", env, seed=0, device="cpu", **{**SHORT, **kwargs}).learn(n_updates * 32 * n_envs)


def parameters(agent):
    return th.nn.utils.parameters_to_vector(agent.policy.parameters()).detach()


def test_the_first_minibatch_of_ppos_first_epoch_has_a2cs_gradient():
    """At ratio 1 nothing is clipped and d(Â r)/dθ = Â ∇ log π."""
    gradients = []
    for cls, kwargs in ((A2C, {"use_rms_prop": False}), (PPO, {"n_epochs": 1, "batch_size": 64})):
        env = make_vec_env("CartPole-v1", 2, seed=0)
        agent = cls("MlpPolicy", env, learning_rate=0.0, n_steps=32, gae_lambda=0.9, max_grad_norm=None,
                    normalize_advantage=True, ent_coef=0.01, seed=0, engine="autograd", **kwargs).learn(64)  # fmt: skip
        gradients.append(th.cat([parameter.grad.flatten() for parameter in agent.policy.parameters()]))
    # Means over 64 samples in different orders: float32 rounding.
    th.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["ent_coef", "vf_coef"])
def test_a_constant_schedule_is_its_value(name):
    th.testing.assert_close(parameters(ppo(**{name: lambda _: 0.1})), parameters(ppo(**{name: 0.1})), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["ent_coef", "vf_coef"])
def test_a_coefficients_schedule_is_followed(name):
    """The first update is made with 2/3 of the training left: as with that number, and unlike the start's.

    At the start the schedule is read for the choice of an engine alone.
    """
    progress = []

    def schedule(remaining):
        progress.append(remaining)
        return remaining

    scheduled = ppo(**{name: schedule})
    assert sorted(set(progress), reverse=True) == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert not th.equal(parameters(scheduled), parameters(ppo(**{name: 1.0})))


def test_without_a_penalty_and_without_a_clip_the_two_variants_are_one():
    """Â r - 0 KL is min(Â r, Â clip(r)) with a clip range that is never left."""
    unclipped, unpenalised = ppo(clip_range=1e6), ppo(kl_coef=0.0)
    th.testing.assert_close(parameters(unclipped), parameters(unpenalised), rtol=1e-5, atol=1e-7)


def kl_after_update(agent):
    with th.no_grad():
        return np.mean([mean_kl(evaluate(agent.policy, samples)) for samples in agent.rollout_buffer.get(32)])


def test_a_large_penalty_keeps_the_policy_where_it_is():
    free, held = ppo(kl_coef=0.0, learning_rate=3e-3), ppo(kl_coef=100.0, learning_rate=3e-3)
    assert kl_after_update(held) < 0.1 * kl_after_update(free)


@pytest.mark.parametrize(("kl_target", "factor"), [(1e-9, 2.0), (1e9, 0.5)])
def test_the_penaltys_coefficient_doubles_above_the_target_and_halves_below(kl_target, factor):
    agent = ppo(n_updates=3, kl_target=kl_target)
    assert agent.kl_coef == factor**3
    assert agent.logger.name_to_value["train/kl_coef"] == factor**2
    assert agent.logger.name_to_value["train/kl_after_update"] == pytest.approx(kl_after_update(agent))


def test_the_penaltys_coefficient_stays_within_a_factor_of_1_5_of_the_target():
    first = ppo(n_updates=1, kl_target=1e-9)
    reached = kl_after_update(first)
    for ratio, coefficient in ((1.4, 1.0), (1 / 1.4, 1.0), (1.6, 0.5), (1 / 1.6, 2.0)):
        assert ppo(n_updates=1, kl_target=reached * ratio).kl_coef == coefficient


def test_the_penaltys_coefficient_is_saved(tmp_path):
    ppo(kl_target=1e-9).save(tmp_path / "model")
    assert PPO.load(tmp_path / "model").kl_coef == 8.0


def test_the_penalised_objective_can_be_chosen_on_loading(tmp_path):
    ppo().save(tmp_path / "model")
    assert PPO.load(tmp_path / "model", kl_target=0.01).kl_coef == 1.0
    with pytest.raises(ValueError, match="`clip_range` belongs to the clipped objective"):
        PPO.load(tmp_path / "model", kl_target=0.01, clip_range=0.1)


def test_a_clip_range_for_the_penalised_objective_is_refused():
    with pytest.raises(ValueError, match="`clip_range` belongs to the clipped objective"):
        ppo(clip_range=0.1, kl_target=0.01)


def test_the_clip_ranges_schedule_is_logged():
    agent = ppo(clip_range=LinearSchedule(0.3, 0.0, 1.0), clip_range_vf=LinearSchedule(3.0, 0.0, 1.0))
    assert agent.logger.name_to_value["train/clip_range"] == pytest.approx(0.0)
    assert agent.logger.name_to_value["train/clip_range_vf"] == pytest.approx(0.0)
