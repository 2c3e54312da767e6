"""A3C on a local Ray cluster."""

import os
import signal

import gymnasium as gym
import pytest
from fakes import same, weights

from pg_agents import A2C, A3C
from pg_agents.asynchronous.ray import Ray


@pytest.fixture(scope="module", autouse=True)
def ray():
    """The package, which takes seconds to import, with a cluster."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def a3c(env, **kwargs):
    return A3C("MlpPolicy", env, **{"backend": "ray", "seed": 0, "device": "cpu", **kwargs})


def test_one_actor_is_a2c_to_the_last_bit():
    reference = A2C("MlpPolicy", "CartPole-v1", seed=0, engine="autograd").learn(60)
    agent = a3c("CartPole-v1").learn(60)
    assert same(weights(agent), weights(reference))
    assert str(agent.policy.optimizer.state_dict()) == str(reference.policy.optimizer.state_dict())


def test_a_worker_that_is_killed_is_replaced_and_one_that_raises_ends_the_training(tmp_path):
    flag = str(tmp_path / "killed")

    def make():
        class HasBadDays(gym.Wrapper):
            n_steps = 0

            def step(self, action):
                self.n_steps += 1
                if self.n_steps == 18 and not os.path.exists(flag):
                    open(flag, "w").close()
                    os.kill(os.getpid(), signal.SIGKILL)
                if self.n_steps == 53:
                    raise ZeroDivisionError("at step 53")
                return super().step(action)

        return HasBadDays(gym.make("CartPole-v1"))

    agent = a3c(make)
    with pytest.raises(ZeroDivisionError, match="at step 53"):
        agent.learn(400, callback=lambda *_: True)
    assert os.path.exists(flag)
    # 15 of the first, whose fourth update was lost, and 50 of the second.
    assert agent.num_timesteps == 65


def test_the_death_of_the_parameters_ends_the_training_and_keeps_those_that_were_fetched_last(monkeypatch, ray):
    agent, seen, made = a3c("CartPole-v1"), [], []
    begin = Ray.__init__
    monkeypatch.setattr(Ray, "__init__", lambda self, *args: (made.append(self), begin(self, *args))[0])

    def kill(*_):
        seen.append(weights(agent))
        if agent.num_timesteps == 20:
            ray.kill(made[0]._parameters)
        return True

    with pytest.raises(ray.exceptions.RayError), pytest.warns(UserWarning, match="could not be fetched"):
        agent.learn(400, callback=kill)
    assert same(weights(agent), seen[-1])
    assert not same(weights(agent), seen[0])


def test_too_many_workers_for_the_cluster_are_refused():
    with pytest.raises(ValueError, match="`n_workers` is 3, but the Ray cluster has 2 CPUs"):
        a3c("CartPole-v1", n_workers=3).learn(400)


def test_the_compiled_engine_is_refused():
    with pytest.raises(ValueError, match="Workers on Ray have the engine 'autograd', but `engine` is 'mlp'"):
        a3c("CartPole-v1", engine="mlp").learn(400)
