"""A3C with one worker is A2C, and with a delay a loop that can be written by hand."""

import pytest
import torch as th
from fakes import Spy, same, tiny_vec_env, weights
from gymnasium import spaces
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

from pg_agents import A2C, A3C, make_vec
from pg_agents.contract import Batches

TF = {"optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"alpha": 0.99, "eps": 1e-5}}
CASES = {
    "autograd": {"engine": "autograd"},
    "mlp": {"engine": "mlp"},
    "two environments, schedules": {"engine": "mlp", "learning_rate": lambda left: 1e-2 * left, "ent_coef": 0.01},
    "Adam": {"engine": "mlp", "use_rms_prop": False},
    "RMSprop of TensorFlow": {"engine": "autograd", "policy_kwargs": TF},
}


def optimizer_state(agent):
    state = agent.policy.optimizer.state_dict()["state"]
    return {f"{number}/{name}": th.as_tensor(value) for number, part in state.items() for name, value in part.items()}


@pytest.mark.parametrize("backend", ["auto", "processes"])
@pytest.mark.parametrize("case", CASES)
def test_one_worker_is_a2c_to_the_last_bit(case, backend):
    n_envs = 2 if "two" in case else 1
    kwargs = {"n_steps": 8, "seed": 0, **CASES[case]}
    reference = A2C("MlpPolicy", tiny_vec_env(n_envs), **kwargs).learn(90)
    agent = A3C("MlpPolicy", tiny_vec_env(n_envs), backend=backend, **kwargs).learn(90)
    assert same(weights(agent), weights(reference))
    assert same(optimizer_state(agent), optimizer_state(reference))
    assert (agent.num_timesteps, agent._n_updates) == (reference.num_timesteps, reference._n_updates)


WORLDS = {
    "one": ("pg/CartPole-v1", 1, {}),
    "three, and a time limit": ("pg/Pendulum-v1", 3, {"n_steps": 7, "gamma": 0.9, "gae_lambda": 0.8}),
    "schedules": (
        "pg/CartPole-v1",
        2,
        {"learning_rate": lambda left: 1e-2 * left, "ent_coef": lambda left: 0.1 * left},
    ),
    "Adam": ("pg/CartPole-v1", 1, {"use_rms_prop": False, "normalize_advantage": True}),
    "no value loss": ("pg/ShortCorridor-v0", 1, {"vf_coef": 0.0, "max_grad_norm": None}),
}


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("case", WORLDS)
def test_one_thread_is_a2c_to_the_last_bit(case, watched):
    """The compiled loop, and where a callback looks at every step, the loop with one update in each call."""
    env, n_envs, kwargs = WORLDS[case]
    agents = []
    for cls, backend in ((A2C, {}), (A3C, {"backend": "threads"})):
        agent = cls("MlpPolicy", make_vec(env, n_envs), seed=0, engine="mlp", **kwargs, **backend)
        agent.learn(1_900, callback=(lambda *_: True) if watched else None, log_interval=40)
        agents.append(agent)
    reference, agent = agents
    assert same(weights(agent), weights(reference))
    assert same(optimizer_state(agent), optimizer_state(reference))
    assert (agent.num_timesteps, agent._n_updates) == (reference.num_timesteps, reference._n_updates)
    told = [[(one["r"], one["l"]) for one in each.ep_info_buffer] for each in agents]
    assert told[0] == told[1]
    assert told[0]


@pytest.mark.parametrize("seed", [None, 5])
def test_one_thread_is_a2c_without_a_seed_and_with_one_that_is_set_later(seed):
    """Without one, luck is that of the environment and of torch as they are."""
    agents = []
    for cls, backend in ((A2C, {}), (A3C, {"backend": "threads"})):
        th.manual_seed(0)
        env = make_vec("pg/CartPole-v1", 2)
        env.seed(3)
        env.reset()
        agent = cls("MlpPolicy", env, engine="mlp", **backend)
        agent.set_random_seed(seed)
        agents.append(agent.learn(200))
    assert same(weights(agents[0]), weights(agents[1]))


def test_callbacks_of_one_worker_see_what_those_of_a2c_see():
    def seen(spy):
        names = ("rewards", "dones")
        (ended,), (info,) = spy.locals["dones"], spy.locals["infos"]
        # Workers send no observations, and infos only of ends.
        told = sorted(info.keys() - {"terminal_observation"}) if ended else None
        return spy.num_timesteps, *(spy.locals[name].tolist() for name in names), told

    spies = [Spy(step=seen), Spy(step=seen)]
    for cls, spy, kwargs in ((A2C, spies[0], {}), (A3C, spies[1], {"backend": "processes"})):
        env = tiny_vec_env(1, spaces.Discrete(3), time_limit=True)
        cls("MlpPolicy", env, n_steps=8, seed=0, engine="mlp", **kwargs).learn(48, callback=spy)
    assert spies[0].events == spies[1].events
    assert spies[0].seen == spies[1].seen


def test_callbacks_of_one_thread_are_told_the_ends_that_those_of_a2c_are_told():
    def seen(spy):
        return [
            (info["TimeLimit.truncated"], info["episode"]["r"], info["episode"]["l"])
            for info, done in zip(spy.locals["infos"], spy.locals["dones"], strict=True)
            if done
        ]

    spies = [Spy(step=seen), Spy(step=seen)]
    for cls, spy, kwargs in ((A2C, spies[0], {}), (A3C, spies[1], {"backend": "threads"})):
        env = make_vec("pg/CartPole-v1", 2, env_kwargs={"max_episode_steps": 20})
        cls("MlpPolicy", env, seed=0, engine="mlp", **kwargs).learn(200, callback=spy)
    assert spies[0].seen == spies[1].seen
    assert {cut for ends in spies[0].seen for cut, *_ in ends} == {False, True}


def by_hand(delay, n_updates, n_steps=4, gamma=0.99, rate=7e-4, alpha=0.99, eps=1e-5):
    """Algorithm S3 with one worker whose gradients arrive `delay` updates late."""
    env = tiny_vec_env()
    policy = A2C("MlpPolicy", env, seed=0, engine="autograd").policy
    parameters = [*policy.parameters()]
    past = [[p.detach().clone() for p in parameters]]
    squares = [th.zeros_like(p) for p in parameters]
    observation = th.as_tensor(env.reset())
    for update in range(n_updates):
        with th.no_grad():
            for p, old in zip(parameters, past[max(0, update - delay)], strict=True):
                p.copy_(old)
        observations, actions, rewards, dones = [], [], [], []
        for _ in range(n_steps):
            with th.no_grad():
                action, _, _ = policy(observation)
            observations.append(observation)
            actions.append(action)
            following, reward, done, _ = env.step(action.numpy())
            observation = th.as_tensor(following)
            rewards.append(reward[0])
            dones.append(done[0])
        with th.no_grad():
            target = policy.predict_values(observation).item()
        targets = []
        for reward, done in zip(reversed(rewards), reversed(dones), strict=True):
            target = reward + (0 if done else gamma * target)
            targets.insert(0, target)
        values, log_probs, _ = policy.evaluate_actions(th.cat(observations), th.cat(actions))
        advantages = th.tensor(targets, dtype=th.float32) - values.flatten()
        loss = -(advantages.detach() * log_probs).mean() + 0.5 * (advantages**2).mean()
        gradients = th.autograd.grad(loss, parameters)
        norm = sum((g**2).sum() for g in gradients) ** 0.5
        gradients = [g * min(1.0, 0.5 / (norm + 1e-6)) for g in gradients]
        squares = [alpha * v + (1 - alpha) * g**2 for v, g in zip(squares, gradients, strict=True)]
        past.append([p - rate * g / (v**0.5 + eps) for p, v, g in zip(past[-1], squares, gradients, strict=True)])
    return past[-1]


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_a_delayed_gradient_is_that_of_old_parameters_applied_to_the_newest(delay):
    agent = A3C("MlpPolicy", tiny_vec_env(), n_steps=4, delay=delay, seed=0, engine="autograd").learn(40)
    found = th.cat([p.detach().flatten() for p in agent.policy.parameters()])
    expected = th.cat([p.flatten() for p in by_hand(delay, 10)])
    # Float32 rounding in ten updates.
    th.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("use_rms_prop", [True, False])
@pytest.mark.parametrize("engine", ["autograd", "mlp"])
def test_a_step_elsewhere_is_the_step_that_it_would_have_been(engine, use_rms_prop):
    """θ' + step and θ + step move by the same step, whatever θ' is; θ stays."""
    moved = []
    for shift in (None, 0.0, 1.0):
        agent = A2C("MlpPolicy", tiny_vec_env(2), n_steps=8, seed=0, engine=engine, use_rms_prop=use_rms_prop)
        agent.rollout()
        before = [p.detach().clone() for p in agent.policy.parameters()]
        if shift is None:
            agent.train()
            moved.append([p - old for p, old in zip(agent.policy.parameters(), before, strict=True)])
        else:
            others = [old + shift for old in before]
            agent._engine.update_elsewhere(agent.policy, agent.rollout_buffer, agent.loss(), Batches(), others)
            assert all(th.equal(p, old) for p, old in zip(agent.policy.parameters(), before, strict=True))
            moved.append([other - (old + shift) for other, old in zip(others, before, strict=True)])
    assert all(map(th.equal, moved[0], moved[1]))
    for one, other in zip(moved[0], moved[2], strict=True):
        th.testing.assert_close(one, other, rtol=0, atol=2e-7)  # float32 near 1


def test_the_policy_outside_a_rollout_is_the_newest():
    agent = A3C("MlpPolicy", tiny_vec_env(), n_steps=4, delay=2, seed=0)
    newest = []
    train = agent.train
    agent.train = lambda: (train(), newest.append(weights(agent)))
    agent.learn(20, callback=lambda *_: agent.num_timesteps < 10)
    assert agent.num_timesteps == 10
    assert same(weights(agent), newest[1])
    assert not same(newest[0], newest[1])
