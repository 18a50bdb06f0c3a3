"""What the documents show is what the program reads."""

from pathlib import Path

import pytest

from jorge_tune.tuning.planning.study_file import parse_study

DOCS = Path(__file__).parents[2] / "docs"

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="an installed package has no docs/")


def test_the_study_file_that_is_shown_reads():
    text = (DOCS / "studies.md").read_text()
    block = text.partition("<!-- study file -->\n```yaml\n")[2].partition("```")[0]
    plan = parse_study(block, "docs/studies.md")
    assert (plan.name, plan.trials, plan.hours, plan.overhead) == ("digits-jorge", 40, 8, 0.1)
    assert [parameter.path for parameter in plan.space] == [
        "optimizer.lr",
        "optimizer.weight_decay",
        "optimizer.refresh_interval",
        "schedule",
    ]


def test_lines_that_are_commented_out_read_too():
    """The target's line, put in place of the objective above it."""
    text = (DOCS / "studies.md").read_text()
    block = text.partition("<!-- study file -->\n```yaml\n")[2].partition("```")[0]
    lines = [line for line in block.splitlines() if not line.startswith("objective:")]
    plan = parse_study(
        "\n".join(line.removeprefix("# ") if "epochs-to-target" in line else line for line in lines), "x"
    )
    assert (plan.objective.kind, plan.objective.target) == ("epochs-to-target", 0.97)
