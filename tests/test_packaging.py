"""What is said of the package in several files is the same in all of them."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import kanpde

ROOT = Path(__file__).parent.parent
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base", "pytorch-optimizer": "pytorch_optimizer"}  # its names


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_one_version(project):
    assert project["dynamic"] == ["version"]  # that of the package, which hatchling reads
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    recipe = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    assert {citation["version"], recipe["context"]["version"]} == {kanpde.__version__}
    (first, *_) = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert first == kanpde.__version__


def test_the_recipe_of_conda_asks_for_what_the_package_does(project):
    recipe = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    split = [re.fullmatch(r"([\w-]+)(.*)", each.replace(" ", "")).groups() for each in project["dependencies"]]
    asked = {CONDA.get(name, name.lower()): versions for name, versions in split}
    of_recipe = dict(each.split(" ", 1) for each in recipe["requirements"]["run"])
    assert of_recipe == {"python": project["requires-python"]} | asked
    assert recipe["about"]["summary"] == project["description"]
    assert recipe["build"]["python"]["entry_points"] == [f"kanpde = {project['scripts']['kanpde']}"]
