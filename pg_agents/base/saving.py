"""Files, copies and pickles of an agent."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Iterable
from copy import deepcopy
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import get_device
from typing_extensions import Self

from pg_agents.arguments import check_keywords, constructor_arguments
from pg_agents.base.log import LogMixin
from pg_agents.envs.sharing import copied_env
from pg_agents.files.archives import check_optimizer, read_agent
from pg_agents.files.saving import whole
from pg_agents.policies import STATE_DEPENDENT_STD, tensors_of_graphs
from pg_agents.resuming.agents import as_made


class SavingMixin(LogMixin, init=False):
    """What is stored of an agent, and how it comes back."""

    made_anew: ClassVar[frozenset[str]] = frozenset(
        (
            "is_collecting",
            *("_engine_in_use", "_engine_buffer", "_predictor_of", "_prior_on_device", "_unlogged", "on_epoch"),
            *("current_run", "interrupted", "as_made", "_translation_of"),
        )
    )
    """Attributes that are made anew when they are needed, so that no file and no checkpoint has them."""

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Write SB3's zip file, for `load` here and in SB3. A file of that name is replaced when the new one is whole.

        Ctrl-C and SIGTERM wait until it is.

        Args:
            path: The file, with or without `.zip`, or an open file.
            exclude: Names of attributes that are not to be saved, besides those that never are.
            include: Names of attributes to be saved that otherwise are not.

        Raises:
            OSError: The file cannot be written; the old one is as it was.
        """
        with whole(path, "zip") as file:
            super().save(file, exclude, include)

    @classmethod
    def load(
        cls,
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        *,
        trust: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Load a file that `save` has written, here or in SB3. Code in it does not run, unless you trust it.

        Args:
            path: The file, with or without `.zip`.
            env: The environment to go on training in; not needed to predict.
            device: Torch device of the policy.
            custom_objects: Objects that replace those of the same names in the file, which are not read then. Classes
                among them may be named anywhere in the file.
            print_system_info: Print the versions with which the file was written, and those of today.
            force_reset: Begin with a new episode.
            trust: Let the file run code, as SB3's `load` does: it may hold functions, and objects of any class.
            **kwargs: Constructor arguments to change.

        Raises:
            FileNotFoundError: There is no such file.
            NotAllowedError: The file names, calls or changes something that could run code. It is a ValueError.
            TypeError: A keyword is not an argument of the constructor.
            ValueError: An argument cannot change any more, or the file is not an agent's.
        """
        check_keywords(cls, constructor_arguments(cls), kwargs)
        for name in cls.fixed_on_load & kwargs.keys():
            raise ValueError(f"`{name}` cannot be changed on loading, because what is in the file depends on it.")
        if "stats_window_size" in kwargs:
            kwargs["_stats_window_size"] = kwargs.pop("stats_window_size")
        policy_kwargs = kwargs.pop("policy_kwargs", None)
        if not trust:
            known = cls.policy_aliases.values()
            instead = {} if policy_kwargs is None else {"policy_kwargs": policy_kwargs}
            file = read_agent(path, custom_objects=custom_objects, arguments=kwargs, classes=known, instead=instead)
            data = file.data or {}
            replaced = data.get("policy_kwargs") is policy_kwargs
            if policy_kwargs is not None and replaced:
                data["policy_kwargs"] = cls._completed(policy_kwargs, data)
            path, custom_objects = file.without_pickles(), file.data
        agent = super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)
        if policy_kwargs is not None:
            agent._check_same_policy(policy_kwargs)
        agent.as_made = as_made(agent)
        return agent

    @classmethod
    def _completed(cls, policy_kwargs: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """The policy's keyword arguments as an agent with these attributes stores them."""
        bare = cls.__new__(cls)
        vars(bare).update(cls.defaults() | data)
        given = {name: value for name, value in policy_kwargs.items() if name != "state_dependent_std"}
        return bare.complete_policy_kwargs(given)

    def _check_same_policy(self, policy_kwargs: dict[str, Any]) -> None:
        """SB3's check, of arguments as they were given to the constructor, which may have changed them since."""
        given = dict(policy_kwargs)
        has_own_std = self.policy_class in STATE_DEPENDENT_STD.values()
        same_std = bool(given.pop("state_dependent_std", has_own_std)) == has_own_std
        stored: dict[str, Any] = self.policy_kwargs or {}
        added = {name: stored[name] for name in self.complete_policy_kwargs({}) if name in stored}
        if not same_std or {**added, **given} != stored:
            raise ValueError(
                f"The specified policy kwargs do not equal the stored policy kwargs."
                f"Stored kwargs: {self.policy_kwargs}, specified kwargs: {policy_kwargs}"
            )

    def set_parameters(
        self, load_path_or_dict: str | dict[str, Any], exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """As in SB3. The learning rate stays the agent's own; `model.learning_rate = ...` changes it.

        Raises:
            ValueError: The optimiser's state does not fit the parameters, or the file is not an agent's.
        """
        given: dict[str, Any] | str = load_path_or_dict
        if not isinstance(given, dict):
            given = read_agent(given, data=False).parameters(get_device(device))
        if "policy.optimizer" in given:
            check_optimizer(self.policy.optimizer, given["policy.optimizer"])
        super().set_parameters(given, exact_match, device)

    def _excluded_save_params(self) -> list[str]:
        of_groups = [] if self.group_size is None else ["n_episodes"]  # their number may change on loading
        return [*super()._excluded_save_params(), *self.made_anew, *of_groups, "_own_generator", "episode_statistics"]

    def __getstate__(self) -> dict[str, Any]:
        """The state for `copy` and `pickle`: without the engine, which holds addresses, and without watchers."""
        if hasattr(self, "_logger"):
            self._lazy_log.write(self._logger)
        kept = {name: value for name, value in vars(self).items() if name not in self.made_anew}
        return kept | {"on_epoch": None, "current_run": None, "interrupted": None, "as_made": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy with environments of its own. They share the logger.

        Raises:
            TypeError: The environments cannot be copied.
        """
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        if hasattr(self, "_logger"):
            memo[id(self._logger)] = self._logger
        if self.env is not None:
            copied_env(self.env, memo)  # into `memo`
        state = self.__getstate__()
        for tensor in tensors_of_graphs(state):
            memo[id(tensor)] = tensor.detach().clone()
        vars(copied).update(deepcopy(state, memo))
        return copied
