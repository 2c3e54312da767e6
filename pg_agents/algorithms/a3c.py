"""A3C: asynchronous advantage actor-critic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pg_agents.algorithms.a2c import A2C
from pg_agents.arguments import argument
from pg_agents.asynchronous.backends import NAMES
from pg_agents.asynchronous.linked import Linked
from pg_agents.asynchronous.links import DelayedLink
from pg_agents.asynchronous.training import go_on, train
from pg_agents.resuming.run import Run


class A3C(A2C, Linked):
    """Asynchronous advantage actor-critic: workers push their gradients into shared parameters as they come.

    θ += RMSprop(∇ of A2C's objective at θ'), θ' being θ as the worker pulled it before its rollout
    (arXiv:1602.01783, algorithm S3)

    Each worker has an environment of its own. Neither parameters nor the statistics of RMSprop, which all workers
    share, have a lock. One worker is `A2C`, to the last bit. More than one are not deterministic.

    Raises:
        ValueError: An argument is out of range.
    """

    n_workers: int = argument(
        default=1, kw_only=True, doc="Number of workers. One without a `backend` trains in this process.",
        at_least=1, integer=True,
    )  # fmt: skip
    backend: str = argument(
        default="auto",
        kw_only=True,
        doc='Where workers run: `"threads"` of this process (worlds with the compiled engine only), `"processes"`, '
        '`"ray"` (actors on a Ray cluster), or `"auto"` for threads where they serve and processes elsewhere.',
        choices=NAMES,
    )
    delay: int = argument(
        default=0,
        kw_only=True,
        doc="Staleness to simulate with one worker: gradients are taken at the parameters of so many updates ago.",
        at_least=0,
        integer=True,
    )

    def check_arguments(self) -> None:
        """As the parent's; a delay is simulated by one worker in this process.

        Raises:
            ValueError: An argument is out of range.
        """
        super().check_arguments()
        if self.delay and not self.collects_itself:
            raise ValueError(
                f"`delay` is {self.delay}, which one worker in this process simulates, but `n_workers` is "
                f"{self.n_workers} and `backend` {self.backend!r}; allowed are n_workers=1 and backend='auto'."
            )

    def before_assigning(self, name: str, before: Any) -> None:
        """As the parent's; workers at work have arguments of their own.

        Raises:
            ValueError: They are at work.
        """
        if self.current_run is not None and not self.collects_itself:
            raise ValueError(f"`{name}` cannot change while {self.n_workers} workers train.")
        super().before_assigning(name, before)

    @property
    def collects_itself(self) -> bool:
        """Whether `learn` collects rollouts in this process, into the agent's own buffer: one worker, no `backend`."""
        return self.n_workers == 1 and self.backend == "auto"

    def _loop(self, *arguments: Any) -> None:
        if not self.collects_itself:
            train(self, self.n_workers, self.backend, *arguments)
            return
        self.link = None  # a stored one belongs to `learn_on`
        super()._loop(*arguments)

    def _updates(self, run: Run) -> None:
        if not self.collects_itself:
            go_on(self, self.n_workers, self.backend, run)
        elif self.delay:
            link = self.link if isinstance(self.link, DelayedLink) else DelayedLink(self.policy, self.delay)
            self.link = link
            try:
                super()._updates(run)
            finally:
                link.catch_up(self.policy)
                self.link = None
        else:
            super()._updates(run)

    def make_parts(self, stored: Mapping[str, Any]) -> None:
        """As the parent's, and the link to parameters of some updates ago."""
        super().make_parts(stored)
        if stored["link"] is not None:
            self.link = DelayedLink(self.policy, self.delay)
