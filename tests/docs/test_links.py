"""The documents: what they link to, name and promise is there."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])


def anchors(page: Path) -> set[str]:
    """The headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_test_exists(page: Path) -> None:
    text = page.read_text()
    verbs = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for verb in re.findall(r"(?:`|^    |&& )make ([a-z-]+)", text, re.MULTILINE):
        assert verb in verbs, f"{page.name}: make {verb}"
    for verb, folder in (("bench", "benchmarks"), ("chaos", "benchmarks/chaos")):
        for name in re.findall(rf"make {verb} NAME=([a-z0-9-]+)", text):
            file = REPOSITORY / folder / f"{name.replace('-', '_')}.py"
            assert file.is_file(), f"{page.name}: make {verb} NAME={name}"
    for test in re.findall(r"`(tests/[\w/.]+)", text):
        assert (REPOSITORY / test).exists(), f"{page.name}: {test}"


def test_every_verb_is_explained() -> None:
    """In the Makefile's own list, which `make` shows."""
    makefile = (REPOSITORY / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    shown = re.findall(r"^#   (make .*)$", makefile, re.MULTILINE)
    parts = {verb for verb in phony.split() if verb.startswith("test-")}
    for verb in set(phony.split()) - parts - {"help"}:
        assert any(re.search(rf"\b{verb}\b", line) for line in shown), verb
