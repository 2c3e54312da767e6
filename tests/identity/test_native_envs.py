"""What is trained on in Gymnasium's vector environments, in each autoreset mode, is what a `DummyVecEnv` gives.

Scripted environments, which do not care for actions, and a policy whose learning rate is 0: each step has one right
advantage and one right return.
"""

import numpy as np
import pytest
import torch as th
from combinations import each_pair
from fakes import ScriptedEnv
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper

from pg_agents import A2C, PPO, REINFORCE, ReinforceBaseline
from pg_agents.envs.adapter import VectorEnvAdapter

pytestmark = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")

SAME_STEP, NEXT_STEP, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED
MODES, ENGINES = [SAME_STEP, NEXT_STEP, DISABLED], ["autograd", "mlp"]
every_mode = pytest.mark.parametrize("mode", MODES)
every_engine = pytest.mark.parametrize("engine", ENGINES)
EPISODES = [REINFORCE, ReinforceBaseline]


class Scripted(ScriptedEnv):
    """The observation is (environment, episode, t), the reward a number of its own in each step."""

    observation_space = spaces.Box(-1, np.inf, (3,), np.float32)

    def __init__(self, number, *lengths):
        super().__init__(*lengths, time_limit=None)
        self.number = number

    def observe(self):
        return np.array([self.number, self.episode, self.t], dtype=np.float32)

    def reward(self):
        return np.cos(self.number + 3 * self.episode + 0.7 * self.t)


class TrainedOn(BaseCallback):
    """Collects what each rollout gives to learn from: of each environment, in order, by (episode, t)."""

    def __init__(self):
        super().__init__()
        self.found = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        trained_on = buffer.trained_on
        trained_on = np.ones(buffer.rewards.shape, dtype=bool) if trained_on is None else trained_on
        for number in range(buffer.n_envs):
            for t in np.flatnonzero(trained_on[:, number]):
                observation = buffer.observations[t, number]
                assert observation[0] == number
                estimates = buffer.values[t, number], buffer.advantages[t, number], buffer.returns[t, number]
                self.found.append((number, *map(int, observation[1:]), *map(float, estimates)))

    def of(self, number):
        """What one environment gave: rows of episode, t, V, advantage and return."""
        return np.array([row[1:] for row in self.found if row[0] == number])


def vec_env(mode, scripts):
    singles = [lambda number=number, script=script: Scripted(number, *script) for number, script in enumerate(scripts)]
    if mode is None:
        return DummyVecEnv(singles)
    return VectorEnvAdapter(SyncVectorEnv(singles, autoreset_mode=mode))


def trained_on(cls, mode, scripts, timesteps, engine, wrap=lambda env: env, **kwargs):
    agent = cls("MlpPolicy", wrap(vec_env(mode, scripts)), learning_rate=0.0, seed=0, engine=engine, device="cpu",
                **kwargs)  # fmt: skip
    samples = TrainedOn()
    agent.learn(timesteps, callback=samples)
    return samples


def assert_same(given, wanted):
    """The same steps in the same order; numbers of order 1 that differ by a few roundings at most."""
    np.testing.assert_array_equal(given[:, :2], wanted[:, :2])
    np.testing.assert_allclose(given[:, 2:], wanted[:, 2:], rtol=1e-5, atol=1e-5)


STEPS = {PPO: {"batch_size": 6, "n_epochs": 2, "normalize_advantage": False}, A2C: {}}
every_step_algorithm = pytest.mark.parametrize("cls", STEPS)


@every_engine
@every_mode
@every_step_algorithm
def test_rollouts_of_whole_episodes_give_the_same_to_learn_from(cls, mode, engine):
    """Episodes of 4 steps, three to a rollout: in the mode NEXT_STEP with 3 resets between them."""
    scripts, kwargs = [[4], [4]], {"gae_lambda": 0.9, "gamma": 0.8, "engine": engine, **STEPS[cls]}
    wanted = trained_on(cls, None, scripts, 4 * 24, n_steps=12, **kwargs)
    n_steps = 15 if mode is NEXT_STEP else 12
    given = trained_on(cls, mode, scripts, 4 * 2 * n_steps, n_steps=n_steps, **kwargs)
    for number in range(2):
        # Four rollouts of three episodes.
        assert len(wanted.of(number)) == 48
        assert_same(given.of(number), wanted.of(number))


@pytest.mark.parametrize(("mode", "n_steps", "engine", "cls"), each_pair(MODES, [4, 5, 7], ENGINES, [PPO, A2C]))
def test_rollouts_that_end_anywhere_give_the_same_to_learn_from(cls, mode, engine, n_steps):
    """With λ = 0 an advantage does not depend on where its rollout ends, be it before, in or after a reset."""
    scripts = [[4], [1, 2], [5, 1, 1]]
    kwargs = {"gae_lambda": 0.0, "gamma": 0.8, "n_steps": n_steps, "engine": engine, **STEPS[cls]}
    wanted = trained_on(cls, None, scripts, 60 * 3, **kwargs)
    given = trained_on(cls, mode, scripts, 60 * 3, **kwargs)
    for number in range(3):
        length = len(given.of(number))
        # As many steps as were not resets.
        assert length == {0: 48, 1: 36, 2: 42}[number] if mode is NEXT_STEP and n_steps != 7 else length >= 36
        assert_same(given.of(number), wanted.of(number)[:length])


OPTIONS = {
    "REINFORCE": (REINFORCE, {}),
    "discounted": (REINFORCE, {"discount_updates": True, "baseline": "time"}),
    "total return": (REINFORCE, {"estimator": "total_return", "baseline": "leave_one_out"}),
    "ReinforceBaseline": (ReinforceBaseline, {}),
}


every_episodic = pytest.mark.parametrize(("algorithm", "mode", "engine"), each_pair(OPTIONS, MODES, ENGINES))


@every_episodic
def test_whole_episodes_give_the_same_to_learn_from(algorithm, mode, engine):
    """While one waits for the others, it plays episodes that are not counted; after that it may be anywhere."""
    cls, options = algorithm
    scripts = [[4, 2, 3], [1, 1, 6], [9, 1, 1]]
    kwargs = {"n_episodes": 3, "gamma": 0.8, "engine": engine, **options}
    wanted = trained_on(cls, None, scripts, 1, **kwargs)
    given = trained_on(cls, mode, scripts, 1, **kwargs)
    for number, script in enumerate(scripts):
        assert len(given.of(number)) == sum(script)
        assert_same(given.of(number), wanted.of(number))


@every_episodic
def test_rollouts_of_whole_episodes_follow_each_other(algorithm, mode, engine):
    """Nobody waits: the resets after the last episodes of a rollout are the beginning of the next."""
    cls, options = algorithm
    scripts, kwargs = [[4, 2, 3]] * 2, {"n_episodes": 2, "gamma": 0.8, "engine": engine, **options}
    wanted = trained_on(cls, None, scripts, 45, **kwargs)
    given = trained_on(cls, mode, scripts, 45, **kwargs)
    for number in range(2):
        assert given.of(number)[-1, 0] >= 4  # of the third rollout
        length = min(len(given.of(number)), len(wanted.of(number)))
        assert_same(given.of(number)[:length], wanted.of(number)[:length])


def counting(cls):
    """An algorithm that notes what its updates see, in each minibatch."""

    class Counting(cls):
        def minibatch_metrics(self, batch):
            self.seen = [*getattr(self, "seen", []), th.stack([batch.old_values, batch.advantages, batch.returns], 1)]
            return super().minibatch_metrics(batch)

    return Counting


class Looking(TrainedOn):
    """Has the log written after each update."""

    def _on_rollout_start(self):
        assert self.model.logger is not None

    def _on_training_end(self):
        assert self.model.logger is not None


@every_engine
@every_mode
@pytest.mark.parametrize("cls", [*STEPS, *EPISODES])
def test_updates_see_what_is_to_be_learnt_from_and_no_resets(cls, mode, engine):
    kwargs = {"n_steps": 10, **STEPS[cls]} if cls in STEPS else {"n_episodes": 2}
    agent = counting(cls)("MlpPolicy", vec_env(mode, [[4], [1, 2]]), learning_rate=0.0, gamma=0.8, seed=0,
                          engine=engine, device="cpu", **kwargs)  # fmt: skip
    samples = Looking()
    agent.learn(60, callback=samples)
    seen = th.cat(agent.seen).numpy()
    wanted = np.array([row[3:] for row in samples.found])
    wanted = np.repeat(wanted, agent.n_epochs, axis=0)
    assert seen.shape == wanted.shape
    for column in range(3):
        np.testing.assert_allclose(np.sort(seen[:, column]), np.sort(wanted[:, column]), rtol=1e-5, atol=1e-5)


class Through(VecEnvWrapper):
    """Changes nothing."""

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        return self.venv.step_wait()


@every_mode
@every_engine
def test_wrappers_do_not_hide_the_resets(mode, engine):
    kwargs = {"n_steps": 12, "engine": engine, **STEPS[PPO]}
    given = trained_on(PPO, mode, [[4], [4]], 48, wrap=lambda env: Through(Through(env)), **kwargs)
    wanted = trained_on(PPO, mode, [[4], [4]], 48, **kwargs)
    for number in range(2):
        assert len(given.of(number)) == (20 if mode is NEXT_STEP else 24)
        assert_same(given.of(number), wanted.of(number))


@every_engine
@pytest.mark.parametrize("cls", [*STEPS, *EPISODES])
def test_training_in_each_mode_changes_the_parameters_in_the_same_way(cls, engine):
    """With a learning rate: all parameters, after one update on the same samples."""
    results = {}
    for mode in (None, SAME_STEP, DISABLED, NEXT_STEP):
        n_steps = 10 if mode is NEXT_STEP else 8
        # One batch: in which order its samples come does not matter.
        steps = {PPO: {"n_steps": n_steps, "batch_size": 2 * n_steps, "n_epochs": 2}, A2C: {"n_steps": n_steps}}
        kwargs = steps.get(cls, {"n_episodes": 2})
        env = vec_env(mode, [[4], [4]])
        agent = cls("MlpPolicy", env, learning_rate=1e-2, seed=0, engine=engine, device="cpu", **kwargs)
        with th.no_grad():  # the same action at each step, whatever is drawn
            agent.policy.action_net.bias.copy_(th.tensor([5.0, -5.0]))
        agent.learn(2 * n_steps if cls in STEPS else 1)
        results[mode] = th.nn.utils.parameters_to_vector(agent.policy.parameters()).detach()
    for mode in (SAME_STEP, DISABLED, NEXT_STEP):
        # Adam and RMSprop make differences in the last digit of a small gradient 1e-3 of a step.
        th.testing.assert_close(results[mode], results[None], rtol=0, atol=1e-2 * 1e-2)


@every_engine
def test_a_rollout_of_nothing_but_resets_is_no_rollout_to_learn_from(engine):
    """One environment and one step to a rollout: after each episode there is one without a single transition."""
    env = vec_env(NEXT_STEP, [[3]])
    agent = A2C("MlpPolicy", env, n_steps=1, seed=0, engine=engine, device="cpu", learning_rate=1e-3).learn(20)
    assert all(th.isfinite(parameter).all() for parameter in agent.policy.parameters())
    assert agent.num_timesteps == 20


@every_engine
@every_mode
def test_a_vector_environment_may_be_given_as_it_is(mode, engine):
    vector_env = SyncVectorEnv([lambda: Scripted(0, 4), lambda: Scripted(1, 4)], autoreset_mode=mode)
    agent = PPO("MlpPolicy", vector_env, n_steps=8, batch_size=8, seed=0, engine=engine, device="cpu")
    samples = TrainedOn()
    agent.learn(32, callback=samples)
    n_resets = 3 if mode is NEXT_STEP else 0
    assert len(samples.of(0)) == len(samples.of(1)) == 16 - n_resets
