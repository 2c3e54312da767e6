"""Trees of plain values in files: they come back equal, and what is no plain value is refused by its place."""

from __future__ import annotations

import json
import math
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pg_agents.files import values

KEYS = st.one_of(st.text(max_size=5), st.integers(), st.tuples(st.integers(), st.text(max_size=3)))
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.binary(max_size=9),
    hnp.arrays(
        st.one_of(hnp.floating_dtypes(endianness="="), hnp.integer_dtypes(endianness="="), hnp.boolean_dtypes()),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    ),
)  # fmt: skip
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
        st.lists(inner, max_size=3).map(lambda items: deque(items, maxlen=7)),
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple, deque)):
        return len(a) == len(b) and all(map(same, a, b)) and getattr(a, "maxlen", 0) == getattr(b, "maxlen", 0)
    if isinstance(a, float):
        return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (math.isnan(a) and math.isnan(b))
    return a == b


@settings(max_examples=60, deadline=None, derandomize=True)
@given(TREES)
def test_any_tree_comes_back_equal(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    folder = tmp_path_factory.mktemp("values")
    values.write(tree, folder, "tree")
    assert same(values.read(folder, "tree"), tree)


@pytest.mark.parametrize(
    "value",
    [
        np.float32(0.1), np.uint64(2**63), np.bool_(True), np.complex128(1 + 2j), {3, 1}, frozenset("ab"),
        th.nn.Tanh, np.array(["a", "bcd"]), np.array([b"ab", b""]), np.arange(6.0).reshape(2, 3).T,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_other_values_come_back_equal(tmp_path: Path, value: Any) -> None:
    values.write(value, tmp_path, "value")
    back = values.read(tmp_path, "value")
    assert type(back) is type(value)
    assert np.array_equal(back, value)
    assert getattr(back, "dtype", None) == getattr(value, "dtype", None)


@pytest.mark.parametrize("dtype", [th.float32, th.float64, th.float16, th.bfloat16, th.int64, th.uint8, th.bool])
def test_tensors_come_back_equal(tmp_path: Path, dtype: th.dtype) -> None:
    tensor = (th.arange(6).reshape(2, 3).T / 3).to(dtype)
    values.write({"a": tensor, "b": tensor[0, 0]}, tmp_path, "tensors")
    back = values.read(tmp_path, "tensors")
    assert back["a"].dtype == dtype
    assert th.equal(back["a"], tensor)
    assert th.equal(back["b"], tensor[0, 0])


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": [1, lambda: None]}, r"tree\.a\[1\] is a builtins\.function"),
        ({"a": np.array([object()])}, r"tree\.a is an array of object"),
        ({"a": {1: open}}, r"tree\.a\[1\]"),
    ],
)
def test_what_is_not_plain_is_named(tmp_path: Path, value: Any, place: str) -> None:
    with pytest.raises(values.NotPlainError, match=place):
        values.write(value, tmp_path, "tree")


def test_a_class_that_is_not_on_the_list_is_neither_written_nor_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pathlib\.Path"):
        values.write({"a": Path}, tmp_path, "tree")
    values.write({"a": th.nn.Tanh}, tmp_path, "tree")
    file = tmp_path / "tree.json"
    file.write_text(file.read_text().replace("torch.nn.modules.activation:Tanh", "os:system"))
    with pytest.raises(ValueError, match=r"os\.system"):
        values.read(tmp_path, "tree")


@pytest.mark.parametrize("ending", ["json", "safetensors"])
def test_every_cut_of_a_file_is_noticed(tmp_path: Path, ending: str) -> None:
    values.write({"a": np.arange(3), "b": [1, 2]}, tmp_path, "tree")
    file = tmp_path / f"tree.{ending}"
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(values.DamagedFileError):
            values.read(tmp_path, "tree")


@pytest.mark.parametrize(
    "content",
    [{"array": "7"}, {"what": 1}, {"tuple": 3}, {"dict": [[1]]}, {"float": "1"}, {}, {"scalar": {"array": 0}}],
    ids=repr,
)
def test_what_cannot_be_read_is_an_error(tmp_path: Path, content: Any) -> None:
    values.write(None, tmp_path, "tree")
    text = {"schema": values.SCHEMA, "version": values.VERSION, "content": content}
    (tmp_path / "tree.json").write_text(json.dumps(text))
    with pytest.raises(values.DamagedFileError):
        values.read(tmp_path, "tree")


def test_a_later_version_and_deep_nesting_are_refused(tmp_path: Path) -> None:
    values.write(None, tmp_path, "tree")
    file = tmp_path / "tree.json"
    file.write_text(file.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(values.DamagedFileError, match="version 2"):
        values.read(tmp_path, "tree")
    for depth in (300, 100_000):
        content = "[" * depth + "]" * depth
        file.write_text(f'{{"schema": "{values.SCHEMA}", "version": 1, "content": {content}}}')
        with pytest.raises(values.DamagedFileError):
            values.read(tmp_path, "tree")
