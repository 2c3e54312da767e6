"""YAML from others: nothing is made but plain data, and no file is too much for time or memory."""

from __future__ import annotations

from typing import Any, cast

import yaml

MAX_BYTES = 1_000_000  # of a file; the largest hyperparameter file of rl_zoo3 has 12,000
MAX_DEPTH = 50  # of lists and mappings within each other
MAX_VALUES = 100_000  # where an alias counts as often as all that it stands for


class LimitedLoader(yaml.SafeLoader):
    """PyYAML's `SafeLoader` with limits.

    Aliases of lists of aliases ("billion laughs") are short as YAML and small in memory, but endless for whoever prints
    or copies them: so what they stand for is counted each time.

    Raises:
        yaml.YAMLError: There is too much of it, or a list or mapping is part of itself.
    """

    def __init__(self, stream: Any) -> None:
        text = stream if isinstance(stream, str | bytes) else stream.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise yaml.YAMLError(f"it is larger than {MAX_BYTES:,} bytes")
        super().__init__(text)
        self._depth, self._values = 0, 0
        self._sizes: dict[int, int] = {}  # of composed nodes, by identity

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A node, counted."""
        event = cast(Any, self).peek_event()  # without types in theirs
        is_alias, before = isinstance(event, yaml.AliasEvent), self._values
        if self._depth == MAX_DEPTH:
            self._refuse(event, f"more than {MAX_DEPTH} lists and mappings within each other")
        self._depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._sizes:
            self._refuse(event, "a list or mapping that is part of itself")
        self._values += self._sizes[id(node)] if is_alias else 1
        if self._values > MAX_VALUES:
            self._refuse(event, f"more than {MAX_VALUES:,} values, aliases included")
        if not is_alias:
            self._sizes[id(node)] = self._values - before
        return node

    def _refuse(self, event: Any, problem: str) -> None:
        raise yaml.composer.ComposerError(None, None, problem, event.start_mark)


def load(stream: Any) -> Any:
    """The data in a text or an open file.

    Raises:
        yaml.YAMLError: It is no YAML, more than plain data, or too much.
        ValueError: A number or a date in it is none, or it is no text.
    """
    return yaml.load(stream, LimitedLoader)
