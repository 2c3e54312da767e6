"""`Single` and `Batched` over equations of which every number is known."""

from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from pg_envs import Batched, Dynamics, Single

SAME_STEP, NEXT_STEP, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED


class Clock(NamedTuple):
    """Steps of the episode so far."""

    t: np.ndarray


class State(NamedTuple):
    """A number drawn at the start, and, one level deeper, a clock."""

    drawn: np.ndarray
    clock: Clock


class Count(Dynamics):
    """Terminates after `length` steps; the reward is the action, the observation (drawn, t)."""

    image_size = (30, 20)

    def __init__(self, length=3, box=False):
        self.length = length
        self.observation_space = spaces.Box(0, 1000, (2,), np.float32)
        self.action_space = spaces.Box(-1, 1, (1,)) if box else spaces.Discrete(5)

    def start(self, rngs):
        return State(np.array([rng.integers(1000) for rng in rngs]), Clock(np.zeros(len(rngs), dtype=int)))

    def step(self, state, actions):
        t = state.clock.t + 1
        return State(state.drawn, Clock(t)), actions.reshape(len(t)).astype(float), t >= self.length

    def observe(self, state):
        return np.stack([state.drawn, state.clock.t], axis=1).astype(np.float32)

    def info(self, state):
        return {"t": state.clock.t, "pair": np.stack([state.clock.t] * 2, axis=1)}


def drawn(*seeds):
    """What an episode that starts first with a seed draws."""
    return [int(gym.utils.seeding.np_random(seed)[0].integers(1000)) for seed in seeds]


def act(env, action=1):
    return env.step(np.full(env.num_envs, action))


def test_copy_i_of_seed_s_draws_from_seed_s_plus_i():
    observations, infos = Batched(Count(), 3).reset(seed=10)
    np.testing.assert_array_equal(observations[:, 0], drawn(10, 11, 12))
    np.testing.assert_array_equal(infos["_t"], [True] * 3)
    single, info = Single(Count()).reset(seed=11)
    assert (single[0], info["t"], list(info["pair"])) == (observations[1, 0], 0, [0, 0])


def test_a_sequence_gives_each_copy_its_seed_and_none_leaves_its_generator_alone():
    env = Batched(Count(), 3)
    np.testing.assert_array_equal(env.reset(seed=[5, 7, 5])[0][:, 0], drawn(5, 7, 5))
    generator = gym.utils.seeding.np_random(7)[0]
    generator.integers(1000)
    np.testing.assert_array_equal(
        env.reset(seed=[5, None, 6])[0][:, 0], [drawn(5)[0], generator.integers(1000), drawn(6)[0]]
    )


def test_without_a_seed_the_generators_go_on():
    env = Batched(Count(), 1)
    generator = gym.utils.seeding.np_random(3)[0]
    episodes = [env.reset(seed=3 if k == 0 else None)[0][0, 0] for k in range(3)]
    assert episodes == [generator.integers(1000) for _ in range(3)]


def test_a_mask_restarts_its_copies_and_no_other():
    env = Batched(Count(), 3, autoreset_mode=DISABLED)
    env.reset(seed=0)
    before = act(env)[0]
    kept = env.state
    observations, _ = env.reset(seed=20, options={"reset_mask": np.array([False, True, False])})
    np.testing.assert_array_equal(observations[[0, 2]], before[[0, 2]])
    np.testing.assert_array_equal(observations[1], [drawn(21)[0], 0])
    # What somebody holds of the state before is as it was.
    np.testing.assert_array_equal(kept.clock.t, [1, 1, 1])


@pytest.mark.parametrize("n_before", [0, 2])
def test_a_time_limit_truncates_and_begins_anew_for_copies_that_were_reset(n_before):
    env = Batched(Count(length=99), 2, max_episode_steps=3, autoreset_mode=DISABLED)
    env.reset(seed=0)
    for _ in range(n_before):
        act(env)
    env.reset(options={"reset_mask": np.array([True, False])})
    truncated = [act(env)[3].tolist() for _ in range(3 - n_before)]
    assert truncated == [[False, False]] * (2 - n_before) + [[n_before == 0, True]]


def test_without_a_time_limit_nothing_is_truncated():
    env = Batched(Count(length=10**9), 2)
    env.reset(seed=0)
    assert not any(act(env)[3].any() for _ in range(2000))


def test_same_step_gives_the_last_observation_and_info_beside_the_next_episodes_first():
    env = Batched(Count(length=2), 2)
    env.reset(seed=[1, 2])
    assert "final_obs" not in act(env)[4]
    observations, rewards, terminated, truncated, infos = act(env, 4)
    np.testing.assert_array_equal(np.stack(infos["final_obs"]), [[drawn(1)[0], 2], [drawn(2)[0], 2]])
    np.testing.assert_array_equal(infos["final_info"]["t"], [2, 2])
    np.testing.assert_array_equal(infos["t"], [0, 0])
    assert (rewards.tolist(), terminated.tolist(), truncated.tolist()) == ([4, 4], [True, True], [False, False])
    np.testing.assert_array_equal(observations[:, 1], [0, 0])


def test_next_step_spends_a_step_without_reward_on_the_reset():
    env = Batched(Count(length=2), 1, max_episode_steps=2, autoreset_mode=NEXT_STEP)
    env.reset(seed=0)
    steps = [act(env, 3) for _ in range(5)]
    assert [step[0][0, 1] for step in steps] == [1, 2, 0, 1, 2]
    assert [step[1][0] for step in steps] == [3, 3, 0, 3, 3]
    assert [bool(step[2][0]) for step in steps] == [False, True, False, False, True]
    assert [bool(step[3][0]) for step in steps] == [False, True, False, False, True]


def test_disabled_insists_on_a_reset_of_what_has_ended():
    env = Batched(Count(length=1), 3, autoreset_mode="Disabled")
    env.reset(seed=0)
    done = act(env)[2]
    with pytest.raises(ValueError, match=r"copies \[0, 1, 2\] have ended.*reset_mask"):
        act(env)
    env.reset(options={"reset_mask": done})
    act(env)


@pytest.mark.parametrize("make", [Single, lambda dynamics: Batched(dynamics, 1)])
def test_before_the_first_reset_there_is_nothing_to_step(make):
    with pytest.raises(gym.error.ResetNeeded):
        make(Count()).step(np.zeros(1, dtype=int))


def test_before_the_first_reset_there_is_nothing_to_render():
    for env in (Single(Count(), "rgb_array"), Batched(Count(), 1, render_mode="rgb_array")):
        with pytest.raises(gym.error.ResetNeeded):
            env.render()


def test_rendering_without_a_render_mode_warns():
    for env in (Single(Count()), Batched(Count(), 1)):
        env.reset(seed=0)
        with pytest.warns(UserWarning, match="rgb_array"):
            assert env.render() is None


def test_equations_without_a_picture_say_so():
    env = Single(Count(), "rgb_array")
    env.reset(seed=0)
    with pytest.raises(NotImplementedError, match="Count has no picture"):
        env.render()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_envs": 0}, "`num_envs` must be an integer at least 1"),
        ({"num_envs": 2.0}, "`num_envs`"),
        ({"max_episode_steps": 0}, "`max_episode_steps` must be an integer at least 1, or None"),
        ({"autoreset_mode": "same_step"}, "`autoreset_mode` must be one of .*Did you mean 'SameStep'"),
        ({"render_mode": "human"}, "`render_mode` must be one of None, 'rgb_array'"),
    ],
)
def test_wrong_arguments_of_a_batch_are_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        Batched(Count(), **arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"seed": [1, 2, 3]}, "`seed` must .*2 entries, but has 3"),
        ({"options": {"mask": None}}, r"'reset_mask' only, but has \['mask'\]"),
        ({"options": {"reset_mask": np.array([1, 0])}}, r"bools of shape \(2,\), but is int64"),
        ({"options": {"reset_mask": np.array([True])}}, r"bools of shape \(2,\)"),
    ],
)
def test_wrong_arguments_of_reset_are_named(arguments, said):
    env = Batched(Count(), 2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=said):
        env.reset(**arguments)


def test_the_first_reset_starts_every_episode():
    with pytest.raises(ValueError, match="must be all true in the first reset"):
        Batched(Count(), 2).reset(options={"reset_mask": np.array([True, False])})
    Batched(Count(), 2).reset(options={"reset_mask": np.array([True, True])})


@pytest.mark.parametrize("action", [5, -1, 1.0])
def test_what_is_no_action_is_refused_with_its_space(action):
    env = Batched(Count(), 2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"`action` must be in Discrete\(5\), but is"):
        env.step(np.array([type(action)(0), action]))
    with pytest.raises(ValueError, match="`action` must have shape"):
        env.step(np.zeros(3, dtype=int))


def test_actions_are_clipped_to_their_box():
    env = Batched(Count(box=True), 3)
    env.reset(seed=0)
    _, rewards, *_ = env.step(np.array([[-7], [0.5], [np.inf]], dtype=np.float32))
    np.testing.assert_array_equal(rewards, [-1, 0.5, 1])


def test_the_metadata_of_a_batch_are_the_environments_with_its_own_mode():
    env = Batched(
        Count(), 1, autoreset_mode=NEXT_STEP, metadata={"render_modes": ["ansi"], "deterministic_evaluation": False}
    )
    assert env.metadata == {
        "render_modes": ["rgb_array"],
        "seeds_each_copy": True,
        "deterministic_evaluation": False,
        "autoreset_mode": NEXT_STEP,
    }
    assert "autoreset_mode" not in Single.metadata


@pytest.mark.parametrize("seed", [np.int64(3), [3, 4], np.array([3, 4])])
def test_a_seed_may_be_numpys(seed):
    env = Batched(Count(), 2)
    observations, _ = env.reset(seed=seed)
    np.testing.assert_array_equal(observations, Batched(Count(), 2).reset(seed=3)[0])
    assert env.np_random_seed == (3, 4)
    assert [rng.bit_generator.state for rng in env.np_random] == [rng.bit_generator.state for rng in env.copies.rngs]


def test_there_are_no_options_but_the_mask():
    with pytest.raises(ValueError, match=r"`options` must be empty, but is \{'angle': 0\}"):
        Single(Count()).reset(options={"angle": 0})
    with pytest.raises(ValueError, match=r"`options` may have the key 'reset_mask' only, but has \['angle'\]"):
        Batched(Count(), 2).reset(options={"angle": 0})


def test_in_a_reset_row_any_action_is_ignored_and_the_first_state_is_shown():
    env = Batched(Count(), 2, max_episode_steps=1, autoreset_mode=NEXT_STEP)
    env.reset(seed=0)
    env.step(np.array([1, 1]))
    observations, rewards, terminated, truncated, _ = env.step(np.array([99, -99]))
    assert (rewards == 0).all()
    assert not (terminated | truncated).any()
    np.testing.assert_array_equal(observations[:, 1], 0)  # no step has been taken
    _, rewards, _, truncated, _ = env.step(np.array([2, 3]))
    np.testing.assert_array_equal(rewards, [2, 3])
    assert truncated.all()


@pytest.mark.parametrize("action", [[np.nan], ["left"]])
def test_what_is_no_number_is_refused_in_a_box(action):
    for env, one in (
        (gym.make("pg/TorquePendulum-v0").unwrapped, action),
        (gym.make_vec("pg/TorquePendulum-v0", 1), [action]),
    ):
        env.reset(seed=0)
        with pytest.raises(ValueError, match="`action` must be numbers in Box"):
            env.step(np.array(one))


def test_infos_belong_to_the_caller():
    env = gym.make_vec("pg/RPSMatch-v0", 2)
    env.reset(seed=0)
    *_, infos = env.step(np.array([0, 1]))
    before = env.unwrapped.state.copy()
    infos["opponent_move"][:] = 9
    np.testing.assert_array_equal(env.unwrapped.state, before)
