"""Hyperparameter files and those of a run are data: nothing in them runs as code, unless the user says `--trust`."""

import shutil
import subprocess
import sys
from collections import OrderedDict

import pytest
import rl_zoo3.exp_manager
import stable_baselines3
import torch as th
import yaml
from combinations import each_value
from prose import says
from rl_zoo3.utils import get_saved_hyperparams

import pg_agents
from pg_zoo.cli import main
from pg_zoo.errors import UserError
from pg_zoo.recipes.files import files, find_entry
from pg_zoo.recipes.trust import data_only
from pg_zoo.runs.cell import Cell
from pg_zoo.runs.training import resolved

SHORT = {"n_timesteps": 16, "n_steps": 8, "batch_size": 8, "n_epochs": 1}
EVALUATED = ("monitor_kwargs", "normalize", "policy_kwargs", "replay_buffer_class", "replay_buffer_kwargs")
PWN = "__import__('pathlib').Path('pwned').touch()"
MINE = """
from pathlib import Path

import gymnasium as gym

Path("imported").touch()


def wrapper(env):
    Path("pwned").touch()
    return env


class Impostor:
    def __init__(self, *args, **kwargs):
        Path("pwned").touch()


class Generous(gym.RewardWrapper):
    def reward(self, reward):
        return 3 * reward
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty one, and a module of the user's own that can be imported from it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_wrappers.py").write_text(MINE)
    yield tmp_path
    sys.modules.pop("my_wrappers", None)


def train(entry, *options, file="foreign.yml"):
    """The exit status of a training with this entry in a file."""
    with open(file, "w") as stream:
        yaml.safe_dump({"CartPole-v1": {**SHORT, **entry}}, stream)
    return main(["train", "--conf-file", file, "--eval-freq", "-1", "--verbose", "0", *options])


def only_error_line(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    return line


def evaluated(text):
    """What rl_zoo3 makes of a string."""
    return eval(text, vars(rl_zoo3.exp_manager))


NO_DATA = [
    PWN,
    f"[{PWN}]",
    f"dict(a={PWN})",
    f"dict(a=dict(b=[{PWN}]))",
    f"dict([('a', {PWN})])",
    f"dict(**{{'a': {PWN}}})",
    "dict(**{'a': 1})",
    f"{{'a': {PWN}}}",
    f"{{{PWN}: 1}}",
    f"f'{{{PWN}}}'",
    f"(lambda: {PWN})()",
    f"[{PWN} for _ in (1,)]",
    f"nn.Module.__class__({PWN})",
    "dict(activation_fn=nn.Linear(1, 1))",
    "nn.init",
    "nn.functional.relu",
    "os",
    "-" * 100_000 + "1",
    "1 +",
]
NAMED = {f"{number} {text[:20]}": text for number, text in enumerate(NO_DATA)}


# Each key with several expressions, and each expression with one of the keys, which are all parsed alike.
@pytest.mark.parametrize(("text", "key"), each_value(NAMED, EVALUATED))
def test_an_expression_that_is_no_data_is_refused(key, text, folder):
    with pytest.raises(UserError, match=f"^'CartPole-v1' in foreign.yml: {key} is .*, which is code: .*--trust"):
        data_only({**SHORT, key: text}, "'CartPole-v1' in foreign.yml")
    assert not (folder / "pwned").exists()


def test_a_file_that_would_run_code_is_one_line_and_leaves_no_trace(folder, capsys):
    assert train({"policy_kwargs": f"dict(a={PWN})"}) == 2
    line = only_error_line(capsys)
    assert "'CartPole-v1' in foreign.yml: policy_kwargs is" in line
    assert repr(f"dict(a={PWN})") in line
    assert {path.name for path in folder.iterdir()} <= {"foreign.yml", "my_wrappers.py", "__pycache__"}


def test_a_prior_that_a_file_names_runs_code_only_if_it_is_trusted(folder, capsys):
    assert train({"prior": "prior.zip"}) == 2
    assert "No such file or directory: 'prior.zip" in only_error_line(capsys)
    pg_agents.PPO("MlpPolicy", "CartPole-v1", learning_rate=lambda _: 1e-3, device="cpu").save("prior")
    assert train({"prior": "prior.zip"}) == 2
    assert says(only_error_line(capsys), "prior.zip (data: learning_rate) holds the function <lambda>", "--trust")
    assert train({"prior": "prior.zip"}, "--trust") == 0
    pg_agents.PPO("MlpPolicy", "CartPole-v1", learning_rate=1e-3, device="cpu").save("prior")
    assert train({"prior": "prior.zip"}) == 0


def test_with_trust_it_runs(folder):
    assert train({"policy_kwargs": f"dict(net_arch=[4] if {PWN} is None else [5])"}, "--trust") == 0
    assert (folder / "pwned").exists()


@pytest.mark.parametrize("file", files(), ids=str)
def test_installed_files_mean_what_rl_zoo3_makes_of_them(file):
    for env_id, entry in file.entries().items():
        data = data_only({key: value for key, value in entry.items() if "wrapper" not in key}, env_id)
        for key, value in data.items():
            assert value == (evaluated(entry[key]) if key in EVALUATED and isinstance(entry[key], str) else entry[key])


@pytest.mark.parametrize("algo", ["a2c", "ppo", "reinforce", "reinforce_baseline"])
def test_rl_zoo3_can_use_our_default_entries_and_we_choose_the_policy_ourselves(algo):
    (file,) = (file for file in files() if file.algo == algo)
    assert yaml.safe_load(file.path.read_text())["default"]["policy"] == "MlpPolicy"
    entry, origin = find_entry(algo, "Nobodys-v0")
    assert entry["policy"] == "auto"
    assert origin.startswith(f"'default' in {algo}.yml")


@pytest.mark.parametrize(
    "name",
    [
        "rl_zoo3.wrappers.HistoryWrapper",
        "rl_zoo3.wrappers.YAMLCompatResizeObservation",
        "gymnasium.wrappers.transform_observation.GrayscaleObservation",
        "stable_baselines3.common.atari_wrappers.AtariWrapper",
        "sb3_contrib.common.wrappers.TimeFeatureWrapper",
        "pg_envs.Discretizer",
    ],
)
def test_wrappers_are_named(name):
    for value in (name, [name], {name: {"horizon": 2}}, [{name: None}, name]):
        assert data_only({"env_wrapper": value}, "") == {"env_wrapper": value}


def test_our_parser_makes_data_of_what_rl_zoo3_would_evaluate(monkeypatch):
    monkeypatch.setattr("pg_zoo.recipes.trust.eval", pytest.fail, raising=False)
    entry = {
        "monitor_kwargs": "dict(info_keywords=())",
        "normalize": "{'norm_obs': True, 'norm_reward': False}",
        "policy_kwargs": "dict(net_arch=dict(pi=[4], vf=[5]), activation_fn=nn.ReLU, optimizer_class=RMSpropTFLike)",
        "env_wrapper": [{"my_wrappers.Generous": {}}],
        "callback": [{"stable_baselines3.common.callbacks.LogEveryNTimesteps": {"n_steps": 8}}],
    }
    assert train(entry, "--gym-packages", "my_wrappers") == 0  # the user has named it
    policy = pg_agents.PPO.load("logs/ppo/CartPole-v1_1/CartPole-v1.zip").policy
    assert [type(layer) for layer in policy.mlp_extractor.policy_net] == [th.nn.Linear, th.nn.ReLU]
    assert type(policy.optimizer).__name__ == "RMSpropTFLike"


def test_a_replay_buffer_is_named_as_in_rl_zoo3():
    entry = {"replay_buffer_class": "HerReplayBuffer", "replay_buffer_kwargs": "dict(n_sampled_goal=4)"}
    assert data_only(entry, "") == {
        "replay_buffer_class": stable_baselines3.HerReplayBuffer,
        "replay_buffer_kwargs": {"n_sampled_goal": 4},
    }


def test_the_saved_run_has_the_strings_and_can_be_replayed(folder, capsys):
    entry = {"normalize": "dict(norm_obs=True, norm_reward=False)", "policy_kwargs": "dict(activation_fn=nn.ReLU)"}
    assert train(entry) == 0
    saved = yaml.unsafe_load((folder / "logs/ppo/CartPole-v1_1/CartPole-v1/config.yml").read_text())
    assert {key: saved[key] for key in entry} == entry
    hyperparams, _ = get_saved_hyperparams("logs/ppo/CartPole-v1_1/CartPole-v1", test_mode=True)
    assert hyperparams["normalize_kwargs"] == {"norm_obs": True, "norm_reward": False}
    assert main(["enjoy", "--no-render", "-n", "200"]) == 0
    assert "Mean reward" in capsys.readouterr().out


NAMING = ["callback", "env_wrapper", "policy", "vec_env_wrapper"]
OTHER_NAMES = [
    "my_wrappers.wrapper",
    "my_wrappers.Impostor",
    "my_wrappers.missing",
    "os.system",
    "builtins.exec",
    "antigravity.x",
    "subprocess.Popen",
    "no_such_module.Wrapper",
    "gymnasium.no_such_module.Wrapper",
    "numpy.f2py.__main__.Wrapper",
    "__main__.Wrapper",
    "rl_zoo3.exp_manager.ExperimentManager",
    "pathlib.Path",
    ".relative.Name",
]


@pytest.mark.parametrize(("name", "key"), each_value(OTHER_NAMES, NAMING))
def test_a_name_of_something_else_is_refused_before_it_is_called(key, name, folder):
    for value in [name, [name], {name: {"a": 1}}, [{name: {"a": 1}}]][: 1 if key == "policy" else 4]:
        with pytest.raises(UserError, match=f"^'default' in foreign.yml: {key} .*{name!r}"):
            data_only({key: value}, "'default' in foreign.yml")
    assert not (folder / "pwned").exists()
    assert not (folder / "imported").exists()


@pytest.mark.parametrize("key", NAMING)
def test_a_class_of_another_kind_is_not_called(key, folder):
    __import__("my_wrappers")  # which a plugin may have done
    for name in ("my_wrappers.wrapper", "my_wrappers.Impostor", "my_wrappers.missing"):
        with pytest.raises(UserError, match=f"^here: {key} .*{name!r}"):
            data_only({key: name}, "here")
    assert not (folder / "pwned").exists()


def test_with_trust_any_callable_of_any_module_is_a_wrapper(folder, capsys):
    assert train({"env_wrapper": "my_wrappers.wrapper"}) == 2
    line = only_error_line(capsys)
    assert "'CartPole-v1' in foreign.yml: env_wrapper is 'my_wrappers.wrapper', which would be imported" in line
    assert line.endswith("say --trust.")
    assert not (folder / "imported").exists()
    assert train({"env_wrapper": "my_wrappers.wrapper"}, "--trust") == 0
    assert (folder / "pwned").exists()


def test_what_a_package_runs_as_a_command_is_not_imported(folder):
    (folder / "command").mkdir()
    (folder / "command/__init__.py").touch()
    (folder / "command/__main__.py").write_text(MINE)
    __import__("command")
    with pytest.raises(UserError, match="--trust"):
        data_only({"env_wrapper": "command.__main__.Generous"}, "")
    assert not (folder / "imported").exists()


def test_a_package_without_a_file_of_its_own_may_be_anybodys(folder):
    (folder / "anybodys").mkdir()
    (folder / "anybodys/first.py").touch()
    (folder / "anybodys/second.py").write_text(MINE)
    __import__("anybodys.first")
    with pytest.raises(UserError, match="--trust"):
        data_only({"env_wrapper": "anybodys.second.Generous"}, "")
    assert not (folder / "imported").exists()


@pytest.mark.parametrize("value", ["acme_agents.algorithms:Acme", "acme_agents"])
def test_what_the_distribution_of_a_plugin_brought_may_be_imported(value, folder):
    info = folder / "acme-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.5\n")
    (info / "RECORD").write_text("acme_wrappers.py,,\nacme_agents.py,,\n")
    for name in ("acme_agents.Generous", "acme_wrappers.Generous"):
        (folder / f"{name.partition('.')[0]}.py").write_text(MINE)
        with pytest.raises(UserError, match="--trust"):
            data_only({"env_wrapper": name}, "")
    assert not (folder / "imported").exists()
    (info / "entry_points.txt").write_text(f"[pg_agents.hyperparams]\nacme = {value}\n")
    for name in ("acme_agents.Generous", "acme_wrappers.Generous"):
        assert data_only({"env_wrapper": name}, "") == {"env_wrapper": name}
        del sys.modules[name.partition(".")[0]]


def test_a_module_that_exits_when_it_is_imported_is_one_line(folder, capsys):
    (folder / "leaving").mkdir()
    (folder / "leaving/__init__.py").touch()
    (folder / "leaving/now.py").write_text("raise SystemExit(0)")
    assert train({"env_wrapper": "leaving.now.Wrapper"}, "--gym-packages", "leaving") == 2
    assert only_error_line(capsys).endswith("'leaving.now.Wrapper', which cannot be imported: SystemExit: 0")


@pytest.mark.parametrize("entry", [{"policy_kwargs": PWN}, {"env_wrapper": "my_wrappers.Generous"}])
def test_commands_without_the_option_do_not_suggest_it(entry):
    with pytest.raises(UserError, match=r"Such an entry cannot be used here, only by pg-zoo train with --trust\.$"):
        resolved(Cell("ppo", "CartPole-v1", 0, {**SHORT, **entry}, "acme.yml"))


@pytest.mark.parametrize(
    ("key", "value", "facts"),
    [
        ("n_timesteps", "abc", ["at least 1", "'abc'"]),
        ("n_timesteps", None, ["at least 1", None]),
        ("n_envs", "many", ["integer", "at least 1", "'many'"]),
        ("n_envs", 0, ["integer", "at least 1", 0]),
        ("frame_stack", "x", ["integer", "at least 1", None, "'x'"]),
        ("policy", 3, ["MlpPolicy, CnnPolicy, MultiInputPolicy", 3]),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_with_what_is_allowed(key, value, facts, folder, capsys):
    assert train({key: value}) == 2
    assert says(only_error_line(capsys), "pg-zoo: error: ", f"`{key}`", *facts)
    assert not (folder / "logs").exists()


def test_a_file_in_another_encoding_is_named(folder, capsys):
    (folder / "latin.yml").write_bytes("CartPole-v1: {gamma: 0.9}  # für mich".encode("latin-1"))
    assert main(["train", "--conf-file", "latin.yml"]) == 2
    assert "latin.yml is not YAML: 'utf-8' codec can't decode byte 0xfc" in only_error_line(capsys)


@pytest.mark.parametrize("name", ["conf.py", "conf"])
def test_python_as_a_hyperparameter_file_needs_trust(name, folder, capsys):
    (folder / "conf.py").write_text(f"{PWN}\nhyperparams = {{'CartPole-v1': {SHORT}}}")
    argv = ["train", "--conf-file", name, "--eval-freq", "-1", "--verbose", "0"]
    assert main(argv) == 2
    assert f"--conf-file {name} is not YAML" in only_error_line(capsys)
    assert not (folder / "pwned").exists()
    assert main([*argv, "--trust"]) == 0
    assert (folder / "pwned").exists()


@pytest.mark.parametrize("options", [[], ["--trust"]])
def test_yaml_never_makes_python_objects(options, folder, capsys):
    (folder / "tags.yml").write_text("CartPole-v1:\n  gamma: !!python/object/apply:os.system ['touch pwned']\n")
    assert main(["train", "--conf-file", "tags.yml", *options]) == 2
    assert "tags.yml holds Python objects" in only_error_line(capsys)
    assert not (folder / "pwned").exists()


ENJOY = ["enjoy", "-f", "logs", "--no-render", "-n", "200"]
RUN = "logs/ppo/CartPole-v1_1/CartPole-v1"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run as `train` writes it, with networks and tuples among its options."""
    logs = tmp_path_factory.mktemp("trained") / "logs"
    values = [
        "n_steps:8",
        "batch_size:8",
        "n_epochs:1",
        "learning_rate:lin_0.001",
        "monitor_kwargs:dict(info_keywords=())",
    ]
    values += [
        "policy_kwargs:dict(activation_fn=nn.ReLU, optimizer_class=RMSpropTFLike)",
        "normalize:dict(norm_obs=True)",
    ]
    options = ["-f", str(logs), "--eval-freq", "-1", "--verbose", "0", "--env-kwargs", "sutton_barto_reward:True"]
    assert main(["train", "-n", "16", *options, "--hyperparams", *values]) == 0
    return logs


@pytest.fixture
def run(trained, folder):
    """A copy of it, in the folder of which a test may write other files."""
    shutil.copytree(trained, folder / "logs")
    return folder / RUN


def write(run, file, **values):
    """Change a file of the run."""
    content = yaml.unsafe_load((run / file).read_text())
    (run / file).write_text(yaml.dump(OrderedDict({**content, **values})))


def test_a_run_that_train_wrote_is_replayed_as_it_was_trained(run, capsys):
    assert "!!python/name:torch.nn" in (run / "config.yml").read_text()
    assert "!!python/tuple" in (run / "config.yml").read_text()
    assert main(ENJOY) == 0
    out = capsys.readouterr().out
    assert "vecnormalize.pkl\n" in out
    # That reward is -1 at the end, and 0 before.
    assert "Mean reward: -1.00 +/- 0.00" in out


CALL = "!!python/object/apply:os.system ['touch pwned']"
TAGS = [
    CALL,
    "!!python/object/new:os.system ['touch pwned']",
    "!!python/object/apply:subprocess.Popen [[touch, pwned]]",
    "!!python/object:my_wrappers.Impostor {}",
    "!!python/module:my_wrappers ''",
    "!!python/name:my_wrappers.wrapper ''",
    "!!python/name:os.system ''",
    "!!python/name:torch.load ''",
    "!!python/name:torch.nn.modules.module.Module.apply ''",
    f"!!python/tuple [{CALL}]",
    f"{{a: [{CALL}]}}",
    f"!!python/object/apply:collections.OrderedDict [[[a, {CALL}]]]",
    "!!python/object/apply:collections.defaultdict [!!python/name:os.getcwd '']",
    "!unknown x",
]


PLACES = {f"{file}-{key}": (file, key) for file in ("config.yml", "args.yml") for key in ("gamma", "env_kwargs")}


@pytest.mark.parametrize(("tag", "place"), each_value(TAGS, PLACES))
def test_a_run_with_python_objects_is_refused_and_none_is_made(tag, place, run, folder, capsys):
    file, key = place
    (run / file).write_text(f"normalize: false\n{key}: {tag}\n")
    assert main(ENJOY) == 2
    line = only_error_line(capsys)
    assert f"{RUN}/{file}, line 2: !" in line
    assert line.endswith("is not plain data and could run code. If you trust whoever wrote it, say --trust.")
    assert not (folder / "pwned").exists()
    assert not (folder / "imported").exists()


def test_a_run_that_is_trusted_may_have_them(run, folder):
    (run / "config.yml").write_text(f"normalize: false\ngamma: {CALL}\n")
    assert main([*ENJOY, "--trust"]) == 0
    assert (folder / "pwned").exists()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("normalize", f"dict(norm_obs={PWN})", "which is code"),
        ("env_wrapper", "my_wrappers.wrapper", "which would be imported"),
        ("env_wrapper", [{"my_wrappers.Impostor": {"a": 1}}], "which would be imported"),
        ("vec_env_wrapper", "my_wrappers.Impostor", "which would be imported"),
    ],
)
def test_hyperparameters_of_a_run_are_held_to_what_those_of_files_are(key, value, said, run, folder, capsys):
    write(run, "config.yml", **{key: value})
    assert main(ENJOY) == 2
    line = only_error_line(capsys)
    assert f"{RUN}/config.yml: {key} is" in line
    assert said in line
    assert line.endswith("say --trust.")
    assert not (folder / "pwned").exists()
    assert not (folder / "imported").exists()


def test_a_wrapper_of_a_run_is_used_where_it_is_trusted_or_named(run, capsys):
    write(run, "config.yml", env_wrapper="my_wrappers.Generous")
    for option in (["--trust"], ["--gym-packages", "my_wrappers"]):
        assert main([*ENJOY, *option]) == 0
        assert "Mean reward: -1.00" in capsys.readouterr().out  # the environment's own, under the wrapper


def test_what_a_replay_has_no_use_for_need_not_be_importable(run):
    write(run, "config.yml", callback="a.b.Callback", policy_kwargs="dict(features_extractor_class=Mine)")
    assert main(ENJOY) == 0


@pytest.mark.parametrize("file", ["config.yml", "args.yml"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: [1\n", ": line 3: expected ',' or ']'"),
        ("- 1\n", "must hold a mapping"),
        ("env_kwargs: fast\n", "must hold a mapping, and so must env_kwargs in it."),
        ("!!python/object/apply:collections.OrderedDict [1]", " cannot be read: "),
    ],
)
def test_a_file_of_a_run_that_cannot_be_read_is_named(file, text, said, run, capsys):
    (run / file).write_text(text)
    assert main(ENJOY) == 2
    line = only_error_line(capsys)
    assert f"{RUN}/{file}" in line
    assert said in line


def test_a_run_of_rl_zoo3_itself_is_replayed(folder, capsys):
    options = ["--algo", "ppo", "--env", "CartPole-v1", "-f", "logs/sb3", "-n", "16", "--eval-freq", "-1"]
    options += ["--env-kwargs", "sutton_barto_reward:True", "--hyperparams", "n_envs:1", "n_steps:8", "batch_size:8"]
    options += ["normalize:True", "policy_kwargs:dict(activation_fn=nn.ReLU, optimizer_class=th.optim.SGD)"]
    subprocess.run([sys.executable, "-m", "rl_zoo3.train", *options], check=True, capture_output=True)
    assert main(["enjoy", "--algo", "sb3/ppo", "--no-render", "-n", "200"]) == 0
    out = capsys.readouterr().out
    assert "vecnormalize.pkl\n" in out
    assert "Mean reward: -1.00 +/- 0.00" in out
