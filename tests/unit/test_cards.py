"""Cells of the site's tables name their columns, for narrow screens."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

from cards import with_labels

RIGHT = ' style="text-align: right;"'
HEAD = f"<thead>\n<tr>\n<th>name</th>\n<th{RIGHT}>of <code>n</code></th>\n<th></th>\n</tr>\n</thead>"
ROW = f"<tr>\n<td{{}}>PPO</td>\n<td{{}}{RIGHT}><code>3</code></td>\n<td{{}}></td>\n</tr>"


def page(*labels):
    return f"<p>before</p>\n<table>\n{HEAD}\n<tbody>\n{ROW.format(*labels)}\n{ROW.format(*labels)}\n</tbody>\n</table>"


def test_each_cell_has_the_heading_of_its_column_and_nothing_else_changes():
    assert with_labels(page("", "", "")) == page(' data-label="name"', ' data-label="of n"', ' data-label=""')


def test_tables_of_another_kind_stay_as_they_are():
    html = '<table class="highlighttable"><tr><td>1</td></tr></table>'
    assert with_labels(html) == html
