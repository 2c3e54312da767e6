"""Formulas of the site: the LaTeX of Unicode, where formulas are in a sentence, and what a page becomes."""

import re
import sys
from pathlib import Path

import markdown
import pytest

DOCS = Path(__file__).parents[2] / "docs"
sys.path.append(str(DOCS))

from formulas import decomposed, formulas, latex  # noqa: E402 - docs is no package
from marking import Formulas  # noqa: E402

IN_A_LINE = {
    "γ": r"\gamma",
    "Â_t": r"\hat{A}_{t}",
    "x̄": r"\bar{x}",
    "σ²": r"\sigma^{2}",
    "F⁻¹ g": r"F^{-1} g",
    "BᵀPB": r"B^{\top}PB",
    "θ'²": r"\theta^{\prime 2}",
    "π_θ'": r"\pi_{\theta'}",
    "q_i'": r"q_{i}'",
    "½ρ²": r"\tfrac{1}{2}\rho^{2}",
    "V(s_{t+1})": r"V(s_{t + 1})",
    "π(a|s)": r"\pi(a|s)",
    "π(·|s)": r"\pi(\cdot|s)",
    "π_old": r"\pi_{\mathrm{old}}",
    "W_ij": r"W_{ij}",
    "b*(s)": r"b^{*}(s)",
    "KL(π_old ‖ π)": r"\operatorname{KL}(\pi_{\mathrm{old}} \,\|\, \pi)",
    "‖ĝ‖²": r"\|\hat{g}\|^{2}",
    "E[H(π)]": r"\mathbb{E}[H(\pi)]",
    "1/E Σ_i": r"1/E \sum_{i}",  # here E is a number of episodes
    "α/E G_t": r"\alpha/E G_{t}",
    "E ‖ĝ - E ĝ‖²": r"\mathbb{E}\|\hat{g} - \mathbb{E} \hat{g}\|^{2}",
    "clip(r, 1 - ε, 1 + ε)": r"\operatorname{clip}(r, 1 - \varepsilon, 1 + \varepsilon)",
    "P(c | t)": r"P(c \mid t)",
    "γ V(last state)": r"\gamma V(\text{last state})",
    "-log π": r"-\log \pi",
    "θ += α Σ_i ψ_i ∇ log π(a_i|s_i)": r"\theta \mathrel{+}= \alpha \sum_{i} \psi_{i} \nabla \log \pi(a_{i}|s_{i})",
    "1{a = b}": r"\mathbf{1}\{a = b\}",
    "[-π, π)": r"[-\pi, \pi)",
    "s = exp(mean of log r over tokens)": r"s = \exp(\text{mean of}\ \log r\ \text{over tokens})",
    "10²⁰": r"10^{20}",
    "B Σ Bᵀ": r"B \Sigma B^{\top}",  # a covariance
}
IN_AN_EQUATION = {
    "π(a|s) / π_old(a|s)": r"\frac{\pi(a|s)}{\pi_{\mathrm{old}}(a|s)}",
    "log π/π_ref": r"\log \frac{\pi}{\pi_{\mathrm{ref}}}",
    "α / E Σ_t G_t": r"\frac{\alpha}{E} \sum_{t} G_{t}",
    "1/(G - 1) Σ_{j ≠ i} R_j": r"\frac{1}{G - 1} \sum_{j \ne i} R_{j}",
    "√(2 δ / sᵀ F s)": r"\sqrt{\frac{2 \delta}{s^{\top} F s}}",
    "∂J/∂log σ": r"\frac{\partial J}{\partial \log \sigma}",
    "Σ_a π G / Σ_a π": r"\frac{\sum_{a} \pi G}{\sum_{a} \pi}",
    "1 - x / y + z": r"1 - \frac{x}{y} + z",
    "σ((r_1 - r_2) / τ)": r"\sigma\left(\frac{r_{1} - r_{2}}{\tau}\right)",
}


@pytest.mark.parametrize("formula", IN_A_LINE)
def test_latex_in_a_line(formula):
    assert latex(formula) == IN_A_LINE[formula]


@pytest.mark.parametrize("formula", IN_AN_EQUATION)
def test_latex_with_room_for_fractions(formula):
    assert latex(formula, display=True) == IN_AN_EQUATION[formula]


def found(sentence):
    text = decomposed(sentence)
    return [text[start:end] for start, end in formulas(text)]


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("With γ < 1, the factor γ^t is left out (λ = 0).", ["γ < 1", "γ^t", "λ = 0"]),
        ("the critic V, the policy π's own, V(s) and G - V.", ["V", "π", "V(s)", "G - V"]),
        ("The ε-greedy policies and n-step returns, TD(λ).", ["ε", "TD(λ)"]),
        ("every other b*(s) = E[G | s], which is J*.", ["b*(s) = E[G | s]", "J*"]),
        ("r_t + γ (1 - terminated_t) V(s_{t+1})", ["r_t + γ (1 - terminated_t) V(s_{t+1})"]),
        ("a step s with s = √(2 δ)", ["s = √(2 δ)"]),
        ("a σ of 1, brought to .47", ["σ"]),
    ],
)
def test_formulas_of_a_sentence(sentence, expected):
    assert found(sentence) == [decomposed(one) for one in expected]


@pytest.mark.parametrize(
    "sentence",
    [
        "54,500 [47,900, 61,000] after 14.6 k steps in 2.0 s, 8 x 256, a ratio of 3/2, 95 % of 10 +- 2.",
        "A policy that acts; I know. Sutton & Barto, G. E. P. Box and M. E. Muller (1958), RLtools (C++), I/O.",
        "the log of PPO-like agents, n-step, don't, x-axis, min and max, KL divergence, python >= 3.10",
        "the files args.yml - config.yml, seed + 1, n_steps, ent_coef and pg/CartPole-v1",
    ],
)
def test_prose_has_no_formulas(sentence):
    assert found(sentence) == []


def page(text):
    return markdown.Markdown(extensions=[Formulas(), "tables", "fenced_code"]).convert(text)


def marked(html):
    return re.findall(r'data-tex="(.*?)"', html)


def test_code_links_and_headings_are_left_alone():
    text = (
        "# Set π = π_old\n\n`γ = 1` [name](γ.md) https://example.org/γ ![γ](x.png)\n\n```python\nγ = 1\n```\n\n    γ^t"
    )
    assert marked(page(text)) == []


def test_latex_between_dollar_signs_is_taken_as_it_is():
    assert marked(page(r"Let $\frac{a}{b}$ cost $5 or $6, `$x$`.")) == [r"\frac{a}{b}"]
    assert 'data-mode="display" data-tex="x_i"' in page("$$x_i$$")


def test_cells_of_a_table_have_formulas():
    assert marked(page("| one | two |\n|---|---|\n| π(a\\|s) | `π` |")) == [r"\pi(a|s)"]


def test_an_equation_has_its_rows_its_number_and_its_source():
    equation = (
        "maximise E[Â r] - `vf_coef` E[(R - V)²],\nwith r = π / π_old   (arXiv:1707.06347, eq. 7 and 9), for β = 1"
    )
    html = page(f"{equation}\n\nText.")
    assert html.count('class="equation-row"') == 2
    assert marked(html)[0] == r"\mathbb{E}[\hat{A} r] - \texttt{vf\_coef}\, \mathbb{E}[(R - V)^{2}]"
    assert marked(html)[1] == r"r = \frac{\pi}{\pi_{\mathrm{old}}}"
    assert '<p class="equation-number">(7, 9)</p>' in html
    assert '<a href="https://arxiv.org/abs/1707.06347">arXiv:1707.06347</a>, eq. 7 and 9</p>' in html
    assert '<p>for <span class="formula" data-mode="inline"' in html  # what follows the source is a sentence


def test_a_paragraph_that_is_a_formula_is_an_equation_and_a_sentence_is_none():
    assert 'class="equation"' in page("θ += α (G - b) ∇ log π(a|s), with ψ = G - b.")
    assert 'class="equation"' not in page("θ += α (G - b) ∇ log π(a|s) drifts.")
    assert 'class="equation"' not in page(
        "α is the step, or √(2 δ) for a step of δ = `target_kl`\n(arXiv:1502.05477). So it is."
    )


def test_a_paper_becomes_a_link_where_it_is_none_yet():
    html = page("See arXiv:1707.06347, [arXiv:1707.06347](ppo.md) and `arXiv:1707.06347`.")
    link = '<a href="https://arxiv.org/abs/1707.06347">arXiv:1707.06347</a>'
    assert html == f'<p>See {link}, <a href="ppo.md">arXiv:1707.06347</a> and <code>arXiv:1707.06347</code>.</p>'


def test_the_search_finds_the_unicode_of_a_formula():
    assert ">Â_t ≤ 1</span>" in page("Here Â_t ≤ 1 holds.")
