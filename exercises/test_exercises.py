"""The solutions pass, the skeletons say what is missing, and typical mistakes are called by their name."""

import pytest
from agents import AGENTS, train
from check import main
from grading import HERE, NAMES, load, verdict

SOLUTIONS = HERE / "solutions"

DELTA_REVERSED = "return values - rewards - gamma * next_values * (1 - terminated)"
FROM_THE_START = "return np.cumsum((rewards * gamma ** np.arange(len(rewards)))[::-1])[::-1]\n"

# Exercise, the words that name the mistake, and the change of the solution that makes it.
MISTAKES = [
    # The sign.
    ("theorem", "sign is wrong", "gradient += one", "gradient -= one"),
    ("theorem", "sign of `score`", "+= 1\n    return gradient", "+= 1\n    return -gradient"),
    ("reinforce", "sign is wrong", "return returns * log_prob", "return -returns * log_prob"),
    ("baseline", "sign of the actor's part", "actor = advantages", "actor = -advantages"),
    ("baseline", "sign of the critic's part", "critic = -", "critic = "),
    ("actor_critic", "sign of the actor's part", "actor = (target", "actor = -(target"),
    ("actor_critic", "sign of the critic's part", "critic = -", "critic = "),
    ("gae", "sign of δ", "return rewards + gamma * next_values * (1 - terminated) - values", DELTA_REVERSED),
    ("gae", "sign is wrong", "return advantages", "return -advantages"),
    ("ppo_clip", "sign is wrong", "return th.min", "return -th.min"),
    ("gaussian", "sign of log π", "return action, log_prob", "return action, -log_prob"),
    ("gaussian", "sign of log σ", "- log_std", "+ log_std"),
    ("rock_paper_scissors", "sign is wrong", "return policy @ values", "return -policy @ values"),
    ("rlhf", "sign is wrong", "return (penalised", "return -(penalised"),
    # No detach.
    ("baseline", "V is not detached", "values.detach()", "values"),
    ("actor_critic", "target is not detached", "(1 - terminated)).detach()", "(1 - terminated))"),
    ("actor_critic", "V(s) is not detached", "value.detach()", "value"),
    ("ppo_clip", "old policy is not detached", "old_log_prob.detach()", "old_log_prob"),
    ("gaussian", "action is not detached", ".detach()", ""),
    ("rock_paper_scissors", "opponent is not detached", "policy.detach()", "policy"),
    ("rlhf", "penalty is not detached", ".detach()", ""),
    # The total return for the reward-to-go.
    ("reinforce", "total return", "return returns\n", "return np.full_like(returns, returns[0])\n"),
    ("baseline", "total return G_0", "returns - values.detach()", "returns[0] - values.detach()"),
    ("gae", "from the start of its episode", "return advantages", "return advantages[[0, 0, 2, 2]]"),
    # The advantage is not centred.
    ("baseline", "not centred", "advantages = returns - values.detach()", "advantages = returns"),
    ("actor_critic", "not centred", "(target - value.detach())", "target"),
    ("gae", "not centred", " - values", ""),
    ("ppo_clip", "not centred", "(advantages - advantages.mean()) /", "advantages /"),
    ("rlhf", "not centred", "(penalised - baseline)", "penalised"),
    # The ratio upside down.
    ("ppo_clip", "upside down", "log_prob - old_log_prob.detach()", "old_log_prob.detach() - log_prob"),
    ("rlhf", "log-ratio is upside down", "(log_prob - reference_log_prob)", "(reference_log_prob - log_prob)"),
    ("rlhf", "β is upside down", "rewards / beta", "rewards * beta"),
    # Others that each exercise invites.
    ("theorem", "its own reward only", "sum(one.rewards) * scores", "own(one, policy)"),
    ("theorem", "P(τ) is missing", "one.probability * ", ""),
    ("theorem", "softmax's denominator", "gradient[state] = -policy[state]", "pass"),
    ("reinforce", "from the start of the episode", "return returns\n", FROM_THE_START),
    ("reinforce", "γ is missing", "gamma * following", "following"),
    ("reinforce", "mean over the steps", "return returns * log_prob", "return (returns * log_prob).mean()"),
    ("actor_critic", "after the end of the task", " * (1 - terminated)", ""),
    ("gae", "end of an episode", "(1 - ends[t]) * ", ""),
    ("gae", "γλ", "gamma * gae_lambda", "gae_lambda"),
    ("ppo_clip", "minimum is missing", "th.min(ratio * advantages, clipped * advantages)", "clipped * advantages"),
    ("ppo_clip", "clip is missing", "th.min(ratio * advantages, clipped * advantages)", "ratio * advantages"),
    ("ppo_clip", "maximum", "th.min", "th.max"),
    ("ppo_clip", "`exp` is missing", "th.exp(log_prob - old_log_prob.detach())", "log_prob - old_log_prob.detach()"),
    ("gaussian", "-log σ is missing", " - log_std", ""),
    ("gaussian", "in place of σ²", "std**2", "std"),
    ("rock_paper_scissors", "mean over the opponent's moves", ".max()", ".mean()"),
    ("rlhf", "contains the sample itself", "(penalised.sum() - penalised) / (len(penalised) - 1)", "penalised.mean()"),
    ("rlhf", "penalty is missing", "rewards - beta * (log_prob - reference_log_prob)", "rewards"),
    ("rlhf", "divided by its sum", "tilted / tilted.sum()", "tilted"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_solution_passes(name, capsys):
    assert main([name, str(SOLUTIONS / f"{name}.py")]) == 0
    assert capsys.readouterr().out.startswith(f"{name}: passed")


@pytest.mark.parametrize("name", NAMES)
def test_a_skeleton_says_which_function_is_missing(name, capsys):
    assert main([name]) == 1
    assert "is not filled in yet" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "words", "right", "wrong"), MISTAKES, ids=[f"{one[0]}: {one[1]}" for one in MISTAKES])
def test_a_mistake_is_called_by_its_name(name, words, right, wrong, tmp_path):
    solution = (SOLUTIONS / f"{name}.py").read_text()
    assert right in solution
    (tmp_path / "exercise.py").write_text(solution.replace(right, wrong) + HELP)
    passed, said = verdict(name, tmp_path / "exercise.py")
    assert not passed
    assert words in said


# Of the mistake in which an action is credited with its own reward only.
HELP = """

def own(one, policy):
    steps = zip(one.states, one.actions, one.rewards, strict=True)
    return sum(reward * score(policy, s, a) for s, a, reward in steps)
"""


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def objective(log_prob, values, returns):\n    return 1 / 0", "Line 2 raises ZeroDivisionError"),
        ("def objective(log_prob, values, returns):\n    log_prob * returns", "returns None"),
        ("def objective(log_prob, values, returns):\n    return 3.0", "must return a tensor, but returns a float"),
        ("def objective(log_prob, values, returns):\n    return returns", "no gradient"),
        ("def objective(log_prob, values)\n", "not Python"),
        ("def objectives():\n    pass", "no function `objective`"),
        ("def objective(log_prob, values, returns):\n    return 7 * log_prob", "is [7., 7., 7.], but should be"),
    ],
)
def test_other_faults_are_told_in_one_sentence(code, words, tmp_path):
    (tmp_path / "exercise.py").write_text(code)
    passed, said = verdict("baseline", tmp_path / "exercise.py")
    assert not passed
    assert words in said


@pytest.mark.filterwarnings("ignore:rich is experimental")
@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_trains_with_the_lines_of_the_solution(name):
    assert "20 steps" in train(name, load(SOLUTIONS / f"{name}.py"), n_steps=20, n_episodes=1)
