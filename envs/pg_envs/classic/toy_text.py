"""Gymnasium's `FrozenLake-v1`, `CliffWalking-v1` and `Taxi-v4` as worlds, from the installed Gymnasium's tables."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.envs.toy_text.frozen_lake import MAPS, generate_random_map
from gymnasium.envs.toy_text.taxi import WINDOW_SIZE

from pg_envs.checks import check_choice
from pg_envs.classic import tables
from pg_envs.classic.pictures import Picture
from pg_envs.classic.tables import MORE, REWARD, TERMINATED, Table
from pg_envs.worlds import World, below, uniform

FROZEN_LAKE = "gymnasium.envs.toy_text.frozen_lake:FrozenLakeEnv"
CLIFF_WALKING = "gymnasium.envs.toy_text.cliffwalking:CliffWalkingEnv"
TAXI = "gymnasium.envs.toy_text.taxi:TaxiEnv"
IN_TAXI, MOVES = 4, 4  # a passenger's place; actions below are moves


def frozen_lake(
    desc: Sequence[str] | np.ndarray | None = None, map_name: str | None = "4x4", **arguments: Any
) -> World:
    """The world of `pg/FrozenLake-v1`.

    Args:
        desc: The map: rows of the letters S (start), F (frozen), H (hole) and G (goal).
        map_name: The map if `desc` is None: `"4x4"`, `"8x8"`, or None for a random one, the same for all copies.
        **arguments: `is_slippery`, and `success_rate` and `reward_schedule` if the installed Gymnasium has them.

    Raises:
        ValueError: `desc` or `map_name` is not a map.
        TypeError: An argument is unknown.
    """
    if desc is None:
        check_choice("map_name", map_name, (None, *MAPS))
        desc = generate_random_map() if map_name is None else MAPS[map_name]
    rows = tuple("".join(map(_letter, row)) for row in desc)
    if len({len(row) for row in rows}) != 1 or not set("".join(rows)) <= set("SFHG") or "S" not in "".join(rows):
        raise ValueError(f"`desc` must be equally long rows of the letters S, F, H and G, S among them, but is {desc}.")
    if "reward_schedule" in arguments:
        arguments["reward_schedule"] = tuple(arguments["reward_schedule"])
    return _world(FROZEN_LAKE, 100, desc=rows, **arguments)


def cliff_walking(**arguments: Any) -> World:
    """The world of `pg/CliffWalking-v1`.

    Args:
        **arguments: `is_slippery`.

    Raises:
        TypeError: An argument is unknown.
    """
    return _world(CLIFF_WALKING, None, **arguments)


@cache
def taxi(**arguments: Any) -> World:
    """The world of `pg/Taxi-v4`.

    Args:
        **arguments: `is_rainy` and `fickle_passenger`, and `rainy_probability` and `fickle_probability` if the
            installed Gymnasium has them.

    Raises:
        TypeError: An argument is unknown.
    """
    env: Any = load_env_creator(TAXI)(**arguments)
    table = Table.of(env)
    fickle = getattr(env, "fickle_passenger", False)  # Gymnasium 1.1 has none, and 1.2 has none of another probability
    masks = np.array([env.action_mask(state) for state in env.P])
    return World(
        *(start_taxi, step_taxi, tables.observe, 4),
        *(env.observation_space, env.action_space),
        constants=table.constants(getattr(env, "fickle_probability", 0.3) if fickle else 0.0),
        info=partial(taxi_info, masks),
        draw=Picture(TAXI, show),
        # The table does not know that passengers change their minds.
        optimum=None if fickle else partial(table.optimum, 200),
        known_returns={} if fickle else partial(table.known_returns, 200),
        image_size=WINDOW_SIZE,
    )


def start_taxi(state: Any, random: Any, constants: Any) -> None:
    """Draw the first state. Third comes the last move, fourth whether the passenger will change the destination."""
    tables.start(state, random, constants)
    state[2] = 0.0
    state[3] = 1.0 if constants[MORE] > 0.0 and uniform(random, 0.0, 1.0) < constants[MORE] else 0.0


def step_taxi(state: Any, action: Any, random: Any, constants: Any) -> tuple[float, bool]:
    """Draw one of the action's outcomes. A fickle passenger wants to go somewhere else after the first move.

    A state is ((row · 5 + column) · 5 + passenger) · 4 + destination.
    """
    before = int(state[0])
    row = tables.move(state, action, random, constants)
    after = int(state[0])
    if state[3] == 1.0 and before // 4 % 5 == IN_TAXI and before // 20 != after // 20:
        destination = below(random, 3)
        if destination >= before % 4:
            destination += 1
        state[0], state[3] = after - after % 4 + destination, 0.0
    if action[0] < MOVES:
        state[2] = action[0]
    return constants[row + REWARD], constants[row + TERMINATED] == 1.0


def taxi_info(masks: np.ndarray, states: np.ndarray) -> dict[str, np.ndarray]:
    """The probability of the last transition, and which actions change the state."""
    return {**tables.info(states), "action_mask": masks[states[:, 0].astype(int)]}


def show(env: Any, state: np.ndarray) -> None:
    """Put a state into Gymnasium's environment."""
    env.s, env.lastaction = int(state[0]), None if state[2] < 0 else int(state[2])


@cache
def _world(entry_point: str, n_steps: int | None, **arguments: Any) -> World:
    """A world that its table describes whole, with the exact scores for a time limit."""
    env: Any = load_env_creator(entry_point)(**arguments)
    table = Table.of(env)
    return World(
        *(tables.start, tables.step, tables.observe, 3),
        *(env.observation_space, env.action_space),
        constants=table.constants(),
        info=tables.info,
        draw=Picture(entry_point, show, tuple(arguments.items())),
        optimum=partial(table.optimum, n_steps),
        known_returns=partial(table.known_returns, n_steps),
        image_size=env.window_size,
    )


def _letter(cell: Any) -> str:
    return cell.decode() if isinstance(cell, bytes) else str(cell)
