"""The documents: what they show is what the program reads, every page and name has its place, links resolve."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import click
import pytest
import torch
import yaml

import jorge_tune
from jorge_tune.cli import _COMMANDS, _group, main
from jorge_tune.recipe import schema
from jorge_tune.study.study_file import parse_study

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

pytestmark = pytest.mark.skipif(not (ROOT / "studies").is_dir(), reason="a source distribution has no studies/")

PAGES = sorted(DOCS.glob("*.md"))
LINKED = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "studies/LOG.md"))]


# The site


def in_navigation(entries: list[dict[str, object]]) -> list[str]:
    """The pages of a navigation, its groups opened."""
    pages: list[str] = []
    for entry in entries:
        for value in entry.values():
            pages += in_navigation(value) if isinstance(value, list) else [str(value)]
    return pages


def configuration() -> dict[str, object]:
    loaded = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def test_every_page_is_in_the_navigation_once():
    navigation = configuration()["nav"]
    assert isinstance(navigation, list)
    assert sorted(in_navigation(navigation)) == [page.name for page in PAGES]


def test_the_site_asks_for_nothing_from_elsewhere():
    settings = configuration()
    theme = settings["theme"]
    assert isinstance(theme, dict)
    assert theme["font"] is False
    for key in ("extra_css", "extra_javascript"):
        assert not [path for path in settings.get(key, []) if "//" in path]  # type: ignore[attr-defined]
    assert not [page.name for page in PAGES if "```mermaid" in page.read_text()]  # drawn by a script from elsewhere


def test_every_extra_for_users_is_on_the_first_page():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    shown = set(re.findall(r"`jorge-tune\[([\w-]+)\]`", (DOCS / "index.md").read_text()))
    ours = re.compile("bench|dev|test")
    assert shown == {name for name in project["optional-dependencies"] if not ours.match(name)}


# Links


def anchors_of(text: str) -> set[str]:
    """The anchors of a page's headings, as code hosts and mkdocs make them."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", outside, flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", title.lower()).strip() for title in titles]
    generated = re.findall(r"^::: (\S+)$", text, flags=re.MULTILINE)
    return {*(re.sub(r"[-\s]+", "-", title) for title in plain), *generated}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors_of(linked.read_text()), f"{page.name}: {target}"


def test_the_log_lists_each_of_its_entries():
    text = (ROOT / "studies" / "LOG.md").read_text()
    listed = re.findall(r"^ *- \[(.+?)\]\(#", text, flags=re.MULTILINE)
    outside = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    assert listed == re.findall(r"^##+ (?!Contents)(.+)$", outside, flags=re.MULTILINE)


def test_every_entry_of_the_log_begins_with_its_answer():
    entries = (ROOT / "studies" / "LOG.md").read_text().split("\n### ")[1:]
    for entry in entries:
        title, _, body = entry.partition("\n\n")
        assert re.match(r"\*\*[^*].*\*\*\n", body), title


# The recipe's reference


def generator() -> ModuleType:
    """docs/generate_recipe_reference.py as a module."""
    spec = importlib.util.spec_from_file_location("generate_recipe_reference", DOCS / "generate_recipe_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


reference = generator()


def test_the_recipe_reference_is_up_to_date():
    assert reference.PAGE.read_text() == reference.page(), "run python docs/generate_recipe_reference.py"


def test_every_class_of_the_schema_has_a_section():
    classes = [item for _, item in inspect.getmembers(schema, inspect.isclass) if dataclasses.is_dataclass(item)]
    assert len(classes) > 20
    assert {section.cls for section in reference.SECTIONS} == set(classes)


@pytest.mark.parametrize("section", reference.SECTIONS, ids=lambda section: section.cls.__name__)
def test_every_field_has_a_sentence_and_stands_in_the_example(section):
    meanings = reference.meanings_of(section.cls)
    for field in reference.own_fields(section.cls):
        assert meanings[field.name].endswith("."), field.name
        assert re.search(rf"\b{reference.key_of(field.name)}:", section.example), field.name


@pytest.mark.parametrize("section", reference.SECTIONS, ids=lambda section: section.cls.__name__)
def test_the_examples_are_recipes(section, tmp_path, capsys):
    """Each example, with what else a recipe must have, is read without a fault."""
    example = yaml.safe_load(section.example)
    needed = {"name": "example", "optimizer": {"name": "sgd", "lr": 0.1}, "epochs": 90, "batch_size": 64}
    file = tmp_path / "example.yaml"
    file.write_text(yaml.safe_dump(needed | example))
    with pytest.raises(SystemExit) as ended:
        main(["validate", str(file)])
    assert ended.value.code == 0, capsys.readouterr()


# The Python API


def test_every_public_name_is_in_the_api_reference():
    shown = re.findall(r"^::: jorge_tune\.(\w+)$", (DOCS / "api.md").read_text(), flags=re.MULTILINE)
    assert sorted([*shown, "__version__"]) == sorted(jorge_tune.__all__)


@pytest.mark.parametrize("name", [name for name in jorge_tune.__all__ if name != "__version__"])
def test_public_names_are_documented_and_named_with_their_parameters(name):
    item = getattr(jorge_tune, name)
    text = inspect.getdoc(item) or ""
    assert text
    has_parameters = callable(item) and inspect.signature(item).parameters
    assert any(word in text for word in ("Raises:", "Args:", "Attributes:")) or not has_parameters, name
    listed = re.findall(r"^    (\w+(?:, \w+)*):", text.partition("Args:\n")[2], flags=re.MULTILINE)
    named = {each for line in listed for each in line.split(", ")}
    if named:
        assert set(inspect.signature(item).parameters) <= named, name


# Your own code


def test_the_snippets_of_own_code_run(tmp_path, monkeypatch):
    """One after another, in one namespace, on a recipe without a task."""
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "own-code.md").read_text().partition("## In your own loop\n")[2]
    (recipe,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    Path("mine-sgd.yaml").write_text(recipe)
    with pytest.raises(SystemExit) as ended:
        main(["bootstrap", "mine-sgd.yaml", "-o", "mine-jorge.yaml"])
    assert ended.value.code == 0
    torch.manual_seed(0)
    images, labels = torch.randn(64, 1, 8, 8), torch.randint(0, 10, (64,))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    loader = list(zip(images.split(16), labels.split(16), strict=True))
    names = {"torch": torch, "model": model, "loader": loader, "epochs": 2}
    snippets = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    snippets = [snippet for snippet in snippets if "calibrate(" not in snippet]  # it measures for a minute
    assert len(snippets) == 4
    seen = []
    for snippet in snippets:
        before = model[1].weight.clone()
        exec(snippet, names)
        seen.append((type(names["optimizer"]).__name__, bool((model[1].weight != before).any())))
    assert seen == [("Jorge", True), ("Jorge", True), ("Jorge", False), ("Jorge", True)]  # the third makes an optimizer
    assert names["scheduler"].last_epoch == 2 * len(loader)
    assert names["shadow"].result().steps == len(loader)
    assert names["gen"].optimizer is names["optimizer"]


def test_the_factory_of_own_code_is_a_task():
    text = (DOCS / "own-code.md").read_text().partition("## A Python factory\n")[2]
    names: dict[str, object] = {}
    exec(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[0], names)
    task = names["Line"](width=4, batch_size=16)
    batch = next(iter(task.train_batches))
    outputs = task.outputs(task.model, batch)
    assert task.loss(outputs, batch).ndim == 0
    assert set(task.metrics(outputs, batch)) == {"mae"}
    assert len(task.validation_batches) == 4


# Commands


def shown_commands() -> list[tuple[str, str]]:
    """(page, command line) of every jorge-tune command in a console block."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", page.read_text(), flags=re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                match = re.match(r"(?:\$ )?(?:\S+=\S+ )?(?:\S*/)?jorge-tune (.*)", line)
                if match:
                    found.append((page.name, match[1].partition(" #")[0].strip()))
    return found


@pytest.mark.parametrize(("page", "line"), shown_commands(), ids=lambda value: str(value)[:60])
def test_the_commands_that_are_shown_exist_with_their_options(page, line):
    words = line.split()
    name = words.pop(0)
    assert name in _COMMANDS, f"{page}: {line}"
    command = _group.get_command(click.Context(_group), name)
    while isinstance(command, click.Group):
        inner = command.get_command(click.Context(command), words.pop(0))
        assert inner is not None, f"{page}: {line}"
        command = inner
    known = {flag for parameter in command.params for flag in parameter.opts} | {"--help"}
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known, f"{page}: {line}"


# The study file


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
