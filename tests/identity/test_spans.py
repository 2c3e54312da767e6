"""Updates that nobody watches are made in one compiled call, and nothing that can be read tells them from others.

A function as callback must be asked in every step, so it rules such calls out.
"""

import signal
from collections import Counter

import numpy as np
import pytest
import torch as th
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, StopTrainingOnMaxEpisodes
from stable_baselines3.common.logger import KVWriter, Logger

from pg_agents import A2C
from pg_agents import spans as spans_module
from pg_agents.base import unwatched
from pg_agents.envs.make import make_vec

pytest.importorskip("numba")

STORED = ["observations", "actions", "rewards", "values", "log_probs", "episode_starts", "advantages", "returns"]
STORED += ["env_rewards", "terminated", "truncated", "final_values"]
WORLDS = ["pg/CartPole-v1", "pg/Pendulum-v1", "pg/FrozenLake-v1"]
TIMES = {"time/fps", "time/time_elapsed"}


class Asked(BaseCallback):
    """It must be asked in every step, and does nothing."""

    def _on_step(self):
        return True


class Looks(BaseCallback):
    """It looks every so many steps, and notes what there is to see."""

    def __init__(self, frequency, stops_after=None):
        super().__init__()
        self.frequency, self.stops_after, self.seen = frequency, stops_after, []

    def next_look(self):
        return self.frequency - self.n_calls % self.frequency

    def _on_step(self):
        if self.n_calls % self.frequency:
            return True
        self.seen.append(facts(self.model))
        return self.stops_after is None or self.n_calls < self.stops_after


class Pages(KVWriter):
    """An output of the log that keeps all of it."""

    def __init__(self):
        self.pages = []

    def write(self, key_values, key_excluded, step=0):
        self.pages.append((step, known(key_values)))

    def close(self):
        pass


def known(key_values):
    return {name: value for name, value in key_values.items() if name not in TIMES}


def facts(agent):
    """All that can be read of a training and does not hold times."""
    state = agent.policy.optimizer.state_dict()
    return {
        "parameters": np.concatenate([p.detach().numpy().ravel() for p in agent.policy.parameters()]),
        "optimiser": [
            np.array(th.as_tensor(value).numpy()) for one in state["state"].values() for value in one.values()
        ],
        "groups": str(state["param_groups"]),
        "steps": agent.num_timesteps,
        "updates": agent._n_updates,
        "progress": agent._current_progress_remaining,
        "last observations": np.array(agent._last_obs),
        "last starts": np.array(agent._last_episode_starts, dtype=bool),
        "episodes": [(info["r"], info["l"]) for info in agent.ep_info_buffer],
        "own returns": list(agent.episode_statistics.finished),
        "running": np.array(agent.episode_statistics.running),
        "generator": str(agent.action_generator().bit_generator.state),
        "log": known(agent.logger.name_to_value),
        **{name: np.array(getattr(agent.rollout_buffer, name)) for name in STORED},
    }


def assert_same(one, other):
    np.testing.assert_equal(one, other)  # bit for bit, in containers too


class Spans:
    """Counts the updates that are made in calls of several."""

    def __init__(self, monkeypatch):
        self.updates, self.calls, advance = 0, 0, unwatched.advance

        self.refused = []

        def counted(agent, run, parts, n_updates):
            before = agent._n_updates
            self.calls += 1
            try:
                return advance(agent, run, parts, n_updates)
            finally:
                self.refused.append(parts.loop.refused)
                self.updates += agent._n_updates - before

        monkeypatch.setattr(unwatched, "advance", counted)


@pytest.fixture
def spans(monkeypatch):
    return Spans(monkeypatch)


def made(env="pg/CartPole-v1", n_envs=3, limit=20, **arguments):
    envs = make_vec(env, n_envs, seed=1, world=True, env_kwargs={"max_episode_steps": limit})
    agent = A2C("MlpPolicy", envs, seed=0, device="cpu", **arguments)
    pages = Pages()
    agent.set_logger(Logger(None, [pages]))
    return agent, pages


def both(*pieces, callbacks=list, log_interval=100, **arguments):
    """The same training with and without spans: for each the agent, its log and its callbacks."""
    found = []
    for also in ([], [Asked()]):
        agent, pages = made(**arguments)
        own = callbacks()
        for number, piece in enumerate(pieces):
            agent.learn(piece, CallbackList([*own, *also]), log_interval=log_interval, reset_num_timesteps=number == 0)
        found.append((agent, pages.pages, own))
    (one, log, seen), (other, expected_log, expected_seen) = found
    assert one.engine_in_use == other.engine_in_use == "mlp"
    assert_same(facts(one), facts(other))
    assert_same(log, expected_log)
    for callback, expected in zip(seen, expected_seen, strict=True):
        assert (callback.n_calls, callback.num_timesteps) == (expected.n_calls, expected.num_timesteps)
        assert_same(getattr(callback, "seen", None), getattr(expected, "seen", None))
    return one


CASES = {
    "defaults": {},
    "Adam": {"use_rms_prop": False},
    "normalised advantages": {"normalize_advantage": True, "gae_lambda": 0.9},
    "schedules": {"learning_rate": lambda progress: 1e-3 * progress, "ent_coef": lambda progress: 0.1 * progress},
    "no clipping": {"max_grad_norm": None, "n_steps": 3},
    "no hidden layer": {"policy_kwargs": {"net_arch": []}},
}


@pytest.mark.parametrize("env", WORLDS)
@pytest.mark.parametrize("case", CASES)
def test_updates_in_one_call_are_those_step_by_step(env, case, spans):
    agent = both(1700, env=env, **CASES[case])
    assert spans.updates > 0.8 * agent._n_updates
    assert len(agent.ep_info_buffer) > 10, "else ends of episodes are not tested"


@pytest.mark.parametrize("log_interval", [1, 3, 7, 20, 100, None])
def test_the_log_is_the_same(log_interval, spans):
    agent = both(1500, log_interval=log_interval)
    # 100 updates; the last of all is made in the usual way, as is each log's and the one before it.
    assert spans.updates == {1: 0, 3: 0, 7: 14 * 5, 20: 5 * 18, 100: 98, None: 99}[log_interval]
    assert agent._n_updates == 100


@settings(max_examples=6, deadline=None, phases=[Phase.generate])
@given(
    st.integers(17, 130),
    st.sampled_from([7, 30, 100, None]),
    st.integers(1, 6),
    st.integers(1, 4),
    st.lists(st.integers(1, 500), min_size=1, max_size=2),
    st.one_of(st.none(), st.integers(1, 200)),
)
def test_callbacks_that_look_at_odd_moments(frequency, log_interval, n_steps, n_envs, pieces, stops_after):
    both(
        *pieces,
        callbacks=lambda: [Looks(frequency, stops_after)],
        log_interval=log_interval,
        n_steps=n_steps,
        n_envs=n_envs,
    )


def test_looks_leave_room_for_calls(spans):
    both(1500, callbacks=lambda: [Looks(61)], log_interval=None)
    assert spans.updates > 70


class SeesRollouts(Looks):
    def _on_rollout_end(self):
        self.seen.append(facts(self.model))


class SeesBoundaries(Looks):
    def on_boundary(self):
        self.seen.append(facts(self.model))


@pytest.mark.parametrize("kind", [SeesRollouts, SeesBoundaries])
def test_a_callback_that_sees_every_rollout_is_called(kind, spans):
    both(300, callbacks=lambda: [CallbackList([kind(1000)])])
    assert spans.calls == 0


def test_a_training_stops_after_the_episode_that_was_asked_for(spans):
    both(3000, callbacks=lambda: [StopTrainingOnMaxEpisodes(40)])
    assert spans.calls == 0


class Counts(A2C):
    def _update_learning_rate(self, optimizers):
        self.counts = getattr(self, "counts", Counter()) + Counter(["updates"])
        super()._update_learning_rate(optimizers)


class OwnTrain(A2C):
    def train(self):
        super().train()
        with th.no_grad():
            self.policy.value_net.bias.zero_()


@pytest.mark.parametrize("kind", [Counts, OwnTrain])
def test_a_subclass_with_a_method_of_its_own_is_not_passed_over(kind, spans):
    agent = kind("MlpPolicy", make_vec("pg/CartPole-v1", 2, seed=1, world=True), seed=0).learn(500)
    assert spans.calls == 0
    assert agent.counts["updates"] == 50 if kind is Counts else agent.policy.value_net.bias.item() == 0


def test_a_patched_method_is_not_passed_over(spans):
    agent, _ = made()
    calls, train = [], agent.train
    agent.train = lambda: calls.append(train())
    agent.learn(600)
    assert len(calls) == 40
    assert spans.calls == 0


@pytest.mark.parametrize(
    ("name", "wrong", "refused"),
    [("learning_rate", np.nan, "parameter"), ("learning_rate", 1e37, "rollout"), ("vf_coef", np.inf, "gradient")],
)
def test_a_number_that_is_not_finite_is_refused_as_usual(name, wrong, refused, spans):
    found = []
    for also in (None, Asked()):
        agent, _ = made(**{name: lambda progress: wrong if progress < 0.5 else 1e-3})
        with pytest.raises((ValueError, FloatingPointError)) as error:
            agent.learn(1500, also)
        found.append((facts(agent), type(error.value), str(error.value)))
    assert spans.refused == [refused]
    (left, *said), (expected, *expected_said) = found
    assert said == expected_said
    for what in ("parameters", "optimiser", "groups", "updates", "steps", "generator", "progress"):
        assert_same(left[what], expected[what])


def test_ctrl_c_waits_for_the_end_of_a_call(monkeypatch):
    agent, _ = made()
    skip, sent = spans_module.skip, []

    def interrupted(*arguments):
        if not sent:
            sent.append(signal.raise_signal(signal.SIGINT))
        skip(*arguments)

    monkeypatch.setattr(spans_module, "skip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(6000)
    other, _ = made()
    # As many updates, all in the usual way.
    other.learn(98 * 15, Asked())
    left, expected = facts(agent), facts(other)
    for name in ("parameters", "optimiser", "updates", "steps", "generator", "last observations", "episodes", *STORED):
        assert_same(left[name], expected[name])
    assert agent.learn(600, reset_num_timesteps=False).num_timesteps == 98 * 15 + 600
