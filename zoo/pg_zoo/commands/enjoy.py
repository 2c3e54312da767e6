"""`pg-zoo enjoy`: replay a trained agent, on the screen, into a video or into numbers alone."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from huggingface_sb3 import EnvironmentName
from rl_zoo3.utils import get_model_path, get_wrapper_class
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecVideoRecorder

from pg_agents import load_agent, load_normalization
from pg_agents.envs.masking import with_masks
from pg_agents.envs.text import TextTask, text_task
from pg_zoo.errors import UserError, one_line
from pg_zoo.evidence import agents
from pg_zoo.lookup import find_algorithm, find_device, find_env
from pg_zoo.options import EnjoyOptions
from pg_zoo.ranges import LARGEST_SEED, MAX_ENVS, MAX_STEPS, MAX_THREADS, check_options
from pg_zoo.recipes.trust import data_only
from pg_zoo.results.storage import as_name
from pg_zoo.runs.evaluating import takes_most_probable
from pg_zoo.runs.normalization import STATISTICS, statistics_of, warn_of_later_statistics
from pg_zoo.runs.recipe import single_envs
from pg_zoo.runs.settings import read_settings

FOLDER = "logs"  # of all runs, where the user does not say another

# With the last one, SDL draws without a display.
_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")

# What a replay needs of a run's hyperparameters, beside `env_kwargs`.
_OF_THE_ENV = ("env_wrapper", "frame_stack", "normalize", "vec_env_wrapper")


class _Recorder(VecVideoRecorder):
    """SB3's, which shows the progress of writing the file in a terminal alone."""

    def _stop_recording(self) -> None:
        if self.recorded_frames and not sys.stderr.isatty():
            from moviepy.video.io.ImageSequenceClip import ImageSequenceClip  # type: ignore[import-untyped]

            clip = ImageSequenceClip(self.recorded_frames, fps=self.frames_per_sec)
            clip.write_videofile(self.video_path, logger=None)
            self.recorded_frames, self.recording = [], False
        else:
            super()._stop_recording()


def enjoy(args: EnjoyOptions) -> None:
    """Run `pg-zoo enjoy`.

    Raises:
        UserError: Something that was asked for cannot be done.
    """
    args = _with_rendering(args)
    algorithm = find_algorithm(args.algo, args.verbose)
    find_env(args.env, args.gym_packages, args.verbose)
    check_options(args, "seed", at_least=0, at_most=LARGEST_SEED)
    check_options(args, "n_timesteps", at_least=1, at_most=MAX_STEPS)
    check_options(args, "n_envs", at_least=1, at_most=MAX_ENVS)
    check_options(args, "num_threads", at_least=-1, at_most=MAX_THREADS)
    check_options(args, "exp_id", at_least=-1)
    find_device(args.device)
    if args.num_threads > 0:
        th.set_num_threads(args.num_threads)
    name, model_path, run_folder = _find_model(args)
    print(f"Loading {model_path}")
    with one_line(Exception, verbose=args.verbose):
        set_random_seed(args.seed)
        # A replay buffer of full size would take gigabytes for nothing.
        buffer: dict[str, Any] = {"buffer_size": 1} if issubclass(algorithm, OffPolicyAlgorithm) else {}
        model = load_agent(algorithm, model_path, trust=args.trust, device=args.device, **buffer)
        env = _make_env(args, model_path, run_folder)
        if args.video is not None:
            env = _Recorder(
                env,
                args.video or os.path.join("" if _is_shipped(run_folder) else run_folder, "videos"),
                record_video_trigger=lambda step: step == 0,
                video_length=args.n_timesteps,
                name_prefix=as_name(name),
            )
            print(f"Recording {args.n_timesteps} steps", flush=True)
        with closing(env):
            episodes = _replay(model, env, args.n_timesteps, deterministic=takes_most_probable(args, env))
    if isinstance(env, _Recorder):
        print(f"Video: {env.video_path}")
    if not episodes:
        print(f"No episode ended within {args.n_timesteps} steps.")
        return
    rewards, lengths = np.array(episodes).T
    print(f"{len(episodes)} episodes")
    print(f"Mean reward: {rewards.mean():.2f} +/- {rewards.std():.2f}")
    print(f"Mean episode length: {lengths.mean():.2f} +/- {lengths.std():.2f}")


def _with_rendering(args: EnjoyOptions) -> EnjoyOptions:
    """The options with `--no-render` where nothing can be shown, unless the user has asked for pictures."""
    moviepy = importlib.util.find_spec("moviepy") is not None
    if args.video is not None:
        if not moviepy:
            raise UserError("--video needs the package moviepy: pip install 'pg-agents[video]'.")
        return args
    if args.no_render:
        return args
    if sys.platform.startswith("linux") and not any(map(os.environ.get, _DISPLAYS)):
        video = "--video" if moviepy else "--video, after pip install 'pg-agents[video]'"
        lacking, remedy = "There is no display to render on", f"For pictures, record them: {video}."
    elif importlib.util.find_spec("pygame") is None:
        lacking, remedy = "The package pygame-ce is not installed", "For pictures: pip install pygame-ce."
    else:
        return args
    if (args.env_kwargs or {}).get("render_mode") == "human":
        raise UserError(f"{lacking}, but --env-kwargs render_mode:human asks for it. {remedy}")
    print(f"{lacking}: numbers only. {remedy}")
    return replace(args, no_render=True)


def _find_model(args: EnjoyOptions) -> tuple[str, str, str]:
    """Name and path of the model, and the folder of its run."""
    folder, shipped = FOLDER if args.folder is None else args.folder, agents.find(args.algo, args.env)
    own = _latest_run(FOLDER, args)
    if args.shipped:
        if args.folder is not None or args.exp_id:
            raise UserError("--shipped takes the agent that comes with pg-agents: leave out --folder and --exp-id.")
        if not shipped:
            raise UserError(f"No agent of {args.algo} on {args.env} comes with pg-agents; `pg-zoo list` has those.")
        folder = str(agents.AGENTS)
        print(f"This is the agent that comes with pg-agents ({shipped}).")
    elif own:
        shipped = None  # a run of the user's own goes first
    elif shipped and not _names_a_run(args):
        folder = str(agents.AGENTS)
        print(
            f"{FOLDER} has no run of {args.algo} on {args.env}: this is the agent that comes with pg-agents "
            f"({shipped}). Train your own: pg-zoo train --algo {args.algo} --env {args.env}"
        )
    try:
        found: tuple[str, str, str] = get_model_path(
            args.exp_id or _latest_run(folder, args),
            folder,
            args.algo,
            EnvironmentName(args.env),
            args.load_best,
            args.load_checkpoint,
            args.load_last_checkpoint,
        )
    except (AssertionError, ValueError) as error:
        hint, which = "", f"--algo {args.algo} --env {args.env}"
        if shipped:
            hint = f" One comes with pg-agents: pg-zoo enjoy {which}"
        elif not (own or _latest_run(folder, args)):
            hint = f" Train one: pg-zoo train {which}; agents that come along: pg-zoo list"
        raise UserError(f"{error}. {_what_is_there(args, Path(folder))}{hint}") from error
    return found


def _latest_run(folder: str, args: EnjoyOptions) -> int:
    """Number of the latest run that has a model; 0 where none has."""
    prefix = f"{EnvironmentName(args.env)}_"
    runs = {path.parent.name.removeprefix(prefix) for path in Path(folder, args.algo).glob(f"{prefix}*/*.zip")}
    return max((int(number) for number in runs if number.isdecimal()), default=0)


def _names_a_run(args: EnjoyOptions) -> bool:
    """Whether the user wants a certain model, which no other one may stand in for."""
    checkpoint = args.load_last_checkpoint or args.load_checkpoint is not None
    return bool(args.folder is not None or args.exp_id or args.load_best or checkpoint)


def _is_shipped(run_folder: str) -> bool:
    return Path(run_folder).is_relative_to(agents.AGENTS)


def _what_is_there(args: EnjoyOptions, folder: Path) -> str:
    """Models of this algorithm and environment; of all runs, the names alone."""
    env_name = EnvironmentName(args.env)
    models = [path.relative_to(folder) for path in sorted(folder.rglob("*.zip"))]
    near = [path for path in models if path.is_relative_to(args.algo) and path.parent.name.startswith(env_name)]
    there = near or sorted({path.parent for path in models})
    return f"In {folder} there is {', '.join(map(str, there)) or 'no model at all'}."


def _make_env(args: EnjoyOptions, model_path: str, run_folder: str) -> VecEnv:
    """The environment as it was in training: same arguments, wrappers, frame stack and normalisation."""
    folder = Path(run_folder, EnvironmentName(args.env))
    config, options = read_settings(folder / "config.yml", args.trust), read_settings(folder / "args.yml", args.trust)
    hyperparams = {name: config[name] for name in _OF_THE_ENV if config.get(name) is not None}
    if not args.trust:
        hyperparams = data_only(hyperparams, str(folder / "config.yml"))
    normalize, n_stack = hyperparams.pop("normalize", False), hyperparams.pop("frame_stack", 0)
    env_kwargs = {**(config.get("env_kwargs") or {}), **(options.get("env_kwargs") or {})}
    env_kwargs |= args.env_kwargs or {}
    if args.video is not None:
        env_kwargs["render_mode"] = "rgb_array"
    elif args.no_render:
        env_kwargs.pop("render_mode", None)
    elif "render_mode" not in env_kwargs:
        env_kwargs["render_mode"] = "human"
    env = single_envs(args.env, args.n_envs, args.seed, get_wrapper_class(hyperparams), env_kwargs)
    vec_env_wrapper: Callable[[Any], Any] | None = get_wrapper_class(hyperparams, "vec_env_wrapper")
    if vec_env_wrapper is not None:
        env = vec_env_wrapper(env)
    statistics = statistics_of(model_path, args.env)
    if statistics is not None or (normalize and folder.is_dir()):
        statistics = statistics or folder / STATISTICS  # which is missing, as the error says
        print(f"Loading {statistics}")
        warn_of_later_statistics(model_path, statistics, args.env)
        try:
            normalized = load_normalization(statistics, env, trust=args.trust)
        except Exception:
            env.close()
            raise
        normalized.training = normalized.norm_reward = False
        env = normalized
    return VecFrameStack(env, n_stack) if n_stack else env


def _replay(model: BaseAlgorithm, env: VecEnv, n_timesteps: int, *, deterministic: bool) -> list[tuple[float, int]]:
    """Act for so many steps, printing each episode's reward.

    Returns:
        Reward, not normalised, and length of each episode that ended.
    """
    episodes: list[tuple[float, int]] = []
    task, agent = _text_task(env), with_masks(model, env)
    observations, state, starts = env.reset(), None, np.ones(env.num_envs, dtype=bool)
    try:
        for _ in range(n_timesteps):
            actions, state = agent.predict(observations, state, starts, deterministic)  # type: ignore[arg-type]
            observations, _, starts, infos = env.step(actions)
            for index in np.flatnonzero(starts):
                # Monitor's numbers: those of the environment itself, under all wrappers. A life that is lost is no end.
                if (episode := infos[index].get("episode")) is None:
                    continue
                episodes.append((episode["r"], episode["l"]))
                text = "" if task is None else f": {_text(task, infos[index]['terminal_observation'])}"
                print(f"Episode {len(episodes)}: reward {episode['r']:.2f}, length {episode['l']}{text}", flush=True)
    except KeyboardInterrupt:
        pass
    return episodes


def _text_task(env: VecEnv) -> TextTask | None:
    """The task of an environment in which an episode is a text; None for others."""
    try:
        return text_task(env)
    except ValueError:
        return None


def _text(task: TextTask, tokens: np.ndarray) -> str:
    """Prompt and completion, without the padding behind them."""
    words = [task.words[token] for token in tokens]
    while words[-1] == task.special["pad"]:
        words.pop()
    return " ".join(words)
