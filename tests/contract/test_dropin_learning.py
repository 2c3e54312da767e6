"""What "drop-in for SB3" means for callbacks, logging, randomness and updates. See also test_dropin.py.

SB3's own classes are the oracle wherever they can be.
"""

import time
from copy import deepcopy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from fakes import ALL, FIRST_ORDER, NATURAL, REFERENCES, SB3S, Spy, TinyEnv, same, short, tiny_vec_env, weights
from gymnasium import spaces
from stable_baselines3.common.callbacks import EvalCallback, EveryNTimesteps, StopTrainingOnMaxEpisodes
from stable_baselines3.common.logger import HumanOutputFormat, configure
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv

from pg_agents import PPO, REINFORCE

BOX = spaces.Box(np.float32([-1, 0]), np.float32([1, 3]))
FALSE = [False, np.bool_(False), th.tensor(False), 0]


def both(cls, *args, total=64, **kwargs):
    """Ours and SB3's after the same training."""
    theirs = short(REFERENCES[cls], *args, **kwargs).learn(total)
    return short(cls, *args, engine="autograd", **kwargs).learn(total), theirs


# 19*. Callbacks stop training


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("answer", FALSE, ids=lambda answer: type(answer).__name__)
def test_a_false_callback_stops_at_once_without_a_training_phase(cls, answer):
    env = tiny_vec_env(2)
    agent = short(cls, env)
    before = weights(agent)
    spy = Spy(answer=lambda spy: answer if spy.n_calls == 3 else True)
    assert agent.learn(100, callback=spy) is agent
    assert (agent.num_timesteps, len(env.envs[0].actions)) == (6, 3)
    assert spy.events == ["training_start", "rollout_start", "step", "step", "step", "training_end"]
    assert same(weights(agent), before)
    # And it can go on.
    agent.learn(20, reset_num_timesteps=False)
    assert not same(weights(agent), before)


# 20*. What callbacks see


@pytest.mark.parametrize("cls", ALL)
def test_callbacks_see_sb3s_local_variables(cls):
    names = {"self", "env", "callback", "rollout_buffer", "n_rollout_steps", "n_steps", "obs_tensor", "clipped_actions"}
    names |= {"actions", "values", "log_probs", "new_obs", "rewards", "dones", "infos"}
    env = tiny_vec_env(2, length=20)

    def look(spy):
        seen = spy.locals
        assert names <= set(seen)
        assert isinstance(seen["new_obs"], np.ndarray)
        assert all(map(env.observation_space.contains, seen["new_obs"]))
        np.testing.assert_array_equal(seen["actions"], seen["clipped_actions"])
        np.testing.assert_array_equal(seen["rewards"], seen["actions"] + spy.n_calls)
        assert isinstance(seen["values"], th.Tensor)
        assert seen["dones"].shape == seen["log_probs"].shape == (2,)
        assert len(seen["infos"]) == 2

    spy = Spy(training_start=lambda spy: spy.locals["total_timesteps"], step=look)
    short(cls, env).learn(16, callback=spy)
    assert spy.seen[0] == 16


@pytest.mark.parametrize("cls", ALL)
def test_children_of_callbacks_see_the_same_observation(cls):
    spies = [Spy(step=lambda spy: spy.locals["new_obs"]) for _ in range(3)]
    short(cls).learn(8, callback=[spies[0], spies[1], EveryNTimesteps(1, spies[2])])
    assert len(spies[0].seen) == len(spies[1].seen) == len(spies[2].seen) >= 5
    for first, second, third in zip(*(spy.seen for spy in spies), strict=True):
        assert first is second is third


@pytest.mark.parametrize("cls", ALL)
def test_a_callback_may_be_none_a_list_or_a_function(cls):
    calls = []
    agent = short(cls)
    agent.learn(8, callback=None)
    agent.learn(8, callback=[])
    agent.learn(8, callback=lambda local_variables, global_variables: calls.append(local_variables["rewards"]) or True)
    assert len(calls) == agent.num_timesteps


@pytest.mark.parametrize("cls", ALL)
def test_sb3s_own_callbacks_work(cls, tmp_path):
    evaluation = EvalCallback(TinyEnv(), eval_freq=4, best_model_save_path=str(tmp_path), verbose=0, warn=False)
    agent = short(cls).learn(1000, callback=[evaluation, StopTrainingOnMaxEpisodes(3)])
    assert agent.num_timesteps == 15
    assert cls.load(tmp_path / "best_model", device="cpu").predict(np.zeros(3, np.float32))[0] in (0, 1)


# 21*. The order of things


@pytest.mark.parametrize("cls", ALL)
def test_each_update_collects_then_logs_then_trains(cls, monkeypatch):
    agent, events = short(cls), []

    def note(name):
        method = getattr(agent, name)
        monkeypatch.setattr(agent, name, lambda *args, **kwargs: [events.append(name), method(*args, **kwargs)][1])

    for name in ("collect_rollouts", "dump_logs", "train"):
        note(name)
    agent.learn(16, log_interval=1)
    assert events[:6] == 2 * ["collect_rollouts", "dump_logs", "train"]
    logged = agent.logger.name_to_value
    of_the_loss = {"train/policy_objective"} if cls in NATURAL else {"train/loss", "train/entropy_loss"}
    assert {"train/n_updates", "train/learning_rate"} | of_the_loss <= set(logged)
    # What belongs to the rollout has been written and is gone.
    assert not [key for key in logged if not key.startswith("train/")]


# 22. Logging


class Memory(HumanOutputFormat):
    """Keeps every row that is written."""

    def __init__(self):
        self.rows = []

    def write(self, key_values, key_excluded, step=0):
        self.rows.append(dict(key_values))

    def close(self):
        pass


def with_memory(agent):
    memory, logger = Memory(), configure(None, [])
    logger.output_formats.append(memory)
    agent.set_logger(logger)
    return agent, memory


@pytest.mark.parametrize("cls", ALL)
def test_dump_logs_works_in_the_middle_of_a_rollout(cls):
    agent, memory = with_memory(short(cls, TinyEnv(length=20)))
    agent.learn(8, callback=Spy(step=lambda spy: spy.model.dump_logs()), log_interval=None)
    assert [row["time/total_timesteps"] for row in memory.rows] == list(range(1, agent.num_timesteps + 1))


@pytest.mark.parametrize("cls", ALL)
def test_the_frame_rate_restarts_for_each_learn_and_survives_a_standing_clock(cls, monkeypatch):
    now = [10**18]
    monkeypatch.setattr(time, "time_ns", lambda: now[0])
    agent, memory = with_memory(short(cls))
    agent.learn(8, log_interval=None)
    agent.dump_logs()
    assert memory.rows[-1]["time/fps"] > 10**9

    def advance(spy):
        now[0] += 10**9 // 4

    agent.num_timesteps = 10_000
    agent.learn(1, log_interval=1, reset_num_timesteps=False, callback=Spy(step=advance))
    assert memory.rows[-1]["time/fps"] == 4
    agent.num_timesteps = 0
    agent.dump_logs()
    assert memory.rows[-1]["time/fps"] < 0


@pytest.mark.parametrize("cls", ALL)
def test_success_rate_and_episode_means_are_over_the_window(cls):
    agent, memory = with_memory(short(cls, TinyEnv(success=True), stats_window_size=2))
    agent.learn(40, log_interval=1)
    assert agent.ep_info_buffer.maxlen == agent.ep_success_buffer.maxlen == 2
    assert memory.rows[-1]["rollout/success_rate"] == 1
    assert memory.rows[-1]["rollout/ep_len_mean"] == 5
    assert memory.rows[-1]["rollout/ep_rew_mean"] == np.mean([info["r"] for info in agent.ep_info_buffer])


@pytest.mark.parametrize("cls", SB3S)
def test_the_same_rows_are_logged_as_by_sb3(cls, monkeypatch):
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    rows = []
    for each in (cls, REFERENCES[cls]):
        agent, memory = with_memory(short(each, tiny_vec_env(2), **({"engine": "autograd"} if each is cls else {})))
        agent.learn(64, log_interval=1)
        rows.append(memory.rows)
    assert len(rows[0]) == len(rows[1])
    for ours, theirs in zip(*rows, strict=True):
        # Means of a few float32 numbers, summed in another order and precision.
        assert {key: ours[key] for key in theirs} == pytest.approx(theirs, rel=1e-5, abs=1e-7, nan_ok=True)


@pytest.mark.parametrize("cls", ALL)
def test_log_interval_counts_updates(cls):
    agent, memory = with_memory(short(cls))
    agent.learn(64, log_interval=3)
    assert [row["time/iterations"] for row in memory.rows] == list(range(3, len(memory.rows) * 3 + 1, 3))
    assert len(memory.rows) >= 2


# 23. Names of runs


@pytest.mark.parametrize("cls", ALL)
def test_a_run_is_called_after_its_class_and_goes_on_in_its_folder(cls, tmp_path):
    def folders():
        return sorted(folder.name for folder in tmp_path.iterdir())

    class Mine(cls):
        pass

    agent = short(cls, tensorboard_log=str(tmp_path))
    name = cls.__name__
    assert agent.learn(8) is agent
    agent.learn(8, reset_num_timesteps=False)
    assert folders() == [f"{name}_1"]
    agent.learn(8)
    assert folders() == [f"{name}_1", f"{name}_2"]
    agent.learn(8, tb_log_name="given")
    assert folders() == [f"{name}_1", f"{name}_2", "given_1"]
    Mine("MlpPolicy", TinyEnv(), tensorboard_log=str(tmp_path / "mine"), device="cpu").learn(
        1, callback=lambda *_: False
    )
    assert [folder.name for folder in (tmp_path / "mine").iterdir()] == ["Mine_1"]


# 24. Attributes


@pytest.mark.parametrize("cls", ALL)
def test_agents_take_any_attribute_and_have_those_that_others_use(cls, tmp_path):
    agent = short(cls, gamma=0.9)
    agent.mine = {"anything": [1, 2]}
    agent.save(tmp_path / "agent")
    loaded = cls.load(tmp_path / "agent", env=TinyEnv(), device="cpu")
    assert loaded.mine == {"anything": [1, 2]}
    assert (loaded.gamma, loaded.gae_lambda, loaded.n_steps) == (0.9, agent.gae_lambda, agent.n_steps)
    assert loaded.env is loaded.get_env()
    assert loaded.device == th.device("cpu")
    assert isinstance(loaded.policy, ActorCriticPolicy)


# 25. Seeds


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("action_space", [spaces.Discrete(4), BOX], ids=["discrete", "box"])
def test_two_runs_with_one_seed_agree_to_the_last_bit_and_another_seed_differs(cls, action_space):
    def run(seed):
        agent = short(cls, tiny_vec_env(2, action_space), seed=seed).learn(40)
        observations = np.random.default_rng(0).uniform(-1, 1, (50, 3)).astype(np.float32)
        return weights(agent), agent.predict(observations, deterministic=False)[0]

    (first, first_actions), (again, again_actions), (other, _) = run(1), run(1), run(2)
    assert same(first, again)
    np.testing.assert_array_equal(first_actions, again_actions)
    assert not same(first, other)


@pytest.mark.parametrize("cls", ALL)
def test_set_random_seed_reseeds_everything(cls):
    results = []
    for _ in range(2):
        agent = short(cls, tiny_vec_env(2), seed=None)
        agent.set_parameters(short(cls, seed=5).get_parameters())
        agent.set_random_seed(3)
        results.append(weights(agent.learn(24)))
    assert same(*results)


# 26. Dict observations and the same values flattened


VECTORS = {"b": spaces.Box(-1, 1, (2, 2)), "a": spaces.Box(-1, 1, (1,))}
CATEGORIES = {"d": spaces.Discrete(3), "e": spaces.MultiDiscrete([2, 3]), "c": spaces.MultiBinary(2)}
BY_ENGINE = {"auto": "mlp", "autograd": "autograd"}


# SB3's `test_consistency`, which has vectors only, and asks for the same predictions to rounding errors.
@pytest.mark.parametrize("engine", BY_ENGINE)
@pytest.mark.parametrize("parts", [VECTORS, {**VECTORS, **CATEGORIES}], ids=["vectors", "and categories"])
@pytest.mark.parametrize("cls", ALL)
def test_a_dict_observation_and_the_same_values_flattened_give_the_same_weights(cls, parts, engine):
    def env(flat):
        tiny = TinyEnv(observation_space=spaces.Dict(deepcopy(parts)))
        return DummyVecEnv([lambda: gym.wrappers.FlattenObservation(tiny) if flat else tiny])

    nested = short(cls, env(flat=False), "MultiInputPolicy", engine=engine).learn(40)
    flat = short(cls, env(flat=True), engine=engine).learn(40)
    assert nested.engine_in_use == flat.engine_in_use == BY_ENGINE[engine]
    assert same(weights(nested), weights(flat))
    assert not same(weights(nested), weights(short(cls, env(flat=True), engine=engine)))


# 27. What SB3's own tests do not notice


@pytest.mark.parametrize("cls", ALL)
def test_the_optimisers_state_is_saved_and_training_goes_on_as_if_it_had_not_been(cls, tmp_path):
    agent = short(cls, policy_kwargs={"optimizer_class": th.optim.Adam}).learn(40)
    agent.save(tmp_path / "agent")
    loaded = cls.load(tmp_path / "agent", env=TinyEnv(), device="cpu")
    assert next(iter(loaded.policy.optimizer.state_dict()["state"].values()))["step"] > 0
    for each in (agent, loaded):
        each.set_env(TinyEnv())
        each.set_random_seed(0)
        each.learn(20, reset_num_timesteps=False)
    assert same(weights(agent), weights(loaded))


@pytest.mark.parametrize("cls", ALL)
def test_the_learning_rates_schedule_reaches_the_optimiser(cls):
    agent = short(cls, TinyEnv(length=8), learning_rate=lambda progress: 1e-3 * progress)
    agent.learn(32)
    # Four updates after 8, 16, 24 and 32 of 32 steps: nothing remains at the last.
    assert agent.policy.optimizer.param_groups[0]["lr"] == agent.logger.name_to_value["train/learning_rate"] == 0
    agent.learn(31)
    # The last rollout ends after the last step. SB3's progress is then below 0, and its update unlearns.
    assert agent.policy.optimizer.param_groups[0]["lr"] == 0


def test_target_kl_stops_the_update_as_in_sb3():
    ours, theirs = both(PPO, target_kl=1e-6, n_epochs=10, learning_rate=0.01)
    assert ours._n_updates == theirs._n_updates < 64 / 8 * 10
    assert same(weights(ours), weights(theirs))


@pytest.mark.parametrize("option", ["clip_range", "clip_range_vf"])
def test_the_clip_range_limits_the_update_as_in_sb3(option):
    free = short(PPO, n_epochs=10, learning_rate=0.01, engine="autograd").learn(64)
    ours, theirs = both(PPO, n_epochs=10, learning_rate=0.01, **{option: 1e-3})
    assert same(weights(ours), weights(theirs))
    assert not same(weights(ours), weights(free))
    assert ours.logger.name_to_value[f"train/{option}"] == 1e-3


def test_a_schedule_of_the_clip_range_is_followed():
    agent = short(PPO, clip_range=lambda progress: 0.1 + 0.2 * progress).learn(16)
    assert agent.logger.name_to_value["train/clip_range"] == pytest.approx(0.1)


@pytest.mark.parametrize("cls", FIRST_ORDER)
@pytest.mark.parametrize("max_grad_norm", [1e-3, None])
def test_gradients_are_clipped_to_their_norm(cls, max_grad_norm):
    policy_kwargs = {"optimizer_class": th.optim.SGD}
    agent = short(cls, TinyEnv(length=8), max_grad_norm=max_grad_norm, learning_rate=1.0, policy_kwargs=policy_kwargs)
    if cls is PPO:
        agent.n_epochs = 1
    before = weights(agent)
    agent.learn(8)
    after = weights(agent)
    # One step of gradient descent with step size 1: the parameters move by the gradient.
    moved = th.cat([(after[name] - before[name]).flatten() for name in before]).norm().item()
    if max_grad_norm is None:
        assert moved > 0.01
    else:
        # Differences of float32 numbers of size 1 are exact to 1e-7 each, and there are some 10 000.
        assert moved == pytest.approx(max_grad_norm, abs=1e-5)


def test_reinforce_has_no_value_to_train():
    agent = short(REINFORCE).learn(8)
    assert not [key for key in agent.logger.name_to_value if "value" in key]
