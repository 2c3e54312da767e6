"""Whole episodes, the same number from every environment, however many steps that takes."""

import pytest
from fakes import ScriptedEnv, Spy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from pg_agents import REINFORCE, ReinforceBaseline


def vec_env(*scripts, **kwargs):
    return DummyVecEnv([lambda script=script: ScriptedEnv(*script, **kwargs) for script in scripts])


def collected(agent):
    """The observations (k, t) of all samples that an update sees."""
    (samples,) = agent.rollout_buffer.get()
    return [tuple(map(int, observation)) for observation in samples.observations.tolist()]


@pytest.mark.parametrize("cls", [REINFORCE, ReinforceBaseline])
def test_each_environment_contributes_its_first_episodes_whatever_their_length(cls):
    env = vec_env([1, 2, 1, 1, 1, 1], [3, 2])
    agent = cls("MlpPolicy", env, n_episodes=2).learn(1)
    # The first environment goes on with its third and fourth episode while it waits for the second environment.
    assert agent.num_timesteps == 2 * 5
    assert collected(agent) == [(0, 0), (1, 0), (1, 1), (0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


def test_an_environment_that_had_to_wait_starts_anew():
    env = vec_env([2, 9, 2], [4, 3, 4])
    agent = REINFORCE("MlpPolicy", env, n_episodes=1).learn(1)
    assert collected(agent) == [(0, 0), (0, 1), (0, 0), (0, 1), (0, 2), (0, 3)]
    agent.learn(1, reset_num_timesteps=False)
    # The first was in the middle of episode 1; both are reset, so that neither's next episode begins in its middle.
    assert collected(agent) == [(2, 0), (2, 1), (2, 0), (2, 1), (2, 2), (2, 3)]


def test_environments_that_end_together_are_not_reset_again():
    env = vec_env([2], [2])
    agent = REINFORCE("MlpPolicy", env, n_episodes=2).learn(1)
    agent.learn(1, reset_num_timesteps=False)
    assert collected(agent)[0] == (2, 0)


@pytest.mark.parametrize("time_limit", [False, True])
@pytest.mark.parametrize("cls", [REINFORCE, ReinforceBaseline])
def test_returns_contain_rewards_alone_whether_or_not_a_time_limit_ended_the_episode(cls, time_limit):
    agent = cls("MlpPolicy", vec_env([3], time_limit=time_limit), n_episodes=1, gamma=0.5).learn(1)
    buffer = agent.rollout_buffer
    assert buffer.truncated[-1, 0] == time_limit
    assert buffer.terminated[-1, 0] != time_limit
    (samples,) = buffer.get()
    assert samples.returns.tolist() == [1 + 2 / 2 + 3 / 4, 2 + 3 / 2, 3]


def test_the_buffer_grows_with_long_episodes_and_keeps_all_their_steps():
    agent = REINFORCE("MlpPolicy", vec_env([1300]), n_episodes=1, gamma=1.0).learn(1)
    assert collected(agent) == [(0, t) for t in range(1300)]
    (samples,) = agent.rollout_buffer.get()
    assert samples.returns[0].item() == 1300 * 1301 / 2


def test_minibatches_contain_each_counted_step_once():
    agent = REINFORCE("MlpPolicy", vec_env([3, 2], [1]), n_episodes=2).learn(1)
    steps = [tuple(row) for batch in agent.rollout_buffer.get(3) for row in batch.observations.tolist()]
    assert sorted(steps) == [(0, 0), (0, 0), (0, 1), (0, 2), (1, 0), (1, 0), (1, 1)]
    assert agent.rollout_buffer.mean_length == 7 / 4


def stop_at(step):
    return Spy(lambda spy: spy.num_timesteps < step)


def test_a_callback_can_stop_in_the_middle_of_an_episode_and_training_goes_on_later():
    agent = REINFORCE("MlpPolicy", vec_env([10]), n_episodes=1)
    agent.learn(100, callback=stop_at(4))
    assert agent.num_timesteps == 4
    assert agent._n_updates == 0
    agent.learn(10, reset_num_timesteps=False)
    # What it had of the episode is gone; the next update is of a whole one.
    assert collected(agent) == [(1, t) for t in range(10)]


@pytest.mark.parametrize("step", [1, 2])
def test_stopping_in_an_episodes_first_steps_leaves_no_episode_without_its_beginning(step):
    agent = REINFORCE("MlpPolicy", vec_env([4]), n_episodes=1)
    agent.learn(100, callback=stop_at(step))
    agent.learn(1, reset_num_timesteps=False)
    assert collected(agent) == [(1, 0), (1, 1), (1, 2), (1, 3)]


def test_episodes_of_an_environment_that_waits_are_in_no_statistics():
    env = VecMonitor(vec_env([1, 2, 1, 1, 1, 1], [3, 2]))
    agent = REINFORCE("MlpPolicy", env, n_episodes=2).learn(1)
    assert sorted(info["l"] for info in agent.ep_info_buffer) == [1, 2, 2, 3]
    # Rewards 1, 2, ... of each step.
    assert sorted(agent.episode_statistics.finished) == [1, 3, 3, 6]


def test_a_schedule_does_not_go_below_its_end_when_the_last_episode_overshoots():
    agent = REINFORCE("MlpPolicy", vec_env([40]), learning_rate=lambda progress: 1e-3 * progress).learn(10)
    assert agent.logger.name_to_value["train/learning_rate"] == 0


def test_an_episode_that_never_ends_is_an_error_that_names_the_remedy():
    agent = REINFORCE("MlpPolicy", vec_env([10**9]), n_episodes=1)
    agent.max_episode_steps = 700
    with pytest.raises(ValueError, match=r"environment 0 has not ended after 700 steps.*TimeLimit"):
        agent.learn(10)
    assert agent.num_timesteps == 700


def test_leave_one_out_needs_two_episodes():
    with pytest.raises(ValueError, match="at least 2 episodes"):
        REINFORCE("MlpPolicy", vec_env([3]), n_episodes=1, baseline="leave_one_out")


def test_the_naive_policy_gradient_credits_every_step_with_the_whole_return():
    agent = REINFORCE(
        "MlpPolicy", vec_env([3, 1], [2]), n_episodes=2, gamma=1.0, estimator="total_return", baseline="leave_one_out"
    ).learn(1)
    (samples,) = agent.rollout_buffer.get()
    # Returns 6 and 1, and twice 3; each minus the mean of the other three.
    assert samples.returns.tolist() == [6, 6, 6, 1, 3, 3, 3, 3]
    assert samples.advantages.tolist() == pytest.approx([11 / 3] * 3 + [-3] + [-1 / 3] * 4)


def test_discounted_updates_weigh_step_t_with_gamma_to_the_t():
    kwargs = {"n_episodes": 2, "gamma": 0.5}
    plain = REINFORCE("MlpPolicy", vec_env([3, 2]), **kwargs).learn(1)
    discounted = REINFORCE("MlpPolicy", vec_env([3, 2]), discount_updates=True, **kwargs).learn(1)
    (plain,), (discounted,) = plain.rollout_buffer.get(), discounted.rollout_buffer.get()
    # float32: half an ulp of γ^t, of the product and of the ratio.
    assert (discounted.advantages / plain.advantages).tolist() == pytest.approx([1, 0.5, 0.25, 1, 0.5], rel=1e-6)


def test_arguments_that_are_changed_on_loading_take_effect(tmp_path):
    REINFORCE("MlpPolicy", vec_env([3, 2])).learn(1).save(tmp_path / "model")
    agent = REINFORCE.load(tmp_path / "model", env=vec_env([3, 2]), normalize_returns=True, baseline="time", gamma=0.5)
    assert agent.normalize_advantage
    agent.learn(1)
    assert agent._baseline.mean.tolist()[0] == pytest.approx((1 + 2 / 2 + 3 / 4 + 1 + 2 / 2) / 2)


def test_a_misspelt_argument_on_loading_is_refused(tmp_path):
    REINFORCE("MlpPolicy", vec_env([3])).save(tmp_path / "model")
    with pytest.raises(TypeError, match=r"'n_episode'\. Did you mean 'n_episodes'\?"):
        REINFORCE.load(tmp_path / "model", n_episode=3)


def test_an_agent_that_was_stopped_in_an_episode_knows_it_after_loading(tmp_path):
    env = vec_env([4])
    agent = REINFORCE("MlpPolicy", env, n_episodes=1)
    agent.learn(100, callback=stop_at(1))
    agent.save(tmp_path / "model")
    loaded = REINFORCE.load(tmp_path / "model", env=env, force_reset=False)
    loaded.learn(1, reset_num_timesteps=False)
    assert collected(loaded) == [(1, 0), (1, 1), (1, 2), (1, 3)]
