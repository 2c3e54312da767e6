"""Imitation: maximum likelihood, with answers known beforehand, and what the held-out steps decide."""

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from fakes import TinyEnv
from gymnasium import spaces
from prose import saying
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from pg_agents import A2C, PPO, REINFORCE, Demonstrations, collect_demonstrations, imitate
from pg_agents.imitation import check_fit, policy_actions, split

N_STATES = 3
LINEAR = {"policy_kwargs": {"net_arch": []}}
ALL_STEPS = {"validation_fraction": 0, "batch_size": 1000, "learning_rate": 0.05}


def agent(cls=PPO, action_space=None, observation_space=None, **kwargs):
    policy = "MultiInputPolicy" if isinstance(observation_space, spaces.Dict) else "MlpPolicy"
    return cls(policy, TinyEnv(action_space, observation_space), seed=0, device="cpu", **kwargs)


def probabilities(model, observations):
    with th.no_grad():
        return model.policy.get_distribution(th.as_tensor(observations)).distribution.probs


@pytest.mark.parametrize("cls", [PPO, REINFORCE, sb3.PPO], ids=["PPO", "REINFORCE", "SB3's PPO"])
def test_a_tabular_policy_arrives_at_the_frequencies(cls):
    counts = np.array([[6, 3, 1], [2, 2, 6], [1, 8, 1]])  # of each action in each state
    states, actions = np.nonzero(np.ones((N_STATES, 3)))
    samples = np.repeat(states, counts.ravel()), np.repeat(actions, counts.ravel())
    model = agent(cls, spaces.Discrete(3), spaces.Discrete(N_STATES), **LINEAR)
    found = imitate(model, samples, n_epochs=300, **ALL_STEPS)
    expected = counts / 10
    np.testing.assert_allclose(probabilities(model, np.arange(N_STATES)), expected, atol=5e-3)
    # The least -E[log π] is the conditional entropy of the actions.
    assert found.actor.losses[-1] == pytest.approx(-(expected * np.log(expected)).sum() / N_STATES, abs=1e-3)


def test_a_gaussian_policy_arrives_at_mean_and_deviation():
    actions = np.array([[0.5], [1.0], [3.0], [3.5]])
    space = spaces.Box(-5, 5, (1,), np.float32)
    model = agent(A2C, space, spaces.Discrete(2), **LINEAR)
    imitate(model, (np.zeros(4, dtype=int), actions), n_epochs=500, **ALL_STEPS)
    with th.no_grad():
        found = model.policy.get_distribution(th.tensor([0])).distribution
    assert found.mean.item() == pytest.approx(2.0, abs=0.01)
    assert found.stddev.item() == pytest.approx(actions.std(), abs=0.01)


@pytest.mark.parametrize(
    ("action_space", "actions", "expected"),
    [
        (spaces.MultiDiscrete([2, 2]), [[0, 1], [0, 1], [0, 0], [1, 1]], [0.25, 0.75]),
        (spaces.MultiBinary(2), [[0, 1], [0, 1], [0, 0], [1, 1]], [0.25, 0.75]),
    ],
    ids=["MultiDiscrete", "MultiBinary"],
)
def test_each_number_of_an_action_arrives_at_its_frequency(action_space, actions, expected):
    model = agent(PPO, action_space, spaces.Discrete(2), **LINEAR)
    imitate(model, (np.zeros(4, dtype=int), np.array(actions)), n_epochs=300, **ALL_STEPS)
    with th.no_grad():
        found = model.policy.get_distribution(th.tensor([0])).distribution
    ones = [one.probs[0, 1] for one in found] if isinstance(found, list) else found.probs[0]
    assert [float(one) for one in ones] == pytest.approx(expected, abs=5e-3)


def test_observations_may_be_dictionaries():
    space = spaces.Dict({"state": spaces.Discrete(2), "place": spaces.Box(-1, 1, (2,), np.float32)})
    model = agent(PPO, spaces.Discrete(2), space, **LINEAR)
    observations = {"state": np.array([0, 1] * 10), "place": np.zeros((20, 2), np.float32)}
    imitate(model, (observations, np.array([1, 0] * 10)), n_epochs=200, **ALL_STEPS)
    seen, _ = model.predict({"state": np.array([0, 1]), "place": np.zeros((2, 2), np.float32)}, deterministic=True)
    assert seen.tolist() == [1, 0]


@pytest.mark.parametrize("layout", ["channels last, as the environment has it", "channels first"])
def test_images_come_in_either_layout(layout):
    model = PPO("CnnPolicy", FakeImageEnv(screen_height=36, screen_width=40, n_channels=3, discrete=True), seed=0)
    images = np.zeros((4, 36, 40, 3), np.uint8)
    images[2:] = 255
    if layout == "channels first":
        images = images.transpose(0, 3, 1, 2)
    found = imitate(model, (images, np.array([0, 0, 1, 1])), n_epochs=5, validation_fraction=0)
    assert found.actor.losses[-1] < found.actor.losses[0]


# Actions as the policy draws them


def test_actions_of_a_squashed_policy_are_scaled_back():
    space = spaces.Box(-2, 6, (1,), np.float32)
    model = agent(PPO, space, use_sde=True, policy_kwargs={"squash_output": True})
    found = policy_actions(model.policy, np.array([[-2.0], [0.0], [2.0], [6.0]]))
    assert found.flatten().tolist() == pytest.approx([-0.999, -0.5, 0, 0.999])


def test_a_squashed_policy_arrives_at_the_action_that_it_was_shown():
    space = spaces.Box(-2, 6, (1,), np.float32)
    model = agent(PPO, space, use_sde=True, policy_kwargs={"squash_output": True, "log_std_init": -1.0})
    observations = np.random.default_rng(0).uniform(-1, 1, (200, 3)).astype(np.float32)
    shown = np.random.default_rng(1).normal(5.0, 0.3, (200, 1))
    imitate(model, (observations, shown), n_epochs=60, learning_rate=0.01, validation_fraction=0, batch_size=200)
    seen, _ = model.predict(observations, deterministic=True)
    assert seen.mean() == pytest.approx(5.0, abs=0.2)


# The critic


def test_the_critic_arrives_at_the_returns_and_leaves_the_policy():
    states, actions = np.array([0, 1] * 4), np.array([0, 1] * 4)
    shown = Demonstrations(states, actions, rewards=[1.0, 2.0] * 4, ends=[0, 1] * 4)
    with_critic = agent(PPO, spaces.Discrete(2), spaces.Discrete(2), gamma=0.5, **LINEAR)
    without = agent(PPO, spaces.Discrete(2), spaces.Discrete(2), gamma=0.5, **LINEAR)
    found = imitate(with_critic, shown, critic=True, n_epochs=300, **ALL_STEPS)
    imitate(without, shown, n_epochs=300, **ALL_STEPS)
    values = with_critic.policy.predict_values(th.tensor([0, 1])).flatten().tolist()
    assert values == pytest.approx([2.0, 2.0], abs=0.02)  # 1 + 0.5 · 2, and 2
    assert found.critic.losses[-1] < 1e-3
    assert th.equal(probabilities(with_critic, [0, 1]), probabilities(without, [0, 1]))


def test_there_is_no_critic_to_fit_without_one_or_without_rewards():
    samples = np.zeros(4, dtype=int), np.zeros(4, dtype=int)
    with pytest.raises(ValueError, match=saying("`critic`", "ActorPolicy")):
        imitate(agent(REINFORCE, spaces.Discrete(2), spaces.Discrete(2)), samples, critic=True)
    with pytest.raises(ValueError, match=saying("`critic`", "no rewards")):
        imitate(agent(PPO, spaces.Discrete(2), spaces.Discrete(2)), samples, critic=True)


# What is held out, and when to stop


def test_whole_episodes_are_held_out():
    shown = Demonstrations(np.zeros((10, 1)), np.zeros(10), ends=[0, 0, 1, 0, 1, 0, 0, 0, 1, 1])
    training, held_out = split(shown, 0.3, np.random.default_rng(0))
    assert sorted([*training, *held_out]) == list(range(10))
    assert len(held_out) > 0
    assert not set(shown.episodes[training]) & set(shown.episodes[held_out])


def test_of_a_single_episode_steps_are_held_out():
    training, held_out = split(Demonstrations(np.zeros((10, 1)), np.zeros(10)), 0.3, np.random.default_rng(0))
    assert (len(training), len(held_out)) == (7, 3)
    with pytest.raises(ValueError, match=saying("only one step", "`validation_fraction`")):
        split(Demonstrations(np.zeros((1, 1)), np.zeros(1)), 0.3, np.random.default_rng(0))


def contradicting(generator_seed):
    """Two episodes in one state: the one that is held out shows the other action."""
    shown = Demonstrations(np.zeros(8, dtype=int), np.array([0] * 4 + [1] * 4), ends=[0, 0, 0, 1] * 2)
    model = agent(PPO, spaces.Discrete(2), spaces.Discrete(2), **LINEAR)
    return model, shown, {"validation_fraction": 0.5, "patience": 3, "learning_rate": 0.05, "seed": generator_seed}


@pytest.mark.parametrize("seed", [0, 1])
def test_a_fit_that_the_held_out_steps_contradict_stops_and_is_undone(seed):
    model, shown, settings = contradicting(seed)
    before = probabilities(model, [0])
    found = imitate(model, shown, n_epochs=50, **settings)
    assert found.actor.stopped_early
    assert (found.actor.n_epochs, found.actor.best_epoch) == (3, 0)
    assert np.diff(found.actor.losses).max() < 0 < np.diff(found.actor.validation_losses).min()
    assert th.equal(probabilities(model, [0]), before)


def test_the_parameters_with_the_least_validation_loss_are_kept():
    # Trained on 3 : 1 and held out 1 : 1, so the best is on the way from a policy that is sure of the other action.
    shown = Demonstrations(
        np.zeros(16, dtype=int), np.array([0, 0, 0, 1] * 3 + [0, 1] * 2), ends=[0] * 11 + [1] + [0] * 4
    )
    model = agent(PPO, spaces.Discrete(2), spaces.Discrete(2), **LINEAR)
    with th.no_grad():
        model.policy.action_net.bias[1] += 2
    seed = next(s for s in range(9) if split(shown, 0.5, np.random.default_rng(s))[1][0] == 12)
    settings = {"validation_fraction": 0.5, "n_epochs": 200, "learning_rate": 0.02, "seed": seed}
    found = imitate(model, shown, patience=None, **settings)
    assert 0 < found.actor.best_epoch < found.actor.n_epochs == 200
    assert found.actor.validation_losses[found.actor.best_epoch] == min(found.actor.validation_losses)
    assert probabilities(model, [0])[0, 0].item() == pytest.approx(0.5, abs=0.02)
    assert not found.actor.stopped_early


def test_ctrl_c_leaves_the_best_parameters(monkeypatch):
    model, shown, settings = contradicting(0)
    before = probabilities(model, [0])
    epochs = []

    def interrupted(self, step):
        epochs.append(step)
        if step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("stable_baselines3.common.logger.Logger.dump", interrupted)
    with pytest.raises(KeyboardInterrupt):
        imitate(model, shown, **settings)
    assert epochs == [1, 2]
    assert th.equal(probabilities(model, [0]), before)


def test_a_loss_that_is_not_finite_is_an_error_and_changes_nothing():
    model = agent(PPO, spaces.Box(-1, 1, (1,), np.float32))
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    samples = np.ones((8, 3), np.float32), np.full((8, 1), 1e30)
    with pytest.raises(
        FloatingPointError, match=saying("epoch 1", "actions of the demonstrations", "`learning_rate`", 0.5)
    ):
        imitate(model, samples, learning_rate=0.5, validation_fraction=0)
    assert all(th.equal(tensor, before[name]) for name, tensor in model.policy.state_dict().items())


def test_the_agents_optimiser_and_the_seed_are_left_alone():
    models = [agent(PPO, spaces.Discrete(2), spaces.Discrete(2)) for _ in range(2)]
    th.manual_seed(5)
    for model in models:
        imitate(model, (np.zeros(20, dtype=int), np.zeros(20, dtype=int)), n_epochs=2)
    drawn = th.rand(())
    th.manual_seed(5)
    assert th.rand(()) == drawn
    assert not models[0].policy.optimizer.state
    assert th.equal(probabilities(models[0], [0]), probabilities(models[1], [0]))


# What the agent has round it


def test_the_statistics_of_a_normalised_environment_take_in_the_demonstrations():
    env = VecNormalize(DummyVecEnv([lambda: TinyEnv(spaces.Discrete(2), spaces.Box(-9, 9, (1,), np.float32))]))
    model = PPO("MlpPolicy", env, seed=0, device="cpu", gamma=0.5)
    observations = np.array([[4.0], [6.0]] * 500, np.float32)
    shown = Demonstrations(observations, np.array([0, 1] * 500), rewards=[2.0] * 1000, ends=[1] * 1000)
    imitate(model, shown, n_epochs=30, critic=True)
    assert env.obs_rms.mean == pytest.approx([5.0], abs=0.01)
    assert env.obs_rms.var == pytest.approx([1.0], abs=0.03)
    assert model.predict(env.normalize_obs(observations[:2]), deterministic=True)[0].tolist() == [0, 1]


def test_losses_of_each_epoch_are_in_the_log(tmp_path):
    model = agent(PPO, spaces.Discrete(2), spaces.Discrete(2))
    model.set_logger(configure(str(tmp_path), ["csv"]))
    found = imitate(model, (np.zeros(20, dtype=int), np.zeros(20, dtype=int)), n_epochs=2)
    model.logger.close()
    table = np.genfromtxt(tmp_path / "progress.csv", delimiter=",", names=True, deletechars="")
    assert table["imitation/loss"] == pytest.approx(found.actor.losses)
    assert table["imitation/validation_loss"] == pytest.approx(found.actor.validation_losses[1:])


def test_tensorboard_has_a_run_of_its_own(tmp_path):
    model = agent(PPO, spaces.Discrete(2), spaces.Discrete(2), tensorboard_log=str(tmp_path))
    imitate(model, (np.zeros(20, dtype=int), np.zeros(20, dtype=int)), n_epochs=1, progress_bar=True)
    assert [path.name for path in tmp_path.iterdir()] == ["imitation_1"]


def test_a_policy_learns_another_ones_task_from_its_episodes():
    class Teacher:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return (observation[:, 2] + observation[:, 3] > 0).astype(int), state

    model = sb3.A2C("MlpPolicy", "CartPole-v1", seed=0, device="cpu")
    shown = collect_demonstrations(Teacher(), make_vec_env("CartPole-v1", 2, seed=0), n_episodes=6)
    imitate(model, shown, n_epochs=10)
    env = gym.make("CartPole-v1")
    assert collect_demonstrations(model, env, 5, deterministic=True, seed=1).episode_returns.mean() > 150


# Errors


@pytest.mark.parametrize(
    ("shown", "facts"),
    [
        ((np.zeros((4, 2)), np.zeros(4)), ["`observations`", "(4, 2)", "(4, 3)"]),
        ((np.zeros((4, 3)), np.zeros((4, 2))), ["`actions`", "(4, 2)", "(4,)"]),
        ((np.zeros((4, 3)), np.array([0, 1, 2, 0])), ["`actions`", 2, "step 2", "Discrete(2)"]),
        ((np.zeros((4, 3)), np.array([0, 0.5, 0, 0])), ["`actions`", 0.5, "step 1", "Discrete(2)"]),
        (({"a": np.zeros((4, 3))}, np.zeros(4)), ["`observations`", "dictionary", "Box"]),
        (
            Demonstrations(np.zeros((4, 3)), np.zeros(4), action_space=spaces.Discrete(5)),
            ["action_space", "Discrete(5)", "Discrete(2)"],
        ),
    ],
)
def test_demonstrations_that_do_not_fit_are_refused(shown, facts):
    with pytest.raises(ValueError, match=saying(*facts)):
        imitate(agent(), shown)


@pytest.mark.parametrize("space", [spaces.Discrete(2, start=1), spaces.MultiDiscrete([2], start=[1])])
def test_sb3s_agents_do_not_imitate_actions_that_do_not_count_from_0(space):
    actions = np.ones((4, *space.shape), dtype=int)
    with pytest.raises(ValueError, match=saying("`actions`", "start=", "count from 0")):
        imitate(sb3.PPO("MlpPolicy", TinyEnv(space)), (np.zeros((4, 3)), actions))


def test_keys_and_bounds_count_where_they_matter():
    keys = agent(observation_space=spaces.Dict({"a": spaces.Discrete(2)}))
    with pytest.raises(ValueError, match=saying("`observations`", "['b']", "['a']")):
        imitate(keys, ({"b": np.zeros(4, dtype=int)}, np.zeros(4)))
    space = spaces.Box(-1, 1, (1,), np.float32)
    shown = Demonstrations(np.zeros((2, 3)), np.array([[0.0], [1.5]]))
    check_fit(shown, agent(PPO, space).policy)  # a clipped policy draws such actions
    squashed = agent(PPO, space, use_sde=True, policy_kwargs={"squash_output": True})
    with pytest.raises(ValueError, match=saying("`actions`", 1.5, "step 1", "squashed")):
        check_fit(shown, squashed.policy)


@pytest.mark.parametrize(
    ("name", "value"),
    [("n_epochs", 0), ("batch_size", 0), ("learning_rate", 0), ("validation_fraction", 1), ("patience", 0)],
)
def test_arguments_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=saying(f"`{name}`", value)):
        imitate(agent(), (np.zeros((4, 3)), np.zeros(4)), **{name: value})


def test_a_value_based_agent_has_no_policy_to_imitate_with():
    with pytest.raises(TypeError, match=saying("`agent`", "on-policy")):
        imitate(sb3.DQN("MlpPolicy", TinyEnv(), buffer_size=10), (np.zeros((4, 3)), np.zeros(4)))
