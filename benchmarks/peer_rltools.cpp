// RLtools' PPO on Pendulum, with the values of its own example; `peers.py` and `fastest.py` compile and call it.
//
//     peer_rltools SEED STEPS INTERVAL TARGET
//
// Trains for STEPS environment steps, in whole rollouts. With INTERVAL 0, evaluates 1,000 episodes after training.
// Otherwise evaluates 20 episodes at the end of each rollout in which the steps pass a multiple of INTERVAL, and if their
// mean return reaches TARGET, 100 more; stops when theirs does too, and evaluates another 100. Prints JSON: steps, mean
// return of the last evaluation, and Unix time when the training ended or the target was reached.

#include <rl_tools/operations/cpu_mux.h>

#include <rl_tools/rl/environments/pendulum/operations_generic.h>

#include <rl_tools/nn/optimizers/adam/instance/operations_generic.h>
// Without this header, before those of the layers, RLtools compiles but does not call the BLAS that it was given.
#include <rl_tools/nn/operations_cpu_mux.h>
#include <rl_tools/nn/layers/standardize/operations_generic.h>
#include <rl_tools/nn_models/mlp_unconditional_stddev/operations_generic.h>
#include <rl_tools/nn_models/sequential/operations_generic.h>
#include <rl_tools/nn/optimizers/adam/operations_generic.h>

#include <rl_tools/rl/algorithms/ppo/loop/core/config.h>
#include <rl_tools/rl/algorithms/ppo/loop/core/operations_generic.h>
#include <rl_tools/rl/utils/evaluation/operations_generic.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>

namespace rlt = rl_tools;

using Device = rlt::devices::DEVICE_FACTORY<>;
using Types = rlt::numeric_types::Policy<float>;
using Index = Device::index_t;
using Random = Device::SPEC::RANDOM::ENGINE<>;
namespace pendulum = rlt::rl::environments::pendulum;
using Environment =
    rlt::rl::environments::Pendulum<pendulum::Specification<float, Index, pendulum::DefaultParameters<float>>>;

namespace core = rlt::rl::algorithms::ppo::loop::core;

struct Parameters : core::DefaultParameters<Types, Index, Environment> {  // 64-64 ReLU by default
    static constexpr Index N_ENVIRONMENTS = 4;
    static constexpr Index ON_POLICY_RUNNER_STEPS_PER_ENV = 1024;
    static constexpr Index BATCH_SIZE = 256;
    static constexpr Index STEP_LIMIT = 1u << 30;  // in rollouts: this program counts its own
    static constexpr Index EPISODE_STEP_LIMIT = 200;
    static constexpr bool NORMALIZE_OBSERVATIONS = true;
    using ACTOR_OPTIMIZER_PARAMETERS = rlt::nn::optimizers::adam::DEFAULT_PARAMETERS_PYTORCH<Types>;  // 1e-3
    using CRITIC_OPTIMIZER_PARAMETERS = ACTOR_OPTIMIZER_PARAMETERS;
    struct PPO_PARAMETERS : rlt::rl::algorithms::ppo::DefaultParameters<Types, Index, BATCH_SIZE> {
        static constexpr Index N_EPOCHS = 2;
        static constexpr float GAMMA = 0.9;
        static constexpr float ACTION_ENTROPY_COEFFICIENT = 0;
        static constexpr float INITIAL_ACTION_STD = 2;  // of an action in [-1, 1]
    };
};

using Config = core::Config<Types, Index, Random, Environment, Parameters, core::ConfigApproximatorsSequential>;
using State = Config::State<Config>;
constexpr long ROLLOUT = Parameters::N_ENVIRONMENTS * Parameters::ON_POLICY_RUNNER_STEPS_PER_ENV;

template <Index EPISODES>
double mean_return(Device& device, State& state) {
    using Specification = rlt::rl::utils::evaluation::
        Specification<Types, Index, Environment, EPISODES, Parameters::EPISODE_STEP_LIMIT>;
    static rlt::rl::utils::evaluation::Result<Specification> result;
    auto actor = rlt::get_actor(state);
    rlt::Mode<rlt::mode::Evaluation<>> deterministic;
    rlt::evaluate(device, state.envs[0], state.ui, actor, result, state.rng, deterministic);
    return result.returns_mean;
}

double unix_time() {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

int main(int n, char** arguments) {
    if (n != 5) {
        std::fprintf(stderr, "usage: %s SEED STEPS INTERVAL TARGET\n", arguments[0]);
        return 2;
    }
    const long seed = std::atol(arguments[1]), limit = std::atol(arguments[2]), interval = std::atol(arguments[3]);
    const double target = std::atof(arguments[4]);

    std::cout.setstate(std::ios::failbit);  // RLtools prints the statistics of observations
    Device device;
    static State state;
    rlt::malloc(device, state);
    rlt::init(device, state, seed);
    long steps = 0;
    bool reached = false;
    while (steps < limit && !reached) {
        rlt::step(device, state);
        const long passed = steps / (interval > 0 ? interval : limit);
        steps += ROLLOUT;
        if (interval > 0 && steps / interval > passed) {
            reached = mean_return<20>(device, state) >= target && mean_return<100>(device, state) >= target;
        }
    }
    const double clock = unix_time();
    const double score = interval > 0 ? mean_return<100>(device, state) : mean_return<1000>(device, state);
    std::printf("{\"steps\": %ld, \"return\": %.3f, \"reached\": %s, \"clock\": %.6f}\n", steps, score,
                reached ? "true" : "false", clock);
    rlt::free(device, state);
}
