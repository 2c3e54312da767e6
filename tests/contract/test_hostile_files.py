"""A corpus of hostile files. Each runs its code where SB3, PyTorch or Python reads it, and none where we do."""

import base64
import copyreg
import functools
import io
import json
import operator
import os
import pickle
import shutil
import stat
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict, deque
from contextlib import nullcontext, suppress
from pathlib import Path

import cloudpickle
import gymnasium as gym
import hostile
import numpy as np
import pytest
import stable_baselines3
import torch as th
from combinations import each_value
from hostile import Calls, Hashed, New, Stateful, named, text, whole
from stable_baselines3.common import logger, save_util
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.utils import constant_fn
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from pg_agents import PPO, NotAllowedError, load_agent, load_normalization, load_policy
from pg_agents.files.archives import UnsafeFileError, read_agent
from pg_agents.files.unpickling import loads
from pg_zoo.cli import main

PWNED = "pwned"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty one, with a module in it that notes its import."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "hostile_module.py").write_text("import hostile\nhostile.fire()\n")
    hostile.FIRED.clear()
    yield tmp_path
    sys.modules.pop("hostile_module", None)


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    """The file of an agent."""
    path = tmp_path_factory.mktemp("agent") / "agent.zip"
    stable_baselines3.PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [2]}, device="cpu").save(path)
    return path


def has_fired():
    """Whether the code has run; it may run again then."""
    fired = bool(hostile.FIRED) or any(Path().glob(f"{PWNED}*"))
    hostile.FIRED.clear()
    sys.modules.pop("hostile_module", None)
    for path in Path().glob(f"{PWNED}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return fired


def changed(agent, path, members=None, **data):
    """A copy of an agent's file with other members and attributes; bytes are pickles."""
    with zipfile.ZipFile(agent) as source, zipfile.ZipFile(path, "w") as target:
        attributes = json.loads(source.read("data"))
        for name, value in data.items():
            attributes[name] = pickled(value) if isinstance(value, bytes) else value
        content = {name: source.read(name) for name in source.namelist()} | {"data": json.dumps(attributes)}
        for name, value in {**content, **(members or {})}.items():
            target.writestr(name, value)
    return path


def pickled(content):
    return {":type:": "<class 'function'>", ":serialized:": base64.b64encode(content).decode()}


def by_value(thing):
    """A pickle with the code itself, as of a class or function in somebody's script."""
    thing.__module__ = "__main__"
    return cloudpickle.dumps(thing)


class ByValue:
    def __reduce__(self):
        return (lambda: hostile.fire()), ()


class StatefulByValue:
    def __init__(self):
        self.number = 1

    def __setstate__(self, state):
        hostile.fire()


def legacy_storage(thing):
    """What PyTorch's storages are pickled as, with something else in it."""
    content = io.BytesIO()
    th.save(thing, content, _use_new_zipfile_serialization=False)
    return content.getvalue()


def built(thing, state):
    """The attributes of something that is there already are changed."""
    return whole(thing, state, pickle.BUILD)


ONE = pickle.BININT1 + b"\x01"
FIRE = named("hostile", "fire")
MKDIR = named("os", "mkdir")
SET_FIRE = pickle.EMPTY_DICT + text("fired") + FIRE + pickle.SETITEM

PICKLES = {
    "os.mkdir": lambda: pickle.dumps(Calls(os.mkdir, PWNED)),
    "os.system": lambda: pickle.dumps(Calls(os.system, f"mkdir {PWNED}")),
    "protocol 0": lambda: pickle.dumps(Calls(os.mkdir, PWNED), protocol=0),
    "protocol 2": lambda: pickle.dumps(Calls(os.mkdir, PWNED), protocol=2),
    "exec": lambda: pickle.dumps(Calls(exec, "import hostile; hostile.fire()")),
    "eval": lambda: pickle.dumps(Calls(eval, "__import__('hostile').fire()")),
    "__import__": lambda: pickle.dumps(Calls(__import__, "hostile_module")),
    "open": lambda: pickle.dumps(Calls(open, PWNED, "w")),
    "getattr": lambda: whole(
        *[named("builtins", "getattr"), pickle.MARK, named("builtins", "__import__"), text("os"), pickle.TUPLE1],
        *[pickle.REDUCE, text("mkdir"), pickle.TUPLE, pickle.REDUCE, text(PWNED), pickle.TUPLE1, pickle.REDUCE],
    ),
    "subprocess": lambda: pickle.dumps(Calls(subprocess.call, ["mkdir", PWNED])),
    "functools.partial": lambda: pickle.dumps(Calls(functools.partial(os.mkdir, PWNED))),
    "functools.reduce": lambda: pickle.dumps(Calls(functools.reduce, os.mkdir, [0o700], PWNED)),
    "operator.methodcaller": lambda: pickle.dumps(Calls(operator.methodcaller("mkdir"), Path(PWNED))),
    "map in a list": lambda: pickle.dumps(Calls(list, Calls(map, os.mkdir, [PWNED]))),
    "deque of a map": lambda: pickle.dumps(Calls(deque, Calls(map, os.mkdir, [PWNED]))),
    "pathlib": lambda: pickle.dumps(Calls(Path.mkdir, Path(PWNED))),
    "shutil": lambda: pickle.dumps(Calls(shutil.copy, "hostile_module.py", PWNED)),
    "io.FileIO": lambda: pickle.dumps(Calls(io.FileIO, PWNED, "w")),
    "numpy.savetxt": lambda: pickle.dumps(Calls(np.savetxt, PWNED, [1.0])),
    "numpy.memmap": lambda: pickle.dumps(Calls(np.memmap, PWNED, "uint8", "w+", 0, (1,))),
    "numpy.memmap by NEWOBJ": lambda: whole(
        *[named("numpy", "memmap"), pickle.MARK, text(PWNED), text("uint8"), text("w+")],
        *[pickle.BININT1 + b"\x00", ONE, pickle.TUPLE, pickle.NEWOBJ],
    ),
    "numpy.memmap by NEWOBJ_EX": lambda: whole(
        *[named("numpy", "memmap"), text(PWNED), pickle.TUPLE1, pickle.EMPTY_DICT, pickle.MARK],
        *[text("mode"), text("w+"), text("shape"), ONE, pickle.SETITEMS, pickle.NEWOBJ_EX],
    ),
    "torch.load": lambda: pickle.dumps(
        Calls(functools.partial(th.load, weights_only=False), io.BytesIO(legacy_storage(Calls(os.mkdir, PWNED))))
    ),
    "a storage of PyTorch's": lambda: pickle.dumps(
        Calls(th.storage._load_from_bytes, legacy_storage(Calls(os.mkdir, PWNED)))
    ),
    "a tensor of another type": lambda: pickle.dumps(
        Calls(th._tensor._rebuild_from_type_v2, os.mkdir, th.Tensor, (PWNED,), {})
    ),
    "pickle.loads": lambda: pickle.dumps(Calls(pickle.loads, pickle.dumps(Calls(os.mkdir, PWNED)))),
    "cloudpickle.loads": lambda: pickle.dumps(Calls(cloudpickle.loads, pickle.dumps(Calls(os.mkdir, PWNED)))),
    "a function by value": lambda: cloudpickle.dumps(ByValue()),
    "a class by value": lambda: by_value(StatefulByValue) and cloudpickle.dumps(StatefulByValue()),
    "__setstate__": lambda: pickle.dumps(Stateful()),
    "__new__": lambda: pickle.dumps(New()),
    "__init__ by OBJ": lambda: whole(pickle.MARK, named("hostile", "Init"), ONE, pickle.OBJ),
    "__init__ by INST": lambda: whole(pickle.MARK, ONE, pickle.INST + b"hostile\nInit\n"),
    "__hash__": lambda: (
        whole(pickle.EMPTY_DICT, *[named("hostile", "Hashed"), pickle.EMPTY_TUPLE, pickle.NEWOBJ], ONE).replace(
            pickle.STOP, b""
        )
        + pickle.SETITEM
        + pickle.STOP
    ),
    "__hash__ in a set": lambda: pickle.dumps(Calls(set, [Hashed()])),
    "append": lambda: whole(named("hostile", "COLLECTING"), ONE, pickle.APPEND),
    "extend": lambda: whole(named("hostile", "COLLECTING"), pickle.MARK, ONE, pickle.APPENDS),
    "add": lambda: whole(named("hostile", "COLLECTING"), pickle.MARK, ONE, pickle.ADDITEMS),
    "__setitem__": lambda: whole(named("hostile", "COLLECTING"), ONE, ONE, pickle.SETITEM),
    "a name with dots": lambda: whole(named("shutil", "os.mkdir"), text(PWNED), pickle.TUPLE1, pickle.REDUCE),
    "a name with dots in SB3": lambda: whole(
        named("stable_baselines3.common.utils", "os.mkdir"), text(PWNED), pickle.TUPLE1, pickle.REDUCE
    ),
    "a function of SB3's": lambda: pickle.dumps(Calls(save_util.save_to_pkl, Path(PWNED), 1)),
    "SB3's logger": lambda: pickle.dumps(Calls(logger.configure, PWNED, ["log"])),
    "a policy's load": lambda: whole(
        named("stable_baselines3.common.policies", "ActorCriticPolicy.load"), text("p"), pickle.TUPLE1, pickle.REDUCE
    ),
    "gymnasium.make": lambda: pickle.dumps(Calls(gym.make, "hostile_module:CartPole-v1")),
    "an agent with an environment": lambda: pickle.dumps(
        Calls(stable_baselines3.PPO, "MlpPolicy", "hostile_module:CartPole-v1")
    ),
    "an array of objects": lambda: pickle.dumps(hostile.object_array(Calls(os.mkdir, PWNED))),
    "deep in containers": lambda: pickle.dumps({"a": [({"b": OrderedDict(c=deque([Calls(os.mkdir, PWNED)]))},)]}),
    "in a list that is popped": lambda: whole(
        MKDIR, text(PWNED), pickle.TUPLE1, pickle.REDUCE, pickle.POP, pickle.EMPTY_DICT
    ),
    "a tensor's hook": lambda: pickle.dumps(Calls(th._utils._rebuild_parameter, th.ones(1), True, Calls(hostile.fire))),
    "copyreg._reconstructor": lambda: pickle.dumps(Calls(copyreg._reconstructor, New, New, None)),
    "copyreg.__newobj__": lambda: pickle.dumps(Calls(copyreg.__newobj__, New), protocol=0),
    "an argument of a call that fails": lambda: pickle.dumps(Calls(int, Calls(os.mkdir, PWNED), "x")),
}


def read_by_python(content):
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a file that was opened
        pickle.loads(content)
    return has_fired()


@pytest.mark.parametrize("make", PICKLES.values(), ids=PICKLES)
def test_a_pickle_that_runs_code_is_refused(make):
    content = make()
    if b"ActorCriticPolicy.load" in content:
        th.save(Calls(os.mkdir, PWNED), "p")
    assert read_by_python(content)
    with pytest.raises(NotAllowedError, match=r"^bad\.zip \(data: x\) .*could run code.*trust=True"):
        loads(content, source="bad.zip", member="data: x")
    assert not has_fired()


def python_object(agent, content):
    changed(agent, "bad.zip", learning_rate=content)
    return "bad.zip", stable_baselines3.PPO.load, PPO.load


def unknown_key(agent, content):
    changed(agent, "bad.zip", nobody_reads_it=content)
    return "bad.zip", stable_baselines3.PPO.load, PPO.load


def of_sb3s_class(agent, content):
    changed(agent, "bad.zip", _last_obs=content)
    return "bad.zip", stable_baselines3.PPO.load, lambda path: load_agent(stable_baselines3.PPO, path)


def prior(agent, content):
    changed(agent, "bad.zip", policy_kwargs=content)
    return "bad.zip", stable_baselines3.PPO.load, lambda path: PPO("MlpPolicy", "CartPole-v1", prior=path)


def normalizer(agent, content):
    Path("vecnormalize.pkl").write_bytes(content)
    env = DummyVecEnv([lambda: gym.make("CartPole-v1")])
    return (
        "vecnormalize.pkl",
        lambda path: VecNormalize.load(path, env),
        lambda path: load_normalization(path, env),
    )


def policy(agent, content):
    with zipfile.ZipFile("policy", "w") as archive:
        archive.writestr("policy/data.pkl", content)
        archive.writestr("policy/version", "3\n")
    return "policy", ActorCriticPolicy.load, lambda path: load_policy(ActorCriticPolicy, path)


PLACES = [python_object, unknown_key, of_sb3s_class, prior, normalizer, policy]
SIMPLE = ["os.mkdir", "exec", "__import__", "pickle.loads", "__setstate__", "append", "deep in containers"]


@pytest.mark.parametrize(("name", "place"), each_value(SIMPLE, PLACES))
def test_a_file_that_runs_code_is_refused_by_name(name, place, agent):
    path, theirs, ours = place(agent, PICKLES[name]())
    with suppress(Exception):
        theirs(path)
    assert has_fired()
    with pytest.raises(NotAllowedError, match=rf"^{path}.*trust=True") as refused:
        ours(path)
    assert not has_fired()
    if name == "os.mkdir":
        assert "names posix.mkdir" in str(refused.value) or "names nt.mkdir" in str(refused.value)


def test_the_command_line_says_its_own_option_in_place_of_pythons(agent, capsys):
    changed(agent, "bad.zip", nobody_reads_it=PICKLES["os.mkdir"]())
    assert main(["train", "-i", "bad.zip", "-n", "8", "--eval-freq", "-1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("which could run code. If you trust whoever wrote it, say --trust.")
    assert not has_fired()


def test_of_tensors_that_are_none_pytorch_says_nothing_beside_the_error(agent):
    with zipfile.ZipFile(agent) as good, zipfile.ZipFile("bad.zip", "w") as bad:
        for name in good.namelist():
            bad.writestr(name, pickle.dumps({"a": 1}, protocol=4) if name == "policy.pth" else good.read(name))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match=r"bad\.zip \(policy\.pth\) holds something that is no tensor"):
            PPO.load("bad.zip")
    assert caught == []


def test_trust_runs_it(agent):
    changed(agent, "bad.zip", learning_rate=PICKLES["os.mkdir"]())
    with suppress(Exception):
        PPO.load("bad.zip", trust=True)
    assert has_fired()
    with suppress(Exception):
        load_agent(stable_baselines3.PPO, "bad.zip", trust=True)
    assert has_fired()


def test_what_a_custom_object_replaces_is_not_read(agent):
    changed(agent, "bad.zip", learning_rate=PICKLES["os.mkdir"]())
    assert PPO.load("bad.zip", custom_objects={"learning_rate": 0.25}).learning_rate == 0.25
    assert PPO.load("bad.zip", learning_rate=0.25).learning_rate == 0.25
    assert load_agent(stable_baselines3.PPO, "bad.zip", learning_rate=0.25).learning_rate == 0.25
    assert not has_fired()


# What is there already is changed: plain unpickling does it, and nothing else need happen.
CHANGES = {
    "a class": (lambda: built(named("hostile", "Target"), pickle.NONE + SET_FIRE + pickle.TUPLE2), hostile.Target),
    "an object": (lambda: built(named("hostile", "SHARED"), SET_FIRE), hostile.SHARED),
    "a module": (lambda: built(named("hostile", "zipfile"), SET_FIRE), zipfile),
    "a module of NumPy's": (lambda: built(named("numpy", "random"), SET_FIRE), np.random),
    "a class of SB3's": (
        lambda: built(
            named("stable_baselines3.common.running_mean_std", "RunningMeanStd"),
            pickle.NONE + SET_FIRE + pickle.TUPLE2,
        ),
        RunningMeanStd,
    ),
}


@pytest.mark.parametrize(("make", "target"), CHANGES.values(), ids=CHANGES)
def test_a_pickle_that_changes_what_is_there_is_refused(make, target):
    pickle.loads(make())
    assert target.fired is hostile.fire
    del target.fired
    with pytest.raises(NotAllowedError):
        loads(make(), source="bad.zip")
    assert not hasattr(target, "fired")


STATE = pickle.EMPTY_DICT + text("mean") + ONE + pickle.SETITEM
SLOTS = pickle.NONE + STATE + pickle.TUPLE2
STATISTICS = named("stable_baselines3.common.running_mean_std", "RunningMeanStd")


@pytest.mark.parametrize(
    "content",
    [
        built(STATISTICS, SLOTS),
        whole(STATISTICS, pickle.EMPTY_TUPLE, pickle.NEWOBJ, SLOTS, pickle.BUILD),
        whole(STATISTICS, pickle.EMPTY_TUPLE, pickle.NEWOBJ, STATE, pickle.BUILD, STATE, pickle.BUILD),
        whole(
            STATISTICS, pickle.EMPTY_TUPLE, pickle.NEWOBJ, STATE.replace(b"\x04mean", b"\x09__class__"), pickle.BUILD
        ),
        built(named("torch", "float32"), STATE),
        built(named("torch.nn.modules.activation", "Tanh"), SLOTS),
    ],
    ids=range(6),
)
def test_only_what_was_just_made_gets_attributes_and_only_once(content):
    good = whole(STATISTICS, pickle.EMPTY_TUPLE, pickle.NEWOBJ, STATE, pickle.BUILD)
    assert vars(loads(good, source="good.zip")) == {"mean": 1}
    with pytest.raises(NotAllowedError):
        loads(content, source="bad.zip")
    assert "mean" not in {**vars(RunningMeanStd), **vars(th.nn.Tanh)}


def test_a_pickle_that_changes_the_environment_is_refused(monkeypatch):
    content = whole(named("os", "environ"), text(PWNED), text("1"), pickle.SETITEM)
    pickle.loads(content)
    assert os.environ.pop(PWNED) == "1"
    with pytest.raises(NotAllowedError):
        loads(content, source="bad.zip")
    assert PWNED not in os.environ


def test_a_pickle_that_changes_the_path_of_imports_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    content = whole(named("sys", "path"), text(PWNED), pickle.APPEND)
    pickle.loads(content)
    assert sys.path.pop() == PWNED
    with pytest.raises(NotAllowedError):
        loads(content, source="bad.zip")
    assert PWNED not in sys.path


def test_a_pickle_that_registers_a_reducer_is_refused(monkeypatch):
    monkeypatch.setattr(copyreg, "dispatch_table", dict(copyreg.dispatch_table))
    content = pickle.dumps(Calls(copyreg.pickle, hostile.Target, hostile.fire))
    pickle.loads(content)
    assert copyreg.dispatch_table.pop(hostile.Target) is hostile.fire
    with pytest.raises(NotAllowedError):
        loads(content, source="bad.zip")
    assert hostile.Target not in copyreg.dispatch_table


@pytest.mark.parametrize(
    "opcode", [pickle.EXT1 + b"\xef", pickle.EXT2 + b"\xef\x00", pickle.EXT4 + b"\xef\0\0\0"], ids=range(3)
)
def test_registered_extensions_are_refused(opcode):
    copyreg.add_extension("hostile", "fire", 0xEF)
    try:
        content = whole(opcode, pickle.EMPTY_TUPLE, pickle.REDUCE)
        assert read_by_python(content)
        with pytest.raises(NotAllowedError, match="opcode EXT"):
            loads(content, source="bad.zip")
        assert not has_fired()
    finally:
        copyreg.remove_extension("hostile", "fire", 0xEF)
        copyreg.clear_extension_cache()


@pytest.mark.parametrize("content", [whole(pickle.PERSID + b"1\n"), whole(ONE, pickle.BINPERSID)], ids=range(2))
def test_persistent_ids_are_refused(content):
    class Loads(pickle.Unpickler):
        def persistent_load(self, pid):
            return hostile.fire()

    Loads(io.BytesIO(content)).load()
    assert has_fired()
    with pytest.raises(NotAllowedError, match="PERSID"):
        loads(content, source="bad.zip")


# Memory that is not theirs: a plain reader crashes, or takes numbers of the file for addresses. That is not tried.


def array(state, dtype=("O8", 63), order="|"):
    """An array whose content and type are made by hand."""
    code, flags = dtype
    kind = [
        named("numpy", "dtype"),
        pickle.MARK,
        text(code),
        pickle.NEWFALSE,
        pickle.NEWTRUE,
        pickle.TUPLE,
        pickle.REDUCE,
    ]
    kind += [pickle.MARK, pickle.BININT1 + b"\x03", text(order), pickle.NONE * 3, pickle.BININT + b"\xff" * 4]
    kind += [pickle.BININT + b"\xff" * 4, pickle.BININT1 + bytes([flags]), pickle.TUPLE, pickle.BUILD]
    new = [named("numpy._core.multiarray", "_reconstruct"), pickle.MARK, named("numpy", "ndarray")]
    new += [pickle.BININT1 + b"\x00", pickle.TUPLE1, pickle.SHORT_BINBYTES + b"\x01b", pickle.TUPLE, pickle.REDUCE]
    shape, content = state
    full = [pickle.MARK, ONE, shape, *kind, pickle.NEWFALSE, content, pickle.TUPLE, pickle.BUILD]
    return whole(*new, *full)


def tensor(offset, size, stride):
    def numbers(*values):
        return pickle.MARK + b"".join(pickle.LONG1 + b"\x08" + v.to_bytes(8, "little", signed=True) for v in values)

    content = legacy_storage(th.ones(4)._typed_storage())
    flat = named("torch.storage", "_load_from_bytes") + pickle.BINBYTES + len(content).to_bytes(4, "little") + content
    return whole(
        named("torch._utils", "_rebuild_tensor_v2"),
        *[pickle.MARK, flat, pickle.TUPLE1, pickle.REDUCE, numbers(offset)[1:], numbers(*size), pickle.TUPLE],
        *[numbers(*stride), pickle.TUPLE, pickle.NEWFALSE, pickle.EMPTY_DICT, pickle.TUPLE, pickle.REDUCE],
    )


ONE_SHAPE = ONE + pickle.TUPLE1
EIGHT = pickle.SHORT_BINBYTES + b"\x08" + b"A" * 8
MEMORY = {
    "objects from bytes": array((ONE_SHAPE, EIGHT)),
    "objects in another byte order": array((ONE_SHAPE, pickle.EMPTY_LIST + ONE + pickle.APPEND), order=">"),
    "objects with the flags of numbers": array((ONE_SHAPE, EIGHT), ("O8", 0)),
    "numbers with the flags of objects": array((ONE_SHAPE, EIGHT), ("i8", 63)),
    "numbers from a list": array((ONE_SHAPE, pickle.EMPTY_LIST), ("i8", 0)),
    "more than there is": array((pickle.BININT + b"\xff\xff\xff\x7f" + pickle.TUPLE1, EIGHT)),
    "negative": array((pickle.BININT + b"\xff" * 4 + pickle.TUPLE1, EIGHT), ("i8", 0)),
    "a void": array((ONE_SHAPE, EIGHT), ("V8", 0)),
    "a tensor beyond its storage": tensor(0, (5,), (1,)),
    "a tensor far beyond it": tensor(0, (2**40,), (1,)),
    "a tensor before it": tensor(-1, (1,), (1,)),
    "a tensor behind it": tensor(4, (1,), (1,)),
    "a tensor with long steps": tensor(0, (2,), (2**40,)),
    "a tensor with steps back": tensor(3, (2,), (-1,)),
    "a tensor many times as large": tensor(0, (2**40,), (0,)),
}


@pytest.mark.parametrize("content", MEMORY.values(), ids=MEMORY)
def test_memory_is_not_taken_from_elsewhere(content):
    with pytest.raises(NotAllowedError):
        loads(content, source="bad.zip")


def test_what_these_are_made_from_is_read():
    number = array((ONE_SHAPE, EIGHT), ("i8", 0))
    assert loads(number, source="good.zip") == pickle.loads(number)
    one = array((ONE_SHAPE, pickle.EMPTY_LIST + ONE + pickle.APPEND))
    assert loads(one, source="good.zip") == pickle.loads(one) == [1]
    for parts in [(0, (4,), (1,)), (1, (3,), (1,)), (0, (2, 2), (2, 1))]:
        assert loads(tensor(*parts), source="good.zip").tolist() == pickle.loads(tensor(*parts)).tolist()


# Too much: not tried either.
EIGHT_BYTES = (2**60).to_bytes(8, "little")
HUGE = {
    "bytearray": whole(pickle.BYTEARRAY8, EIGHT_BYTES),
    "bytes": whole(pickle.BINBYTES8, EIGHT_BYTES),
    "text": whole(pickle.BINUNICODE8, EIGHT_BYTES),
    "frame": pickle.PROTO + b"\x04" + pickle.FRAME + EIGHT_BYTES,
    "number": whole(pickle.LONG4, b"\xff\xff\xff\x7f"),
    "nothing": b"",
    "stack": whole(pickle.POP * 3),
    "mark": whole(pickle.TUPLE),
    "memo": whole(pickle.BINGET + b"\x07"),
    "a deeply nested key": whole(pickle.EMPTY_DICT, ONE, pickle.TUPLE1 * 50_000, ONE, pickle.SETITEM),
    "a deeply nested element": whole(pickle.MARK, ONE, pickle.TUPLE1 * 50_000, pickle.FROZENSET),
    "a deeply nested function": whole(ONE, pickle.TUPLE1 * 50_000, pickle.EMPTY_TUPLE, pickle.REDUCE),
    "a deeply nested member": whole(
        named("stable_baselines3.common.type_aliases", "TrainFrequencyUnit"),
        *[ONE, pickle.TUPLE1 * 50_000, pickle.TUPLE1, pickle.REDUCE],
    ),
}


@pytest.mark.parametrize("content", HUGE.values(), ids=HUGE)
def test_too_much_is_an_error(content):
    with pytest.raises(ValueError, match=r"^bad\.zip \(data: x\) "):
        loads(content, source="bad.zip", member="data: x")


def test_a_memo_far_away_takes_no_memory():
    assert loads(whole(ONE, pickle.LONG_BINPUT, b"\xff" * 4), source="good.zip") == 1


def test_depth_is_no_problem():
    content = whole(pickle.EMPTY_LIST * 50_001, pickle.APPEND * 50_000)
    assert len(loads(content, source="good.zip")) == 1


# Functions that say that they are SB3's


def impostor(value, qualname="constant_fn.<locals>.func", module="stable_baselines3.common.utils"):
    """A schedule of SB3 before 2.7 by its name, and something else by its code."""
    val = value

    def func(_):
        __import__("hostile").fire()
        return val

    func.__qualname__, func.__module__ = qualname, module
    func.__code__ = func.__code__.replace(co_qualname=qualname) if sys.version_info >= (3, 11) else func.__code__
    return cloudpickle.dumps(func)


def test_the_code_of_an_old_schedule_is_not_used(agent):
    changed(agent, "bad.zip", learning_rate=impostor(0.5), clip_range=impostor(0.25))
    stable_baselines3.PPO.load("bad.zip")
    assert has_fired()
    loaded = PPO.load("bad.zip")
    assert (loaded.lr_schedule(0.5), loaded.clip_range(0.5)) == (0.5, 0.25)
    assert not has_fired()


@pytest.mark.parametrize(
    "content",
    [
        impostor("0.5"),
        impostor(New),
        impostor(0.5, "other"),
        impostor(0.5, module="elsewhere"),
        impostor(0.5, "linear_schedule.<locals>.func"),
        impostor(0.5, "linear_schedule.<locals>.func", "__main__"),
    ],
    ids=range(6),
)
def test_other_functions_are_refused_as_code(content, agent):
    assert callable(pickle.loads(content))
    with pytest.raises(NotAllowedError):
        loads(content, source="bad.zip")


def test_a_lambda_as_schedule_is_told_how_to_go_on():
    PPO("MlpPolicy", "CartPole-v1", learning_rate=lambda progress: 0.5 * progress, device="cpu").save("mine")
    with pytest.raises(
        NotAllowedError, match=r"mine \(data: learning_rate\) holds the function <lambda> as code"
    ) as said:
        PPO.load("mine")
    assert "custom_objects={'learning_rate': ...}" in str(said.value)
    assert "trust=True" in str(said.value)
    assert PPO.load("mine", trust=True).lr_schedule(0.5) == 0.25
    assert PPO.load("mine", custom_objects={"learning_rate": 0.125}).lr_schedule(0.5) == 0.125
    assert PPO.load("mine", learning_rate=0.125).lr_schedule(0.5) == 0.125
    assert load_agent(stable_baselines3.PPO, "mine", learning_rate=0.125).lr_schedule(0.5) == 0.125


class Extractor(stable_baselines3.common.torch_layers.FlattenExtractor):
    """One of the user's own."""


def test_a_class_of_ones_own_is_given():
    kwargs = {"features_extractor_class": Extractor}
    PPO("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs, device="cpu").save("mine")
    with pytest.raises(NotAllowedError, match=r"names .*Extractor"):
        PPO.load("mine")
    assert isinstance(PPO.load("mine", custom_objects={"": Extractor}).policy.features_extractor, Extractor)


# JSON


def fires_in_sb3_and_is_refused(message=None):
    with suppress(Exception):
        stable_baselines3.PPO.load("bad.zip")
    assert has_fired()
    with pytest.raises(NotAllowedError, match=message):
        PPO.load("bad.zip")
    assert not has_fired()


def test_an_environment_by_its_id_is_not_made(agent):
    changed(agent, "bad.zip", env="hostile_module:CartPole-v1")
    fires_in_sb3_and_is_refused(r"bad\.zip \(data: env\)")


def test_the_second_of_two_values_is_the_one_that_is_looked_at(agent):
    with zipfile.ZipFile(agent) as archive:
        data = archive.read("data").decode()
    evil = json.dumps({"learning_rate": pickled(PICKLES["os.mkdir"]())})
    changed(agent, "bad.zip", {"data": data.rstrip().removesuffix("}") + "," + evil[1:]})
    fires_in_sb3_and_is_refused()


def test_base64_with_other_letters_in_it_is_still_a_pickle(agent):
    letters = base64.b64encode(PICKLES["os.mkdir"]()).decode()
    changed(agent, "bad.zip", learning_rate={":serialized:": "\n!".join(letters)})
    fires_in_sb3_and_is_refused()


@pytest.mark.parametrize(
    "data", ["", "[]", "{", "1", "[" * 200_000, '{"policy_class": "x"}', '{"a": {":serialized:": 1}}', "\xff"]
)
def test_data_that_are_none_are_an_error(data, agent):
    changed(agent, "bad.zip", {"data": data.encode("latin-1")})
    with pytest.raises(ValueError, match=r"^bad\.zip \(data"):
        PPO.load("bad.zip")


# Zip files


def members(*names, content=b"x", mode=stat.S_IFREG | 0o600):
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore", UserWarning)  # of a name that is there already
        for name in names:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return file.getvalue()


ZIPS = {
    "parent": members("../pwned"),
    "deep parent": members("a/../../pwned.pth"),
    "backslashes": members("..\\pwned"),
    "absolute": members("/tmp/pwned"),
    "drive": members("C:/pwned"),
    "link": members("data", mode=stat.S_IFLNK | 0o777, content=b"/etc/passwd"),
    "twice": members("data", "data"),
}


@pytest.mark.parametrize("content", ZIPS.values(), ids=ZIPS)
def test_members_that_lead_elsewhere_are_refused(content, folder):
    Path("bad.zip").write_bytes(content)
    assert zipfile.ZipFile("bad.zip").infolist()
    for read in (PPO.load, lambda path: load_policy(ActorCriticPolicy, path)):
        with pytest.raises(UnsafeFileError, match=r"^bad\.zip has"):
            read("bad.zip")
    assert {path.name for path in folder.iterdir()} == {"bad.zip", "hostile_module.py"}


def test_zeros_are_refused_before_they_are_unpacked():
    content = hostile.zeros(10)
    assert len(content) < 2**24
    with zipfile.ZipFile(io.BytesIO(content)) as archive, archive.open("data") as data:
        assert archive.getinfo("data").file_size == 10 * 2**30
        assert data.read(2**16) == bytes(2**16)
    Path("bad.zip").write_bytes(content)
    for read in (PPO.load, lambda path: load_agent(stable_baselines3.PPO, path), read_agent):
        with pytest.raises(UnsafeFileError, match="when it is unpacked"):
            read("bad.zip")


def test_zeros_that_are_not_compressed_are_refused_too():
    hostile.sparse("bad.zip", 10)
    assert zipfile.ZipFile("bad.zip").getinfo("data").file_size == 10 * 2**30
    with pytest.raises(UnsafeFileError, match="10,737,418,240 bytes when it is unpacked; 1,073,741,824 is the limit"):
        PPO.load("bad.zip")


def test_zeros_within_tensors_are_refused(agent):
    changed(agent, "bad.zip", {"policy.pth": hostile.zeros(10)})
    with pytest.raises(UnsafeFileError, match=r"bad\.zip \(policy\.pth\)"):
        PPO.load("bad.zip")


def test_a_zip_file_that_says_less_than_it_holds_is_an_error():
    with zipfile.ZipFile("bad.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", bytes(2**20))
        archive.infolist()[0].file_size = 10
    with pytest.raises(ValueError, match=r"bad\.zip"):
        PPO.load("bad.zip")


@pytest.mark.parametrize("size", [0, 1, 100, 2000])
def test_a_part_of_a_file_is_an_error(size, agent):
    Path("bad.zip").write_bytes(agent.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"the file bad\.zip wasn't a zip-file"):
        PPO.load("bad.zip")


# Tensors


@pytest.mark.parametrize("member", ["policy.pth", "policy.optimizer.pth", "pytorch_variables.pth", "more.pth"])
def test_tensors_are_read_without_running_code(member, agent):
    file = io.BytesIO()
    th.save(Calls(os.mkdir, PWNED), file)
    th.load(io.BytesIO(file.getvalue()), weights_only=False)
    assert has_fired()
    changed(agent, "bad.zip", {member: file.getvalue()})
    with pytest.raises(Exception, match=r"bad\.zip"):
        PPO.load("bad.zip")
    assert not has_fired()


@pytest.mark.parametrize("name", ["__class__.x", "policy.__class__.x", "policy.__init__.__globals__"])
def test_tensors_are_put_into_attributes_only(name, agent):
    file = io.BytesIO()
    th.save({name: th.ones(1)}, file)
    changed(agent, "bad.zip", {"pytorch_variables.pth": file.getvalue()})
    with pytest.raises(UnsafeFileError, match=r"bad\.zip \(pytorch_variables\.pth\)"):
        PPO.load("bad.zip")


# The command line

ENJOY = ["enjoy", "--algo", "ppo", "--env", "CartPole-v1", "--no-render", "-n", "10", "-f", "logs"]


@pytest.fixture
def run(folder, agent):
    """A run with a hostile agent in it."""
    run = folder / "logs/ppo/CartPole-v1_1"
    (run / "CartPole-v1").mkdir(parents=True)
    shutil.copy(agent, run / "CartPole-v1.zip")
    return run


@pytest.mark.parametrize("algo", ["ppo", "sb3/ppo"])
def test_enjoy_refuses_a_hostile_agent_in_one_line(algo, run, agent, capsys):
    shutil.move(run.parent, run.parents[1] / "moved")
    (run.parents[1] / algo).parent.mkdir(exist_ok=True)
    shutil.move(run.parents[1] / "moved", run.parents[1] / algo)
    path = run.parents[1] / algo / run.name / "CartPole-v1.zip"
    changed(agent, path, learning_rate=PICKLES["os.mkdir"]())
    options = ["--algo", algo]
    assert main([*ENJOY, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "CartPole-v1.zip (data: learning_rate) names posix.mkdir" in line
    assert "--trust" in line
    assert not has_fired()
    main([*ENJOY, *options, "--trust"])
    assert has_fired()


def test_enjoy_refuses_hostile_statistics(run, capsys):
    (run / "CartPole-v1/config.yml").write_text("normalize: true\n")
    (run / "CartPole-v1/vecnormalize.pkl").write_bytes(PICKLES["os.mkdir"]())
    assert main(ENJOY) == 2
    assert "vecnormalize.pkl names posix.mkdir" in capsys.readouterr().err
    assert not has_fired()
    main([*ENJOY, "--trust"])
    assert has_fired()


def test_training_on_refuses_a_hostile_agent_and_hostile_statistics(run, agent, capsys):
    options = ["train", "-i", str(run / "CartPole-v1.zip"), "--env", "CartPole-v1", "-n", "8", "--eval-freq", "-1"]
    options += ["--hyperparams", "n_envs:1", "n_steps:8", "batch_size:8", "policy_kwargs:dict(net_arch=[2])"]
    (run / "CartPole-v1/vecnormalize.pkl").write_bytes(PICKLES["os.mkdir"]())
    assert main(options) == 2
    assert "vecnormalize.pkl names posix.mkdir" in capsys.readouterr().err
    (run / "CartPole-v1/vecnormalize.pkl").unlink()
    changed(agent, run / "CartPole-v1.zip", nobody_reads_it=PICKLES["os.mkdir"]())
    assert main(options) == 2
    assert "(data: nobody_reads_it) names posix.mkdir" in capsys.readouterr().err
    assert not has_fired()
    main([*options, "--trust"])
    assert has_fired()


def test_old_schedules_of_sb3_keep_their_value():
    with pytest.warns(UserWarning, match="deprecated"):
        schedule = constant_fn(0.25)
    assert loads(cloudpickle.dumps(schedule), source="good.zip")(0.5) == schedule(0.5) == 0.25


def test_statistics_of_ten_gigabytes_are_refused():
    with open("vecnormalize.pkl", "wb") as file:
        file.truncate(10 * 2**30)
    with pytest.raises(UnsafeFileError, match="10,737,418,240 bytes; 1,073,741,824 is the limit"):
        load_normalization("vecnormalize.pkl", DummyVecEnv([lambda: gym.make("CartPole-v1")]))


@pytest.mark.parametrize("name", [*ZIPS, "zeros"])
def test_language_models_are_not_unpacked_elsewhere(name, folder):
    from pg_agents.language import files

    Path("bad.zip").write_bytes(hostile.zeros(10) if name == "zeros" else ZIPS[name])
    with pytest.raises(UnsafeFileError, match=r"^bad\.zip has"):
        files.load(object, "bad.zip", {})
    assert {path.name for path in folder.iterdir()} == {"bad.zip", "hostile_module.py"}


MISFITS = {
    "short": th.zeros(1),
    "steps of nothing": th.zeros(1).as_strided((2, 4), (0, 0)),
    "turned": th.zeros(4, 2).T,
    "larger": th.zeros(3, 4),
}


@pytest.mark.parametrize("moment", MISFITS.values(), ids=MISFITS)
def test_states_of_optimisers_that_do_not_fit_are_refused(moment, agent):
    with zipfile.ZipFile(agent) as archive:
        parameters = th.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
        state = th.load(io.BytesIO(archive.read("policy.optimizer.pth")), weights_only=True)
    first = next(iter(parameters.values()))
    assert first.shape == (2, 4)
    good = {"step": th.tensor(1.0), "exp_avg": th.zeros(2, 4), "exp_avg_sq": th.zeros(2, 4)}
    for given, fits in ((good, True), ({**good, "exp_avg": moment}, False)):
        file = io.BytesIO()
        th.save({**state, "state": {0: given}}, file)
        path = changed(agent, "bad.zip", {"policy.optimizer.pth": file.getvalue()})
        with nullcontext() if fits else pytest.raises(ValueError, match=r"exp_avg must have the shape \(2, 4\)"):
            PPO.load(path)
        with nullcontext() if fits else pytest.raises(ValueError, match=r"exp_avg must have the shape \(2, 4\)"):
            PPO.load(agent).set_parameters(path)
