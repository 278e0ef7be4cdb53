"""docs/security/threat-model.md and docs/life/key-rotation.md: every test and module they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("docs/security/threat-model.md", "docs/life/key-rotation.md", "docs/adr/0020-a-worker-holds-the-token.md")
NAMED = sorted(
    {
        (page, *found)
        for page in PAGES
        for found in re.findall(
            r"`((?:tests|services|runtime|adapters)/[\w/]+\.py)(?:::(\w+)|: (\w+))?", (ROOT / page).read_text()
        )
    }
)


@pytest.mark.parametrize(("page", "path", "test", "name"), NAMED)
def test_what_a_page_names_exists(page: str, path: str, test: str, name: str) -> None:
    file = ROOT / path if path.startswith("tests/") else ROOT / "src/sealwire" / path
    assert file.exists(), page
    if test or name:
        assert re.search(rf"^\s*(?:async )?(?:def|class) {test or name}\b", file.read_text(), re.MULTILINE), page


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), target
