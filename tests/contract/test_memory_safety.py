"""What callbacks and environments may do to an agent's arrays while compiled code holds their addresses."""

import numpy as np
import pytest
import torch as th
from fakes import ScriptedEnv, Spy, TinyEnv, same, short, weights
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import nn

from pg_agents import A2C, PPO, REINFORCE
from pg_agents.envs.make import make_vec


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


def set_data(name, change):
    def act(agent):
        parameter = dict(agent.policy.named_parameters())[name]
        parameter.data = change(parameter.data)

    return act


def set_array(name, change):
    def act(agent):
        setattr(agent.rollout_buffer, name, change(getattr(agent.rollout_buffer, name)))

    return act


def set_state(name, change):
    """Of the optimiser, for each parameter; None deletes it."""

    def act(agent):
        for state in agent.policy.optimizer.state.values():
            now = state.pop(name)
            if change is not None:
                state[name] = change(now)

    return act


def larger_head(agent):
    agent.policy.action_net = nn.Linear(64, 7)


def read_only(array):
    array = array.copy()
    array.setflags(write=False)
    return array


# What autograd says, or None where it goes on, of what is replaced at these moments.
REPLACED = {
    "head of one number, at once": ("training_start", set_data("action_net.weight", lambda w: th.zeros(1, 1)), "mat1"),
    "head of one number, in a step": ("step", set_data("action_net.weight", lambda w: th.zeros(1, 1)), "mat1"),
    "head of one number": ("rollout_end", set_data("action_net.weight", lambda w: th.zeros(1, 1)), "mat1"),
    "part of itself": ("rollout_end", set_data("action_net.weight", lambda w: w[:1]), ""),
    "transposed": ("rollout_end", set_data("mlp_extractor.policy_net.0.weight", lambda w: w.t()), "mat1"),
    "with gaps": ("rollout_end", set_data("action_net.weight", lambda w: th.stack([w, w], -1)[..., 0]), None),
    "of float64": ("rollout_end", set_data("action_net.weight", lambda w: w.double()), "dtype"),
    "larger head": ("rollout_end", larger_head, None),
    "fewer actions": ("rollout_start", set_array("actions", lambda a: a[:1].copy()), "out of bounds"),
    "no actions": ("rollout_start", set_array("actions", lambda a: a[:, :, :0].copy()), ""),
    "fewer values": ("rollout_start", set_array("values", lambda a: a[:1].copy()), ""),
    "values of float64": ("rollout_start", set_array("values", lambda a: a.astype(np.float64)), None),
    "values with gaps": ("rollout_start", set_array("values", lambda a: np.repeat(a, 2, 0)[::2]), None),
    "values to be read": ("rollout_start", set_array("values", read_only), "read-only"),
    "actions with gaps": ("rollout_start", set_array("actions", lambda a: np.repeat(a, 2, 0)[::2]), None),
    "fewer advantages": ("rollout_end", set_array("advantages", lambda a: a[:1].copy()), ""),
    "returns in a row": ("rollout_end", set_array("returns", lambda a: a.reshape(1, -1)), None),
    "place below 0": ("rollout_start", lambda agent: setattr(agent.rollout_buffer, "pos", -1), ""),
    "state with gaps": ("rollout_end", set_state("square_avg", lambda s: th.stack([s, s], -1)[..., 0]), None),
    "state of one number": ("rollout_end", set_state("square_avg", lambda s: th.zeros(1)), ""),
    "state of float64": ("rollout_end", set_state("square_avg", lambda s: s.double()), None),
    "state deleted": ("rollout_end", set_state("square_avg", None), "square_avg"),
}


@pytest.mark.parametrize(("moment", "act", "said"), REPLACED.values(), ids=REPLACED)
def test_what_is_replaced_by_something_else_is_found_before_compiled_code_gets_its_address(moment, act, said):
    """As autograd, and nothing is written where it does not belong: some of these have ended the process."""
    for engine in ("autograd", "auto"):
        agent = short(A2C, TinyEnv(), engine=engine, seed=0).learn(16)
        if said is None:
            agent.learn(16, callback=when(moment, act), reset_num_timesteps=False)
            assert all(bool(th.isfinite(value).all()) for value in weights(agent).values())
        else:
            with pytest.raises((RuntimeError, ValueError, IndexError, KeyError, AssertionError), match=said or None):
                agent.learn(16, callback=when(moment, act), reset_num_timesteps=False)


@pytest.mark.parametrize("name", [name for name, (_, _, said) in REPLACED.items() if "head of one" in name])
def test_the_compiled_engine_alone_refuses_a_parameter_by_name(name):
    moment, act, _ = REPLACED[name]
    with pytest.raises(ValueError, match=r"`action_net.weight` has the shape \(1, 1\), but must have \(2, 64\)"):
        short(A2C, TinyEnv(), engine="mlp").learn(16, callback=when(moment, act))


NOTHING = spaces.Box(-1, 1, (0,), np.float32)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize(
    ("env", "kwargs", "said"),
    [
        (TinyEnv(), {"policy_kwargs": {"net_arch": [0]}}, "layer without units"),
        (TinyEnv(), {"policy_kwargs": {"net_arch": [4, 0]}}, "layer without units"),
        (TinyEnv(action_space=NOTHING), {}, "action of .* has no numbers"),
    ],
    ids=["no units", "no units after some", "no action"],
)
def test_a_network_of_nothing_is_left_to_autograd(env, kwargs, said):
    with pytest.raises(ValueError, match=said):
        short(A2C, env, engine="mlp", **kwargs)
    assert short(A2C, env, **kwargs).engine_in_use == "autograd"


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", 0), ("batch_size", -5), ("batch_size", 2.5), ("n_epochs", 0)]
)
def test_sizes_that_are_none_any_more_are_refused_by_name(name, value):
    agent = short(PPO, TinyEnv(), engine="mlp")
    vars(agent)[name] = value  # past the check of what is assigned
    with pytest.raises(ValueError, match=f"`{name}` must be an integer at least 1"):
        agent.learn(16)


@pytest.mark.parametrize("engine", ["autograd", "mlp"])
def test_more_steps_than_the_buffer_has_rows_are_refused(engine):
    """In a world, where compiled code takes them, there was no end."""
    agent = A2C("MlpPolicy", make_vec("pg/CartPole-v1", 2, world=True), engine=engine, device="cpu")
    vars(agent)["n_steps"] = 9  # without another buffer, as an assignment would make it
    with pytest.raises(IndexError, match=r"pos` is 5|out of bounds"):
        agent.learn(18)


def test_episodes_of_another_number_of_copies_are_refused():
    agent = A2C("MlpPolicy", make_vec("pg/CartPole-v1", 8, world=True), engine="mlp", device="cpu")
    with pytest.raises(ValueError, match="has 2 copies, but was to have 64"):
        agent.roll_episodes(make_vec("pg/CartPole-v1", 2, world=True), np.ones(64, dtype=int))


def test_an_update_whose_epochs_begin_with_other_parameters_is_refused():
    agent = short(PPO, TinyEnv(), engine="mlp")
    agent.on_epoch = lambda: set_data("action_net.weight", lambda w: th.zeros(1, 1))(agent)
    with pytest.raises(RuntimeError, match="`on_epoch` has replaced parameters"):
        agent.learn(32)


def test_numbers_that_are_assigned_to_a_worlds_arrays_are_written_into_them():
    """Compiled code goes on writing to the array that it knows."""
    env = make_vec("pg/CartPole-v1", 2, world=True)
    env.reset()
    copies = env.copies
    states = copies.states
    copies.states = np.full((2, 4), 0.01)
    assert copies.states is states
    env.step(np.zeros(2, dtype=int))
    assert not np.array_equal(states, np.full((2, 4), 0.01))
    with pytest.raises(ValueError, match=r"`observed` of copies must have the shape \(2, 4\), but has \(1, 4\)"):
        copies.observed = np.zeros((1, 4))
    with pytest.raises(AttributeError, match="`table` of copies cannot be replaced"):
        copies.table = np.zeros(1)
    with pytest.raises(ValueError, match=r"`which` must be bools of shape \(2,\)"):
        copies.begin(np.ones(1, dtype=bool))
    with pytest.raises(ValueError, match=r"`seeds` must have the shape \(2, k\)"):
        copies.plan(np.zeros((1, 3), dtype=int))
