"The site that `make docs` builds. Skipped where it was not built."
from pathlib import Path

import pytest

SITE = Path(__file__).parents[1] / "_docs/html"
pytestmark = pytest.mark.skipif(not (SITE / "index.html").exists(), reason="no site: make docs")


def test_tables_are_tables():
    for page in SITE.glob("*.html"): assert "<p>| " not in page.read_text(encoding="utf-8"), page.name


@pytest.mark.slow
@pytest.mark.xdist_group("one after another")
@pytest.mark.parametrize("name", ["05_unroll", "26_compared", "api/unroll"])
def test_pages_fit_every_screen(page, name):
    "Phones, tablets, half a screen, laptops: what is wide scrolls in a box of its own, never the page"
    page.goto((SITE / f"{name}.html").as_uri())
    for width in (390, 768, 820, 960, 1024, 1150, 1260, 1366, 1600):
        page.set_viewport_size(dict(width=width, height=900))
        assert page.evaluate("document.documentElement.scrollWidth") <= width, width
