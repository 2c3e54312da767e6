"""What callbacks and environments may do to an agent's arrays while compiled code holds their addresses."""

import numpy as np
import pytest
import torch as th
from fakes import ScriptedEnv, Spy, TinyEnv, same, short, weights
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from pg_agents import A2C, PPO, REINFORCE


def when(event, act):
    """Does something to the agent at one event."""
    return Spy(**{event: lambda spy: act(spy.model)})


def test_state_of_the_optimiser_that_a_callback_replaces_is_the_one_that_counts():
    def forget(agent):
        for state in agent.policy.optimizer.state.values():
            state["square_avg"] = th.zeros_like(state["square_avg"])

    agents = []
    for engine in ("mlp", "autograd"):
        agent = short(A2C, TinyEnv(), engine=engine).learn(16)
        agent.learn(16, callback=when("rollout_start", forget), reset_num_timesteps=False)
        agents.append(agent)
    # Stale addresses of what was replaced would be written to, and these would stay zero.
    for agent in agents:
        squares = [state["square_avg"] for state in agent.policy.optimizer.state.values()]
        assert all(bool((square >= 0).all()) for square in squares)
        assert sum(float(square.sum()) for square in squares) > 0


def test_parameters_that_are_given_another_place_in_mid_rollout_act_from_then_on():
    def vanish(agent):
        parameters = list(agent.policy.parameters())
        th.nn.utils.vector_to_parameters(th.zeros(sum(p.numel() for p in parameters)), parameters)

    agent = short(A2C, TinyEnv(), engine="mlp", learning_rate=0.0).learn(8, callback=when("step", vanish))
    assert (agent.rollout_buffer.values.flatten()[1:] == 0).all()


class ChangesActions(TinyEnv):
    def step(self, action):
        action += 10**7
        return super().step(action * 0)


def test_actions_that_an_environment_changes_in_place_are_refused():
    env = ChangesActions(action_space=spaces.MultiDiscrete([2, 3]))
    with pytest.raises(IndexError, match="outside the action space"):
        short(A2C, env, engine="mlp").learn(8)


@pytest.mark.parametrize("engine", ["autograd", "mlp"])
def test_a_last_observation_of_the_wrong_shape_is_refused(engine, monkeypatch):
    agent = A2C("MlpPolicy", ScriptedEnv(1, time_limit=True), engine=engine, device="cpu")
    step = agent.env.step_wait

    def wrong():
        observations, rewards, dones, infos = step()
        for info in infos:
            info["terminal_observation"] = np.zeros(3, np.float32)
        return observations, rewards, dones, infos

    monkeypatch.setattr(agent.env, "step_wait", wrong)
    with pytest.raises(ValueError, match=r"Unexpected observation shape \(3,\)"):
        agent.learn(5)


OTHER_SHAPES = {
    "wrong shape": ({"a": np.zeros(3, np.float32), "b": np.int64(0)}, r"shape \(3,\) of 'a'"),
    "wrong shape of a category": ({"a": np.zeros(2, np.float32), "b": np.zeros(2)}, r"shape \(2,\) of 'b'"),
    "missing part": ({"a": np.zeros(2, np.float32)}, r"with the keys \['a'\] for the observation space Dict"),
    "further part": ({"a": np.zeros(2, np.float32), "b": 0, "c": 0}, r"with the keys \['a', 'b', 'c'\]"),
    "no parts": (np.zeros(2, np.float32), "of type ndarray"),
}


@pytest.mark.parametrize(("last", "said"), OTHER_SHAPES.values(), ids=OTHER_SHAPES)
def test_a_last_observation_with_other_parts_is_refused(last, said, monkeypatch):
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Discrete(3)})
    agent = short(A2C, TinyEnv(observation_space=space, time_limit=True), "MultiInputPolicy", engine="mlp")
    step = agent.env.step_wait

    def wrong():
        observations, rewards, dones, infos = step()
        return observations, rewards, dones, [{**info, "terminal_observation": last} for info in infos]

    monkeypatch.setattr(agent.env, "step_wait", wrong)
    with pytest.raises(ValueError, match=f"Unexpected observation {said}"):
        agent.learn(8)


def test_advantages_of_another_type_are_the_same_advantages():
    def widen(agent):
        agent.rollout_buffer.advantages = agent.rollout_buffer.advantages.astype(np.float64)

    plain = short(PPO, TinyEnv(), engine="mlp").learn(64)
    widened = short(PPO, TinyEnv(), engine="mlp").learn(64, callback=when("rollout_end", widen))
    assert same(weights(plain), weights(widened))


def test_hooks_on_parameters_are_respected():
    agent = short(PPO, TinyEnv())
    agent.policy.action_net.weight.register_hook(lambda gradient: gradient * 0)
    before = agent.policy.action_net.weight.detach().clone()
    agent.learn(32)
    assert agent.engine_in_use == "autograd"
    assert th.equal(agent.policy.action_net.weight, before)


def test_actions_are_drawn_from_another_stream_than_the_environments_have():
    agent = short(PPO, TinyEnv(), seed=3)
    actions = agent.action_generator().random(1000)
    environment = np.random.default_rng(3).random(1000)
    assert abs(np.corrcoef(actions, environment)[0, 1]) < 0.15  # five standard deviations of 1/sqrt(1000)
    assert not np.isin(actions, environment).any()


def test_a_schedule_is_logged_as_it_was_in_the_update():
    """The clip range ends at 0, where nearly every ratio would count as clipped."""

    def look(spy):
        return spy.model._n_updates and spy.model.logger.name_to_value["train/clip_fraction"]

    kwargs = {"clip_range": lambda progress: 0.2 * progress, "learning_rate": 0.01, "n_steps": 32, "n_epochs": 4}
    looks = Spy(rollout_start=look), Spy(rollout_end=look)
    for spy in looks:
        short(PPO, TinyEnv(), engine="mlp", **kwargs).learn(128, callback=spy, log_interval=None)
    assert looks[0].seen == looks[1].seen
    assert max(looks[0].seen) > 0


# SB3's own assertion, which the autograd engine meets, has no words.
@pytest.mark.parametrize(("engine", "said"), [("mlp", r"^The rollout buffer is not full\.$"), ("autograd", "^$")])
def test_training_on_a_buffer_that_is_not_full_is_refused_as_in_sb3(engine, said):
    agent = short(PPO, TinyEnv(), engine=engine)
    with pytest.raises(AssertionError, match=said) as refused:
        agent.learn(32, callback=Spy(lambda spy: spy.model.train()))
    assert engine == "mlp" or refused.traceback[-1].name == "get"


@pytest.mark.parametrize("engine", ["autograd", "mlp"])
@pytest.mark.parametrize("options", [{"estimator": "total_return"}, {"discount_updates": True}], ids=str)
def test_episodes_that_end_beside_a_reset_row_keep_their_weights(engine, options):
    """Environments with episodes of 2 and 3 steps: one ends while the other is reset."""
    found = []
    for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP):
        env = SyncVectorEnv([lambda: ScriptedEnv(2), lambda: ScriptedEnv(3)], autoreset_mode=mode)
        agent = REINFORCE("MlpPolicy", env, n_episodes=2, gamma=0.5, engine=engine, device="cpu", seed=0, **options)
        agent.learn(1)
        buffer = agent.rollout_buffer
        trained_on = buffer.trained_on
        advantages = buffer.advantages.reshape(trained_on.shape[::-1]).T if engine == "autograd" else buffer.advantages
        found.append([advantages[trained_on[:, i], i].tolist() for i in range(2)])
    assert found[0] == found[1]


@pytest.mark.parametrize("engine", ["autograd", "mlp"])
def test_a_rollout_of_nothing_but_resets_teaches_nothing(engine):
    env = SyncVectorEnv([lambda: ScriptedEnv(1)], autoreset_mode=AutoresetMode.NEXT_STEP)
    agent = A2C("MlpPolicy", env, n_steps=1, engine=engine, device="cpu", seed=0).learn(6)
    assert agent.num_timesteps == 6
    assert agent._n_updates == 3
