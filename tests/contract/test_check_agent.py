"""`check_agent` passes every registered algorithm and SB3's own, and says what is wrong with faulty ones."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import stable_baselines3
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy

from pg_agents import A2C
from pg_agents.registry import ALGORITHMS, plugins
from pg_agents.testing import Capabilities, check_agent

# Language models act in texts alone: test_language.py has their contract.
CONTROL = [name for name, plugin in plugins(ALGORITHMS).items() if not plugin.value.startswith("pg_agents.language:")]


@pytest.mark.parametrize("name", CONTROL)
def test_every_registered_algorithm_conforms(name):
    check_agent(plugins(ALGORITHMS)[name].load())


@pytest.mark.parametrize("cls", [stable_baselines3.PPO, stable_baselines3.A2C])
def test_sb3s_own_algorithms_conform(cls):
    check_agent(cls)


def test_arguments_reach_the_constructor():
    with pytest.raises(AssertionError, match="from 64 steps"):
        # Rollouts of 64 steps are fine, were it not that learn starts again.
        check_agent(Forgets, n_steps=64)


def test_an_off_policy_algorithm_conforms_as_far_as_it_goes():
    check_agent(stable_baselines3.DQN, learning_starts=2, train_freq=2, buffer_size=64)


def test_what_is_no_algorithm_is_refused():
    for thing in ("ppo", object):
        with pytest.raises(AssertionError, match=r"must be a class derived from .*BaseAlgorithm"):
            check_agent(thing)


class Mixin:
    """Has no constructor of its own."""


class Base(Mixin, A2C):
    """Has one policy and acts in one kind of space: a fault is found in two cases as in twenty-four."""

    policy_aliases = {"MlpPolicy": ActorCriticPolicy}
    acts_in = spaces.Discrete

    def _setup_model(self):
        assert isinstance(self.action_space, self.acts_in), f"only supports {self.acts_in}"
        super()._setup_model()


@pytest.mark.parametrize("progress", [True, None])
def test_a_line_for_each_environment_and_the_number_of_checks_are_printed_if_asked_for(progress, capsys):
    check_agent(Base, progress=progress)
    said = [f"{number} of 2: Base (MlpPolicy, Discrete actions, n_envs={number})" for number in (1, 2)]
    # The constructor's defaults; training twice; objective, predictions and files; ten of the protocol twice.
    said += ["Callbacks, log, interruption and files", "Base has passed all 26 checks, and has not warned."]
    # Stdout is no terminal here.
    assert capsys.readouterr().out.splitlines() == (said if progress else [])


def negative(log_prob, ratio, advantage):
    return -advantage


class WrongSign(Base):
    def objective(self):
        return replace(super().objective(), weight=negative)


class NoPolicy(Base):
    policy_aliases = {}


class ReturnsNone(Base):
    def learn(self, *args, **kwargs):
        super().learn(*args, **kwargs)


class NeverTrains(Base):
    def train(self):
        pass


class StepsTooOften(Base):
    def collect_rollouts(self, env, *args, **kwargs):
        env.step([env.action_space.sample()] * env.num_envs)
        return super().collect_rollouts(env, *args, **kwargs)


class SendsRawActions(Base):
    acts_in = spaces.Box

    def environment_actions(self, actions):
        return actions


class PredictsFloat64(Base):
    acts_in = spaces.Box

    def predict(self, *args, **kwargs):
        actions, state = super().predict(*args, **kwargs)
        return (actions.astype(np.float64) if actions.dtype == np.float32 else actions), state


class PredictsColumns(Base):
    def predict(self, *args, **kwargs):
        actions, state = super().predict(*args, **kwargs)
        return actions[:, None], state


class PredictsColumnsOfOneEnvironment(PredictsColumns):
    def _setup_model(self):
        assert self.n_envs == 1, "only supports one environment"
        super()._setup_model()


class AlwaysSamples(Base):
    def predict(self, *args, deterministic=False, **kwargs):
        return super().predict(*args, **kwargs)


class ForgetsTheOptimiser(Base):
    def _get_torch_save_params(self):
        return ["policy"], []


class HoldsAGenerator(Base):
    def _setup_model(self):
        super()._setup_model()
        self.generator = (number for number in range(3))


class HoldsAGeneratorWhileCollecting(Base):
    def collect_rollouts(self, *args, **kwargs):
        self.generator = (number for number in range(3))
        going_on = super().collect_rollouts(*args, **kwargs)
        del self.generator
        return going_on


class AllocatesInInit(Base):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.total = np.zeros(getattr(self, "n_envs", 1))

    def collect_rollouts(self, env, *args, **kwargs):
        self.total += np.ones(env.num_envs)
        return super().collect_rollouts(env, *args, **kwargs)


class IgnoresTheSeed(Base):
    def set_random_seed(self, seed=None):
        pass


class HasOneSeed(Base):
    def set_random_seed(self, seed=None):
        super().set_random_seed(0)


class WithCallback(Base):
    """Changes the callback that it is given."""

    def _setup_learn(self, *args, **kwargs):
        total_timesteps, callback = super()._setup_learn(*args, **kwargs)
        self.change(callback)
        return total_timesteps, callback


class IgnoresFalse(WithCallback):
    def change(self, callback):
        on_step = callback.on_step
        callback.on_step = lambda: [on_step(), True][1]


class HidesItsVariables(WithCallback):
    def change(self, callback):
        callback.update_locals = lambda local_variables: None


class ForgetsTheEndOfRollouts(WithCallback):
    def change(self, callback):
        callback.on_rollout_end = lambda: None


class TrainsWhenStopped(Base):
    def collect_rollouts(self, env, callback, rollout_buffer, n_rollout_steps):
        going_on = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        if not going_on:
            rollout_buffer.full = True
            rollout_buffer.advantages += 1
            self.train()
        return going_on


class Forgets(Base):
    def learn(self, *args, reset_num_timesteps=True, **kwargs):
        return super().learn(*args, **kwargs)


class NeverForgets(Base):
    def learn(self, *args, reset_num_timesteps=True, **kwargs):
        return super().learn(*args, reset_num_timesteps=False, **kwargs)


class KeepsItsEnvironment(Base):
    def set_env(self, env, force_reset=True):
        pass


class KeepsItsParameters(Base):
    def set_parameters(self, parameters, *args, **kwargs):
        if isinstance(parameters, dict) and "device" in kwargs:  # only `load` names the device
            super().set_parameters(parameters, *args, **kwargs)


class LogsNothing(Base):
    def dump_logs(self, iteration=0):
        pass


class CollectsInTrainingMode(Base):
    def _setup_model(self):
        super()._setup_model()
        self.policy.set_training_mode = lambda mode: None


class SwallowsInterrupts(Base):
    def learn(self, *args, **kwargs):
        try:
            return super().learn(*args, **kwargs)
        except KeyboardInterrupt:
            return self


class DiesOfInterrupts(Base):
    def collect_rollouts(self, *args, **kwargs):
        if getattr(self, "busy", False):
            raise RuntimeError("busy")
        self.busy = True
        going_on = super().collect_rollouts(*args, **kwargs)
        self.busy = False
        return going_on

    def _excluded_save_params(self):
        return [*super()._excluded_save_params(), "busy"]


class Warns(Base):
    def train(self):
        warnings.warn("old", DeprecationWarning, stacklevel=2)
        super().train()


FAULTS = {
    NoPolicy: "must have one of the policies MlpPolicy, CnnPolicy, MultiInputPolicy",
    ReturnsNone: "must return the agent itself, but returned None",
    NeverTrains: "must change the policy's parameters",
    StepsTooOften: "must count the steps of all environments, which took 18, but is 16",
    SendsRawActions: r"must be given actions in their action space Box\(.*\), but got array",
    PredictsFloat64: "must give actions in Box|dtype float32, but gave float64",
    PredictsColumns: r"must give actions of shape \(5,\) for five observations, but gave \(5, 1\)",
    PredictsColumnsOfOneEnvironment: r"must give actions of shape \(5,\) for five observations, but gave \(5, 1\)",
    AlwaysSamples: "must answer the same observation with the same action each time",
    ForgetsTheOptimiser: "must hold the optimiser's state too",
    HoldsAGenerator: "must be saved and loaded. Name attributes that cannot be pickled.*TypeError",
    HoldsAGeneratorWhileCollecting: "must be saved at any moment, also in the middle of a rollout.*TypeError",
    AllocatesInInit: "must load with three environments and train on: allocate by `n_envs` in `_setup_model`",
    IgnoresTheSeed: "with one seed must have the same parameters",
    HasOneSeed: "with different seeds must differ",
    IgnoresFalse: "must stop at once when a callback returns False, here in its third step",
    HidesItsVariables: r"must see SB3's local variables, but \['actions', 'dones', .* are missing",
    ForgetsTheEndOfRollouts: "must see the events .*'rollout_end'.*, but saw",
    TrainsWhenStopped: "must not train on a rollout that a callback has stopped",
    Forgets: "must go on from 16 steps to at least 28, but ended at 16",
    NeverForgets: "must count from 0 again, but ended at",
    KeepsItsEnvironment: "must train in the environment that `set_env` has set",
    KeepsItsParameters: "must copy all parameters",
    LogsNothing: r"must log \['rollout/ep_len_mean', .*\] to TensorBoard",
    CollectsInTrainingMode: "must collect in evaluation mode",
    SwallowsInterrupts: "must let KeyboardInterrupt through",
    DiesOfInterrupts: "Ctrl-C must leave a model .* Instead: RuntimeError: busy",
    Warns: "must not warn, but warned: old",
}


# SB3 leaves the file open when something cannot be pickled.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_faulty_algorithm_is_told_what_is_wrong(fault):
    with pytest.raises(AssertionError, match=FAULTS[fault]):
        check_agent(fault)


class Asynchronous(Base):
    """Draws what no seed decides."""

    capabilities = Capabilities(on_policy=True, deterministic=False)

    def set_random_seed(self, seed=None):
        super().set_random_seed(int(np.random.default_rng().integers(2**31)))


def test_an_algorithm_may_state_that_a_seed_does_not_decide_everything():
    check_agent(Asynchronous)
    with pytest.raises(AssertionError, match="with one seed must have the same parameters"):
        check_agent(type("Undeclared", (Asynchronous,), {"capabilities": Capabilities(on_policy=True)}))


def test_an_algorithm_that_refuses_actions_which_it_states_is_told_so():
    promises = {"capabilities": Capabilities(on_policy=True, actions=("Discrete", "Box"))}
    with pytest.raises(AssertionError, match=r"supports \['Box'\] actions, but refuses them"):
        check_agent(type("Promises", (Base,), promises))


def test_the_class_that_the_faulty_ones_derive_from_is_not_faulty():
    check_agent(Base)
