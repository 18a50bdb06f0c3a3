"""`jorge-tune plan`: tables, JSON, budgets and exit codes."""

from __future__ import annotations

import json

import pytest

from jorge_tune.cli import main
from jorge_tune.cli.cmd_plan import parse_size
from jorge_tune.errors import InputError


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["plan", *arguments])
    return ended.value.code


def planned(capsys, *arguments, code=0):
    assert run(*arguments, "--format", "json") == code
    return json.loads(capsys.readouterr().out)


def columns(text, heading):
    """The rows below the line that starts with `heading`, as lists of cells, up to an empty line."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.lstrip().startswith(f"{heading} ")) + 2
    rows = []
    for line in lines[start:]:
        if not line:
            break
        rows.append([cell.strip() for cell in line.split("  ") if cell.strip()])
    return rows


def test_an_sgd_recipe_is_bootstrapped_and_both_facts_are_said(capsys):
    assert run("digits/cnn-sgd") == 0
    out, err = capsys.readouterr()
    assert "trains with sgd; planning the Jorge recipe" in err
    assert "refresh_interval is not set; the plan assumes 10 steps" in err
    assert out.startswith("cnn-jorge: jorge, blocks up to 1024, refreshed every 10 steps\n")
    assert columns(out, "parameter") == [
        ["0.weight", "1", "1 of 32x9", "6.57 KiB", "0.7%", "144 k", "23.6 k"],
        ["0.bias", "4", "one-dimensional", "584 B", "0.1%", "0", "0"],
        ["2.weight", "1", "1 of 32x288", "400 KiB", "43.8%", "35.1 M", "5.9 M"],
        ["5.weight", "1", "1 of 64x288", "484 KiB", "53.0%", "78.1 M", "13 M"],
        ["9.weight", "1", "1 of 10x64", "21.4 KiB", "2.3%", "566 k", "94.7 k"],
        ["total", "8", "913 KiB", "100.0%", "114 M", "19 M"],
    ]
    assert [row[0] for row in columns(out, "optimizer")] == [
        "sgd", "adamw", "jorge (planned)", "shampoo", "sketchy", "sketchy", "sketchy",
    ]  # fmt: skip


def test_a_long_output_layer_is_warned_of_beside_the_tables(capsys, monkeypatch):
    from torch import nn

    from jorge_tune.training.models import OWN_MODELS

    monkeypatch.setitem(OWN_MODELS, "mlp", lambda **arguments: nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 9000)))
    assert run("digits/mlp-sgd") == 0
    err = capsys.readouterr().err
    assert "warning: 1.weight has 9000 rows, like an output layer over a vocabulary, and its L and R take 34" in err
    assert r"adding {pattern: '^1\.weight$', precondition: false} to optimizer.groups" in " ".join(err.split())
    way_out = r"optimizer.groups=[{pattern: '^1\.weight$', precondition: false}]"
    assert run("digits/mlp-sgd", "--set", way_out) == 0
    assert "vocabulary" not in capsys.readouterr().err
    assert run("digits/cnn-sgd") == 0
    assert "vocabulary" not in capsys.readouterr().err


def test_each_parameter_has_its_row_on_request_and_top_keeps_the_largest(capsys):
    assert run("digits/cnn-sgd", "--each") == 0
    assert [row[0] for row in columns(capsys.readouterr().out, "parameter")] == [
        "0.weight", "0.bias", "2.weight", "2.bias", "5.weight", "5.bias", "9.weight", "9.bias", "total",
    ]  # fmt: skip
    assert run("digits/cnn-sgd", "--top", "2") == 0
    rows = columns(capsys.readouterr().out, "parameter")
    assert [row[:2] for row in rows] == [["5.weight", "1"], ["2.weight", "1"], ["all others", "6"], ["total", "8"]]
    assert rows[2][2:] == ["28.5 KiB", "3.1%", "709 k", "118 k"]


def test_blocks_of_several_shapes_and_a_set_value_after_the_bootstrap(capsys):
    assert run("digits/cnn-sgd", "--set", "optimizer.block_size=128", "--set", "optimizer.refresh_interval=1") == 0
    out, err = capsys.readouterr()
    assert "is not set" not in err
    assert out.startswith("cnn-jorge: jorge, blocks up to 128, refreshed every step\n")
    assert ["2.weight", "1", "2 of 32x128; 1 of 32x32"] in [row[:3] for row in columns(out, "parameter")]


def test_json_holds_every_parameter_and_adds_up(capsys):
    data = planned(capsys, "digits/cnn-sgd", "--top", "1")
    assert [cost["name"] for cost in data["parameters"]][:2] == ["0.weight", "0.bias"]
    assert len(data["parameters"]) == 8
    first = data["parameters"][0]
    assert first["shape"] == [32, 1, 3, 3]
    assert first["blocks"] == [{"rows": 32, "columns": 9, "left": True, "right": True, "count": 1}]
    assert first["preconditioner_bytes"] == 4 * (32**2 + 9**2)
    for key in ("state_bytes", "refresh_flops", "apply_flops", "preconditioner_bytes"):
        assert sum(cost[key] for cost in data["parameters"]) == data["total"][key]
    assert sum(cost["share_of_state"] for cost in data["parameters"]) == pytest.approx(1)
    assert "fit" not in data


def test_a_budget_picks_the_largest_block_size_and_its_line_applies_it(capsys):
    assert run("digits/cnn-sgd", "--memory-budget", "500KiB") == 0
    out = capsys.readouterr().out
    assert [row[0] for row in columns(out, "block_size")] == ["1024 (planned)", "256", "128", "64", "32"]
    assert [row[-1] for row in columns(out, "block_size")] == ["no", "no", "no", "chosen", "yes"]
    assert "state 481 KiB instead of 913 KiB, refresh 39.4 M instead of 114 M" in out
    *_, setting = out.splitlines()[-1].split()
    data = planned(capsys, "digits/cnn-sgd", "--memory-budget", "500KiB", "--set", setting)
    assert data["fit"]["chosen"] == data["fit"]["own"]
    assert data["fit"]["chosen"]["total"] == data["total"]
    assert data["fit"]["chosen"]["value"] == 64


def test_a_budget_that_the_recipe_meets_changes_nothing(capsys):
    assert run("digits/cnn-sgd", "--memory-budget", "1 GB") == 0
    assert "The recipe's own block_size, 1024, fits" in capsys.readouterr().out


def test_a_recipe_that_fits_comes_first_and_a_larger_size_is_an_option(capsys):
    setting = ("--set", "optimizer.block_size=64")
    assert run("digits/cnn-sgd", *setting, "--memory-budget", "1GiB") == 0
    out = capsys.readouterr().out
    first, option, last = out.splitlines()[-3:]
    assert first == "The recipe's own block_size, 64, fits; nothing to change."
    assert option.startswith(
        "block_size 512 fits too: state 913 KiB instead of 481 KiB, refresh 114 M instead of 39.4 M"
    )
    assert last.endswith(" --set optimizer.block_size=512")
    rows = columns(out, "block_size")
    assert [row[0] for row in rows] == ["512", "256", "128", "64 (planned)", "32"]
    assert {row[-1] for row in rows} == {"yes"}


def test_a_budget_that_nothing_meets_exits_with_4_and_names_what_does(capsys):
    assert run("digits/cnn-sgd", "--memory-budget", "300KiB") == 4
    out = capsys.readouterr().out
    assert "No block_size fits: the smallest state, with block_size 32, takes 453 KiB." in out
    floor = (
        "The momenta alone take 224 KiB, so no block_size fits a smaller budget. The smallest sketch (sketchy, rank 2)"
    )
    assert f"{floor} takes 227 KiB." in out
    last, least = out.splitlines()[-2:]
    assert (
        least == "sketchy fits: it takes 227 KiB, and refreshes with an SVD; "
        "use --set optimizer.name=sketchy --set optimizer.rank=2"
    )
    assert (
        last == "sketchy fits: it takes 270 KiB, and refreshes with an SVD; "
        "use --set optimizer.name=sketchy --set optimizer.rank=16"
    )
    changes = [word for word in last.split() if "=" in word]
    assert run("digits/cnn-sgd", "--memory-budget", "300KiB", "--set", changes[0], "--set", changes[1]) == 0
    assert "The recipe's own rank, 16, fits" in capsys.readouterr().out
    data = planned(capsys, "digits/cnn-sgd", "--memory-budget", "1KiB", code=4)
    assert data["fit"]["chosen"] is None
    assert data["fit"]["smallest"]["value"] == 32


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1B", 1), ("2GiB", 2 * 2**30), ("1.5 GB", 1_500_000_000), ("500mb", 500_000_000), (" 3KiB ", 3072),
        ("7kB", 7000), ("0.5 MiB", 2**19), ("1TiB", 2**40),
    ],
)  # fmt: skip
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "2", "GiB", "2 gigs", "-2GiB", "2GiB!", "0GB", "0.1B", "1e3MB", "nan GB"])
def test_faulty_sizes_are_refused_with_the_rule(text, capsys):
    with pytest.raises(InputError, match="must be a number above 0 and a unit"):
        parse_size(text)
    assert run("digits/cnn-sgd", f"--memory-budget={text}") == 2
    assert f"got {text!r}; write 2GiB or 500MB" in capsys.readouterr().err


def test_what_cannot_be_planned_is_bad_input(tmp_path, capsys):
    path = tmp_path / "bare.yaml"
    path.write_text("name: bare\noptimizer: {name: jorge, lr: 0.1}\nepochs: 3\nbatch_size: 8\n")
    assert run(str(path)) == 2
    said = capsys.readouterr().err
    assert f"{path}: task.model: the recipe names no model" in said
    for name in ("torch.optim:AdamW", "adamw"):
        assert run("digits/cnn-sgd", "--set", f"optimizer.name={name}") == 2
        rule = "optimizer.name: must be jorge, shampoo, sketchy or sketchy_adagrad to be planned"
        assert f"{rule}, got {name!r}; only a file that itself says" in capsys.readouterr().err
    assert run("digits/cnn-sgd", "--set", "optimizer.block_size=0") == 2
    assert "optimizer.block_size: must be 1 or more, got '0'" in capsys.readouterr().err
