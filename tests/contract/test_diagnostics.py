"""What the diagnostic callbacks log, against parameters that SB3 itself arrives at and sums done by hand."""

import pickle
import re
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from fakes import Spy, TinyEnv
from gymnasium import spaces
from scipy import stats
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import SimpleMultiObsEnv
from stable_baselines3.common.logger import KVWriter, Logger, configure
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import FlattenExtractor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pg_agents import A2C, A3C, PPO, REINFORCE, ActorCritic, ReinforceBaseline, theory
from pg_agents.diagnostics import AdvantageDiagnostics, GradientDiagnostics, PolicyDiagnostics, PolicyPicture
from pg_agents.engines import threads
from pg_agents.theory.policies import LinearActorCritic

SGD = {"optimizer_class": th.optim.SGD}
RATE = 0.125
STEP = {  # one step of RATE times the gradient of the policy's objective, and of nothing else
    "policy_kwargs": SGD,
    "learning_rate": RATE,
    "n_steps": 32,
    "ent_coef": 0.0,
    "vf_coef": 0.0,
    "max_grad_norm": np.inf,
    "use_rms_prop": False,
    "gae_lambda": 0.9,
}


IMPLEMENTATIONS = ["SB3", "autograd", "mlp"]


class Record(BaseCallback):
    """Keeps what the log holds and the parameters, whenever a rollout is complete."""

    def __init__(self):
        super().__init__()
        self.logs, self.parameters = [], []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.logs.append(dict(self.logger.name_to_value))
        self.parameters.append(flat(self.model.policy))


def flat(policy):
    return np.concatenate([parameter.detach().numpy().ravel().copy() for parameter in policy.parameters()])


def run(cls, env, callbacks, n_rollouts=1, policy="MlpPolicy", **kwargs):
    """Train for some rollouts; the agent, and a `Record` of them."""
    record = Record()
    agent = cls(policy, env, seed=3, device="cpu", **kwargs)
    agent.learn(n_rollouts * agent.n_steps * agent.n_envs, CallbackList([*callbacks, record]), log_interval=None)
    record.parameters.append(flat(agent.policy))
    return agent, record


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_norm_and_cosine_are_those_of_the_steps_that_sb3_takes(env, normalised, n_envs):
    _, record = run(
        sb3.A2C,
        make_vec_env(env, n_envs),
        [GradientDiagnostics(every=1)],
        n_rollouts=3,
        normalize_advantage=normalised,
        **STEP,
    )
    check_norms_and_cosines(record, np.diff(record.parameters, axis=0) / RATE)


def test_of_whole_episodes_only_the_steps_that_are_trained_on_count():
    rate = 2.0**-9  # episodes have larger gradients than steps, and must not make the policy certain
    kwargs = {"learning_rate": rate, "n_episodes": 2, "policy_kwargs": SGD, "gamma": 0.9}
    lengths = Spy(rollout_end=lambda spy: np.mean([info["l"] for info in list(spy.model.ep_info_buffer)[-6:]]))
    _, record = run(REINFORCE, make_vec_env("CartPole-v1", 3), [GradientDiagnostics(1), lengths], 1, **kwargs)
    gradients = np.diff(record.parameters, axis=0) / rate
    assert len(gradients) >= 2
    # REINFORCE sums over an episode's steps, where the diagnostics take the mean over all.
    check_norms_and_cosines(record, gradients / np.array(lengths.seen)[:, None])


def check_norms_and_cosines(record, gradients):
    norms = np.linalg.norm(gradients, axis=1)
    assert [log["gradient/norm"] for log in record.logs] == pytest.approx(norms, rel=2e-3)
    cosines = np.sum(gradients[1:] * gradients[:-1], axis=1) / norms[1:] / norms[:-1]
    assert "gradient/cosine" not in record.logs[0]
    assert [log["gradient/cosine"] for log in record.logs[1:]] == pytest.approx(cosines, abs=2e-3)


REWARDS = np.array([1.0, 2.0, 6.0])
BANDIT = theory.TabularMDP(np.ones((1, 3, 1)), REWARDS[None], horizon=1)
# Softmax at zero: the gradient of log π(a) is e_a - 1/3, and the advantage is the reward, since V = 0.
WEIGHTED = REWARDS[:, None] * (np.eye(3) - 1 / 3)
GRADIENT = WEIGHTED.mean(axis=0)
VARIANCE = np.mean(np.sum(WEIGHTED**2, axis=1)) - GRADIENT @ GRADIENT  # of one step


def on_the_bandit(cls, n_envs, n_steps, n_rollouts, every=1, **kwargs):
    settings = {**kwargs, "learning_rate": 0.0, "n_steps": n_steps, "gamma": 1.0, "ent_coef": 0.0}
    callbacks = [GradientDiagnostics(every)]
    _, record = run(cls, BANDIT.vector_env(n_envs), callbacks, n_rollouts, LinearActorCritic, **settings)
    return record.logs


def test_rollouts_of_a_single_step_are_put_together_in_succession_and_then_after_every_so_many():
    logs = on_the_bandit(ActorCritic, n_envs=1, n_steps=1, n_rollouts=40, every=20)
    norms = [log.get("gradient/norm") for log in logs]
    # From the first on eight, and from the twentieth after the last of them on.
    assert [i for i in range(40) if norms[i] != norms[max(i - 1, 0)]] == [7, 34]


def test_variance_and_snr_are_right_in_the_mean_on_a_bandit():
    logs = on_the_bandit(A2C, n_envs=4, n_steps=16, n_rollouts=120)
    found = [log["gradient/variance"] for log in logs]
    assert abs(np.mean(found) - VARIANCE / 64) < 4 * stats.sem(found)
    assert stats.sem(found) < 0.1 * VARIANCE / 64
    # Of ‖ĝ‖² less its noise, almost nothing is cut off at 0 with so much signal.
    signals = [log["gradient/snr"] * log["gradient/variance"] for log in logs]
    assert abs(np.mean(signals) - GRADIENT @ GRADIENT) < 4 * stats.sem(signals)


def test_rollouts_of_a_single_step_are_put_together():
    logs = on_the_bandit(ActorCritic, n_envs=1, n_steps=1, n_rollouts=8 * 120, value_learning_rate=0.0)
    # Nothing is changed between one measurement, of the default of 8, and the next.
    assert "gradient/norm" not in logs[6]
    assert logs[7]["gradient/norm"] == logs[14]["gradient/norm"] != logs[15]["gradient/norm"]
    found = np.array([[log["gradient/variance"], log["gradient/norm"] ** 2] for log in logs[7::8]])
    # Of a mean over 8 steps, E ‖ĝ‖² = ‖E ĝ‖² + its variance.
    expected = np.array([VARIANCE / 8, GRADIENT @ GRADIENT + VARIANCE / 8])
    assert (np.abs(found.mean(axis=0) - expected) < 4 * stats.sem(found)).all()
    assert (stats.sem(found) < 0.1 * expected).all()
    assert all("gradient/snr" in log for log in logs[7::8])


def test_advantages_are_described_as_numpy_does():
    agent, record = run(sb3.A2C, "Pendulum-v1", [AdvantageDiagnostics(every=1)], n_steps=64)
    advantages = agent.rollout_buffer.advantages.astype(float)
    log = record.logs[0]
    assert log["advantage/mean"] == pytest.approx(advantages.mean())
    assert log["advantage/std"] == pytest.approx(advantages.std())
    assert (log["advantage/min"], log["advantage/max"]) == (advantages.min(), advantages.max())
    assert log["advantage/positive"] == pytest.approx(np.mean(advantages > 0))
    assert sorted(log["advantage/distribution"].tolist()) == sorted(advantages.flatten())
    returns = agent.rollout_buffer.returns.astype(float)
    assert log["advantage/explained_variance"] == pytest.approx(1 - advantages.var() / returns.var(), rel=1e-4)


@pytest.mark.parametrize(("cls", "n_envs"), [(sb3.PPO, 2), (PPO, 2), (ReinforceBaseline, 3)])
def test_explained_variance_is_that_of_the_update(cls, n_envs):
    # Episodes of a different length: of those that wait for others, only some steps are trained on.
    kwargs = {"n_episodes": 2} if cls is ReinforceBaseline else {"n_steps": 64}
    agent, record = run(cls, make_vec_env("CartPole-v1", n_envs, seed=0), [AdvantageDiagnostics()], 1, **kwargs)
    updates = [log["train/explained_variance"] for log in record.logs[1:]]
    updates.append(agent.logger.name_to_value["train/explained_variance"])
    assert record.logs[0]["advantage/explained_variance"] == pytest.approx(updates[0], rel=1e-4)


def test_without_a_critic_or_with_equal_returns_nothing_is_explained():
    _, record = run(REINFORCE, "CartPole-v1", [AdvantageDiagnostics()])
    assert "advantage/explained_variance" not in record.logs[0]
    still = theory.TabularMDP(np.ones((1, 3, 1)), np.ones((1, 3)), horizon=1)
    _, record = run(A2C, still.vector_env(4), [AdvantageDiagnostics()], policy=LinearActorCritic)
    assert "advantage/mean" in record.logs[0]
    assert "advantage/explained_variance" not in record.logs[0]


def zero(agent):
    with th.no_grad():
        agent.policy.action_net.weight.zero_()
        agent.policy.action_net.bias.zero_()


@pytest.mark.parametrize("cls", [PPO, sb3.PPO])
def test_a_uniform_policy_has_all_the_entropy_there_can_be(cls):
    agent = cls("MlpPolicy", "CartPole-v1", n_steps=64, learning_rate=0.0, device="cpu")
    zero(agent)
    record = Record()
    agent.learn(64, CallbackList([PolicyDiagnostics(), record]), log_interval=None)
    assert record.logs[0]["policy/entropy"] == pytest.approx(np.log(2))
    assert record.logs[0]["policy/entropy_share"] == pytest.approx(1)
    assert agent.logger.name_to_value["policy/kl"] == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("cls", [PPO, sb3.PPO, A2C, sb3.A2C])
def test_kl_is_that_of_the_gaussians_before_and_after_the_update(cls):

    def keep(spy):
        states = th.tensor(spy.model.rollout_buffer.observations[:, 0].copy())
        return states, moments(spy.model.policy, states)

    def moments(policy, states):
        normal = policy.get_distribution(states).distribution
        return normal.mean.detach().double().numpy(), normal.stddev.detach().double().numpy()

    agent = cls("MlpPolicy", "Pendulum-v1", n_steps=64, learning_rate=1e-2, seed=0, device="cpu")
    kept = Spy(rollout_end=keep)
    agent.learn(64, CallbackList([PolicyDiagnostics(), kept]), log_interval=None)
    ((states, (mean, std)),) = kept.seen
    new_mean, new_std = moments(agent.policy, states)
    # KL(N(μ, σ²) ‖ N(m, s²)) = log(s / σ) + (σ² + (μ - m)²) / (2 s²) - 1/2
    expected = np.mean(np.log(new_std / std) + (std**2 + (mean - new_mean) ** 2) / (2 * new_std**2) - 0.5)
    assert expected > 1e-3
    assert agent.logger.name_to_value["policy/kl"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("cls", "kwargs"), [(sb3.PPO, {}), (PPO, {"engine": "autograd"}), (PPO, {"engine": "mlp"})], ids=IMPLEMENTATIONS
)
def test_kl_of_each_epoch_is_that_of_a_training_which_ends_there(cls, kwargs):
    def logged(n_epochs):
        agent = cls(
            "MlpPolicy", "CartPole-v1", n_steps=64, batch_size=16, n_epochs=n_epochs, seed=0, device="cpu", **kwargs
        )
        agent.learn(64, PolicyDiagnostics(), log_interval=None)
        return agent.logger.name_to_value

    log = logged(3)
    assert log["policy/kl_epoch_1"] == logged(1)["policy/kl"] > 0
    assert log["policy/kl_epoch_2"] == logged(2)["policy/kl"] != log["policy/kl_epoch_1"]
    assert "policy/kl_epoch_3" not in log


@pytest.mark.parametrize("engine", ["autograd", "mlp"])
def test_an_update_that_stops_early_has_the_kl_of_the_epochs_that_it_completed(engine):
    # One minibatch an epoch: the KL that it is stopped by is that after the epoch before, here the first.
    agent = PPO("MlpPolicy", "CartPole-v1", n_steps=64, target_kl=1e-9, seed=0, device="cpu", engine=engine)
    agent.learn(64, PolicyDiagnostics(), log_interval=None)
    log = agent.logger.name_to_value
    assert agent._n_updates == 2
    assert log["policy/kl_epoch_1"] == log["policy/kl"] > 0
    assert "policy/kl_epoch_2" not in log


def hooks(agent):
    """Functions of the diagnostics that are attributes of an agent or of its rollout buffer."""
    values = [*vars(agent).values(), *vars(agent.rollout_buffer).values()]
    return [one for one in values if str(getattr(one, "__module__", "")).startswith("pg_agents.diagnostics")]


@pytest.mark.parametrize(
    ("cls", "kwargs"),
    [
        (PPO, {"n_steps": 64}),
        (PPO, {"n_steps": 64, "engine": "autograd"}),
        (PPO, {"n_steps": 64, "batch_size": 24, "engine": "mlp"}),
        (PPO, {"n_steps": 64, "batch_size": 24, "target_kl": 1e-4, "engine": "mlp"}),
        (PPO, {"n_steps": 64, "policy_kwargs": {"optimizer_class": RMSpropTFLike}, "engine": "mlp"}),
        (sb3.PPO, {"n_steps": 64}),
        (REINFORCE, {}),
        (sb3.A2C, {"use_sde": True}),
    ],
)
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size of 24")
def test_training_goes_on_as_without_them(cls, kwargs):
    env = "Pendulum-v1" if kwargs.get("use_sde") else "CartPole-v1"
    callbacks = [GradientDiagnostics(1), AdvantageDiagnostics(1), PolicyDiagnostics(1)]
    watched, _ = run(cls, env, callbacks, n_rollouts=2, **kwargs)
    alone, _ = run(cls, env, [], n_rollouts=2, **kwargs)
    np.testing.assert_array_equal(flat(watched.policy), flat(alone.policy))
    states = [agent.policy.optimizer.state_dict()["state"].values() for agent in (watched, alone)]
    for one, other in zip(*states, strict=True):
        assert all(th.equal(th.as_tensor(one[name]), th.as_tensor(other[name])) for name in one)
    logs = [
        {key: value for key, value in agent.logger.name_to_value.items() if key.startswith("train/")}
        for agent in (watched, alone)
    ]
    assert logs[0] == logs[1] != {}
    assert hooks(watched) == []


def test_two_threads_arrive_at_the_same_when_watched(monkeypatch):
    monkeypatch.setattr("pg_agents.engines.mlp.learning.WORTH_A_THREAD", 0)
    monkeypatch.setattr("pg_agents.engines.mlp.learning.Pace.chosen", lambda *_: nullcontext(2))
    before = th.get_num_threads()

    def train(callback, n_threads):
        # So unequal that whoever did not wait would see a norm of an earlier minibatch.
        unequal = {"net_arch": {"pi": [256, 256], "vf": [4]}}
        agent = PPO(
            "MlpPolicy",
            "CartPole-v1",
            n_steps=64,
            batch_size=16,
            seed=3,
            device="cpu",
            engine="mlp",
            policy_kwargs=unequal,
        )
        th.set_num_threads(n_threads)
        try:
            available = Spy(step=lambda spy: threads.available())
            agent.learn(192, [callback, available] if callback else available)
            assert set(available.seen) == {n_threads}
        finally:
            th.set_num_threads(before)
        return flat(agent.policy), agent.logger.name_to_value["train/grad_norm"]

    alone, norm = train(None, n_threads=1)
    watched, watched_norm = train(PolicyDiagnostics(every=1), n_threads=2)
    np.testing.assert_array_equal(watched, alone)
    assert watched_norm == norm


@pytest.mark.parametrize("engine", ["autograd", "mlp"])
def test_a_checkpoint_between_rollout_and_update_has_nothing_of_them(engine, tmp_path):
    def copied(spy):
        spy.model.save(tmp_path / "agent")
        return pickle.loads(pickle.dumps(spy.model))

    checkpoint = Spy(rollout_end=copied)
    run(PPO, "CartPole-v1", [PolicyDiagnostics(), checkpoint], n_steps=64, engine=engine)
    for agent in (*checkpoint.seen, PPO.load(tmp_path / "agent")):
        assert agent.on_epoch is None
        assert "get" not in vars(agent.rollout_buffer)


class Unsteady(FlattenExtractor):
    """Features that differ while a policy is trained."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.changing = th.nn.Sequential(th.nn.BatchNorm1d(4), th.nn.Dropout(0.5))

    def forward(self, observations):
        return self.changing(super().forward(observations))


@pytest.mark.parametrize("cls", [PPO, sb3.PPO, A2C, sb3.A2C])
def test_dropout_and_batch_normalisation_are_left_alone(cls):
    kwargs = {"n_steps": 64, "policy_kwargs": {"features_extractor_class": Unsteady}}
    callbacks = [GradientDiagnostics(1), PolicyDiagnostics(1)]
    watched, _ = run(cls, "CartPole-v1", callbacks, n_rollouts=2, **kwargs)
    alone, _ = run(cls, "CartPole-v1", [], n_rollouts=2, **kwargs)
    for name, value in alone.policy.state_dict().items():
        assert th.equal(value, watched.policy.state_dict()[name]), name


def test_an_interrupted_update_leaves_nothing_behind():
    callback, agent = PolicyDiagnostics(1), sb3.PPO("MlpPolicy", "CartPole-v1", n_steps=64, device="cpu")

    def interrupt(*_):
        raise KeyboardInterrupt

    hook = agent.policy.optimizer.register_step_post_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(64, callback)
    hook.remove()
    sb3.PPO("MlpPolicy", "CartPole-v1", n_steps=64, device="cpu").learn(64, callback)
    agent.learn(64)
    pickle.dumps(agent.rollout_buffer)


def written(folder, kind, key):
    """Events of a TensorBoard log."""
    everything = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()
    return getattr(everything, kind)(key)


@pytest.mark.parametrize("cls", [PPO, sb3.PPO])
def test_tensorboard_has_each_kl_once_at_the_step_of_its_update(cls, tmp_path):
    record = Record()
    agent = cls("MlpPolicy", "CartPole-v1", n_steps=64, n_epochs=2, device="cpu")
    agent.set_logger(configure(str(tmp_path), ["tensorboard"]))
    agent.learn(192, CallbackList([PolicyDiagnostics(every=1), record]))
    log = dict(agent.logger.name_to_value)
    assert log["train/loss"] != 0
    # One that goes on in the same log, without the callback, does not write them again.
    agent.learn(64, reset_num_timesteps=False)
    agent.logger.close()
    found = written(tmp_path, "Scalars", "policy/kl")
    assert [event.step for event in found] == [64, 128, 192]
    assert [event.value for event in found] == pytest.approx(
        [before["policy/kl"] for before in (*record.logs[1:], log)], rel=1e-6
    )
    assert [event.step for event in written(tmp_path, "Scalars", "policy/kl_epoch_1")] == [64, 128, 192]
    assert [event.step for event in written(tmp_path, "Scalars", "policy/entropy")] == [64, 128, 192]
    # What SB3 writes with the next rollout comes once, and then: of the third update, after it has gone on.
    assert [event.step for event in written(tmp_path, "Scalars", "train/loss")] == [128, 192, 256]


class Table(KVWriter):
    """The keys that the table on stdout would have."""

    def __init__(self):
        self.keys = set()

    def write(self, key_values, key_excluded, step=0):
        self.keys |= {key for key in key_values if "stdout" not in (key_excluded[key] or ())}


def test_the_printed_table_has_all_keys_of_the_documentation_but_the_numbered_ones_and_the_histogram():
    table, watch = Table(), [GradientDiagnostics(every=1), AdvantageDiagnostics(every=1), PolicyDiagnostics(every=1)]
    for env in ("CartPole-v1", "Pendulum-v1"):
        agent = PPO("MlpPolicy", env, n_steps=32, batch_size=16, n_epochs=2, engine="autograd")
        agent.set_logger(Logger(None, [table]))
        agent.learn(96, CallbackList(watch), log_interval=1)
    page = (Path(__file__).parents[2] / "docs" / "diagnostics.md").read_text()
    rows = [re.findall(r"`([^`]+)`", row.split("|")[1]) for row in page.splitlines() if row.startswith("| `")]
    documented = {key if "/" in key else f"{keys[0].partition('/')[0]}/{key}" for keys in rows for key in keys}
    assert {"policy/std_{i}", "policy/kl_epoch_{i}", "advantage/distribution"} <= documented
    printed = {key for key in table.keys if key.partition("/")[0] in ("gradient", "advantage", "policy")}
    assert printed == documented - {"policy/std_{i}", "policy/kl_epoch_{i}", "advantage/distribution"}


def test_who_wants_no_log_gets_none(tmp_path):
    agent = PPO("MlpPolicy", "CartPole-v1", n_steps=64, device="cpu", tensorboard_log=str(tmp_path))
    agent.learn(64, [PolicyDiagnostics(), PolicyPicture(np.zeros((1, 4)))], log_interval=None)
    tags = EventAccumulator(str(tmp_path / "PPO_1")).Reload().Tags()
    assert (tags["scalars"], tags["images"]) == ([], [])


def test_who_goes_on_learning_goes_on_measuring():
    agent = PPO("MlpPolicy", "CartPole-v1", n_steps=64, device="cpu")
    picture = PolicyPicture(np.zeros((1, 4)), every=1)
    agent.learn(128, picture)
    agent.learn(64, picture, reset_num_timesteps=False)
    assert picture.timesteps == [0, 64, 128, 192]
    learnt = agent.policy.get_distribution(th.zeros(1, 4)).distribution.probs.detach().numpy()
    np.testing.assert_array_equal(picture.probabilities[-1], learnt)
    agent.learn(64, picture)
    assert picture.timesteps == [0, 64]


@pytest.mark.parametrize("cls", [PPO, sb3.PPO])
@pytest.mark.parametrize(
    "space",
    [spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3), spaces.Box(-1, 1, (2, 2))],
    ids=["MultiDiscrete", "MultiBinary", "Box"],
)
def test_they_serve_every_action_space(cls, space):
    everything = [GradientDiagnostics(), AdvantageDiagnostics(), PolicyDiagnostics()]
    agent = cls("MlpPolicy", TinyEnv(space, length=16), n_steps=64, device="cpu")
    zero(agent)
    record = Record()
    agent.learn(64, CallbackList([*everything, record]), log_interval=None)
    # Uniform: log 6 of 2 x 3 actions, log 8 of three bits; σ = 1 in four dimensions.
    entropy = {"MultiDiscrete": np.log(6), "MultiBinary": np.log(8), "Box": 2 * np.log(2 * np.pi * np.e)}
    assert record.logs[0]["policy/entropy"] == pytest.approx(entropy[type(space).__name__], rel=1e-5)
    assert ("policy/entropy_share" in record.logs[0]) == (not isinstance(space, spaces.Box))
    assert record.logs[0]["gradient/norm"] > 0


def test_a_rollout_is_measured_after_every_so_many_steps_and_the_first_one_always():
    _, record = run(PPO, "CartPole-v1", [AdvantageDiagnostics(every=200)], n_rollouts=7, n_steps=64)
    # After 64, and when 200 steps more have passed: 320.
    seen = [log.get("advantage/mean") for log in record.logs]
    assert [i for i in range(7) if i == 0 or seen[i] != seen[i - 1]] == [0, 4]


@pytest.mark.parametrize("cls", [PPO, sb3.PPO])
def test_a_gaussian_that_collapses_is_warned_of_once(cls):
    kwargs = {"policy_kwargs": {"log_std_init": -4.0}, "n_steps": 64, "learning_rate": 0.0}
    with pytest.warns(
        UserWarning, match=r"action dimension 0 has fallen to 0\.018 after 64 steps.*below 0\.02"
    ) as seen:
        run(cls, "Pendulum-v1", [PolicyDiagnostics(every=1)], n_rollouts=2, **kwargs)
    assert len(seen) == 1
    # Pendulum's torques reach to 2, so that σ = 0.018 is under a hundredth of them; it is above a 200th.
    _, record = run(cls, "Pendulum-v1", [PolicyDiagnostics(collapsed=0.005)], **kwargs)
    assert record.logs[0]["policy/std_0"] == pytest.approx(np.exp(-4))


def test_they_serve_dict_observations_whole_episodes_and_other_packages():
    from sb3_contrib import TRPO

    everything = [GradientDiagnostics(), AdvantageDiagnostics(), PolicyDiagnostics()]
    for cls, policy, env in (
        (PPO, "MultiInputPolicy", SimpleMultiObsEnv(random_start=False)),
        (REINFORCE, "MlpPolicy", make_vec_env("CartPole-v1", 3)),
        (TRPO, "MlpPolicy", "CartPole-v1"),
    ):
        kwargs = {} if cls is REINFORCE else {"n_steps": 128}
        _, record = run(cls, env, everything, policy=policy, **kwargs)
        assert {"gradient/snr", "advantage/std", "policy/entropy_share"} <= set(record.logs[0])


def test_the_picture_of_a_uniform_policy_over_three_actions_is_the_middle_of_the_simplex(tmp_path):
    mdp = theory.TabularMDP.random(n_states=2, n_actions=3, seed=0, horizon=4)
    picture = PolicyPicture(every=1, state_names=["left", "right"], action_names=["a", "b", "c"])
    agent = A2C("MlpPolicy", mdp.vector_env(2), n_steps=8, learning_rate=0.0, device="cpu")
    zero(agent)
    agent.set_logger(configure(str(tmp_path), ["tensorboard"]))
    agent.learn(48, picture, log_interval=1)
    agent.logger.close()
    assert picture.timesteps == [0, 16, 32, 48]
    assert np.stack(picture.probabilities) == pytest.approx(np.full((4, 2, 3), 1 / 3))
    axes = picture.figure().axes[0]
    drawn = {line.get_label(): line.get_xydata() for line in axes.lines}
    assert drawn["left"] == pytest.approx(np.tile([0.5, np.sqrt(0.75) / 3], (4, 1)))
    images = written(tmp_path, "Images", "policy/picture")
    assert [image.step for image in images] == picture.timesteps


def test_more_states_are_drawn_as_a_table_of_their_probabilities():
    picture = PolicyPicture(states=np.zeros((5, 4)), every=1)
    agent, _ = run(PPO, "CartPole-v1", [picture], n_steps=64, learning_rate=0.0)
    (image,) = picture.figure().axes[0].images
    expected = agent.policy.get_distribution(th.zeros(5, 4)).distribution.probs.detach().numpy()
    assert np.asarray(image.get_array()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradientDiagnostics(every=0), "every"),
        (lambda: GradientDiagnostics(n_blocks=1), "n_blocks"),
        (lambda: PolicyDiagnostics(collapsed=-1), "collapsed"),
        (lambda: PolicyDiagnostics(n_states=0), "n_states"),
    ],
)
def test_arguments_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("callback", "env", "message"),
    [
        (PolicyPicture(), "CartPole-v1", r"`states` must be given"),
        (PolicyPicture(states=np.zeros((2, 3))), "CartPole-v1", r"shape \(n, 4\).*\(2, 3\)"),
        (PolicyPicture(states=np.zeros((2, 4)), action_names=["left"]), "CartPole-v1", r"`action_names` must be 2"),
        (PolicyPicture(states=np.zeros((2, 3))), "Pendulum-v1", "Discrete actions"),
        (PolicyPicture(states=np.zeros((2, 3))), SimpleMultiObsEnv(), "Dict observations"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_training(callback, env, message):
    policy = "MlpPolicy" if isinstance(env, str) else "MultiInputPolicy"
    agent = PPO(policy, env, n_steps=64, device="cpu")
    with pytest.raises(ValueError, match=message):
        agent.learn(64, callback)
    assert agent.num_timesteps == 0


def test_other_algorithms_are_refused():
    from sb3_contrib import MaskablePPO, RecurrentPPO
    from sb3_contrib.common.envs import InvalidActionEnvDiscrete

    with pytest.raises(ValueError, match=r"is for on-policy algorithms, not for DQN"):
        sb3.DQN("MlpPolicy", "CartPole-v1", device="cpu").learn(10, GradientDiagnostics())
    with pytest.raises(ValueError, match="recurrent policies, which RecurrentPPO has"):
        RecurrentPPO("MlpLstmPolicy", "CartPole-v1", n_steps=8, device="cpu").learn(8, PolicyDiagnostics())
    masked = MaskablePPO("MlpPolicy", InvalidActionEnvDiscrete(dim=4, n_invalid_actions=1), n_steps=8, device="cpu")
    with pytest.raises(ValueError, match="masked actions, which MaskablePPO has"):
        masked.learn(8, PolicyDiagnostics())
    for elsewhere in ({"n_workers": 2}, {"backend": "threads"}):
        workers = A3C("MlpPolicy", "pg/CartPole-v1", engine="mlp", device="cpu", **elsewhere)
        with pytest.raises(ValueError, match="workers collect the rollouts of this A3C into buffers of theirs"):
            workers.learn(8, PolicyDiagnostics())
    A3C("MlpPolicy", "pg/CartPole-v1", engine="mlp", device="cpu").learn(8, PolicyDiagnostics())
    with pytest.raises(ValueError, match="no policy to draw"):
        PolicyPicture().figure()
