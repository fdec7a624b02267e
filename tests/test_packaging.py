"""What the package is installed from: versions that are tested, and their hashes."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pins():
    """Version by name, of everything that `make demo` and `make test` install."""
    lines = (line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


@pytest.fixture(scope="module")
def locked():
    """Version and hashes by name, of requirements.lock."""
    _, *entries = re.split(r"^([\w-]+)==", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
    hashes = [re.findall(r"--hash=sha256:([0-9a-f]{64})\b", facts) for facts in entries[1::2]]
    versions = [facts.split()[0] for facts in entries[1::2]]
    return dict(zip(entries[::2], zip(versions, hashes, strict=True), strict=True))


def test_the_lock_has_every_requirement_in_a_version_that_it_allows(locked):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in ("models", "torch", "fast", "dedup"):
        wanted += project["optional-dependencies"][extra]
    for requirement in map(Requirement, wanted):
        if requirement.name == "longattn":
            continue
        version, _ = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


def test_the_core_needs_few_packages_and_no_version_with_a_known_hole():
    """S6: eight at most; torch 2.10, transformers 5.3 and pyarrow 14.0.1 at least, Ray without its unpickling."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert len(project["dependencies"]) <= 8
    extras = [one for name, of in project["optional-dependencies"].items() if name != "dev" for one in of]
    wanted = [one for one in map(Requirement, [*project["dependencies"], *extras]) if one.name != "longattn"]
    floors = {"torch": "2.9.1", "transformers": "5.2.9", "pyarrow": "14.0.0", "ray": "2.59.9"}
    for name, refused in floors.items():
        asked = [one.specifier for one in wanted if one.name == name]
        assert asked, name
        assert not any(specifier.contains(refused) for specifier in asked), name
    assert all(one.specifier for one in wanted)


def test_the_lock_has_the_versions_that_are_tested(pins, locked):
    """`make lock` writes it anew where constraints.txt has changed."""
    both = pins.keys() & locked.keys()
    assert len(both) > 50
    assert {name: locked[name][0] for name in both} == {name: pins[name] for name in both}


def test_every_file_of_the_lock_has_a_hash(locked):
    assert len(locked) > 70
    assert [name for name, (_, hashes) in locked.items() if not hashes] == []


def test_a_release_runs_nothing_that_can_change_and_only_publishing_may_sign():
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert all(re.search(r"@[0-9a-f]{40}$", step["uses"]) for step in steps if "uses" in step)
    installed = [word for step in steps for word in re.findall(r"pip install (.+)", step.get("run", ""))]
    assert installed
    assert all("==" in package for packages in installed for package in packages.split())
    assert workflow["permissions"] == {}
    rights = {name: job["permissions"] for name, job in workflow["jobs"].items()}
    assert rights == {
        "check": {"contents": "read"},
        "build": {"contents": "read"},
        "publish": {"id-token": "write"},
        "release": {"contents": "write"},
    }
    assert workflow["jobs"]["publish"]["needs"] == ["check", "build"]
