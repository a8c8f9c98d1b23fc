"""The committed diagrams equal the rendered ones, light the right box, and are readable for everybody."""

from __future__ import annotations

import importlib.util
import re
import sys
import xml.etree.ElementTree as ET
from types import ModuleType

import pytest

from shared.settings import CHECKOUT

FOLDER = CHECKOUT / "docs" / "img"
SVG = "{http://www.w3.org/2000/svg}"
MAX_BYTES = 10_000


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_diagrams", FOLDER / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks up its module by name
    spec.loader.exec_module(module)
    return module


build = _load()
PICTURES: dict[str, str] = build.pictures()
LIT = {"medallion.svg": None} | {box.file: box.name for box in build.BOXES}


def _groups(svg: str) -> list[ET.Element]:
    return [g for g in ET.fromstring(svg).iter(f"{SVG}g") if "box" in g.get("class", "").split()]


def test_committed_pictures_are_the_rendered_ones() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("medallion*.svg")}
    assert sorted(committed) == sorted(PICTURES), "run: python docs/img/build.py"
    stale = [name for name, svg in PICTURES.items() if committed[name] != svg]
    assert not stale, f"{stale} differ from docs/img/build.py; run: python docs/img/build.py"


@pytest.mark.parametrize("name", PICTURES)
def test_picture_is_small_self_contained_and_described(name: str) -> None:
    svg = PICTURES[name]
    assert len(svg.encode()) <= MAX_BYTES
    root = ET.fromstring(svg)
    labels = root.get("aria-labelledby", "").split()
    texts = {e.get("id"): (e.text or "") for e in root.iter() if e.get("id")}
    assert root.get("role") == "img"
    assert labels == ["medallion-title", "medallion-desc"]
    assert all(len(texts[label]) > 10 for label in labels)
    outside = re.findall(r"(?:href|src)=|url\(|@import|@font-face", svg)
    assert not outside, f"{name} loads something from outside: {outside}"


def test_style_touches_nothing_outside_the_picture() -> None:
    style = re.search(r"<style>(.*)</style>", PICTURES["medallion.svg"])
    assert style is not None
    rules = re.sub(r"@media\([^)]*\)\{|\{[^{}]*\}", "\n", style.group(1))
    selectors = [s for line in rules.splitlines() for s in line.strip("}").split(",") if s]
    assert len(selectors) > 30
    assert [s for s in selectors if not s.startswith(".medallion ")] == []


@pytest.mark.parametrize("name", PICTURES)
def test_exactly_the_box_of_the_day_is_lit(name: str) -> None:
    lit = [g for g in _groups(PICTURES[name]) if "lit" in g.get("class", "").split()]
    expected = LIT[name]
    if expected is None:
        assert lit == []
        return
    (group,) = lit
    box = next(b for b in build.BOXES if b.name == expected)
    words = [t.text for t in group.iter(f"{SVG}text")]
    assert words[0] == box.title
    assert words[-1] == "today", "the lit box is marked by a word too, not by colour alone"


def test_every_day_of_the_course_has_a_box() -> None:
    days: set[int] = set()
    for box in build.BOXES:
        for first, last in re.findall(r"(\d+)(?:–(\d+))?", box.days):
            days |= set(range(int(first), int(last or first) + 1))
        assert box.first_day == int(re.findall(r"\d+", box.days)[0])
    assert days == set(range(1, 31))


def test_text_stays_inside_its_box() -> None:
    # Widths of DejaVu, the widest common fallback font: a text that fits in it fits in the others.
    em = {
        "code": (12, 0.602),
        "title": (16, 0.70),
        "body": (13, 0.60),
        "quiet": (12.5, 0.60),
        "strip": (14, 0.60),
    }
    for box, group in zip(build.BOXES, _groups(PICTURES["medallion.svg"]), strict=True):
        for text in group.iter(f"{SVG}text"):
            size, width = em[text.get("class", "")]
            length = len(text.text or "") * size * width
            x = float(text.get("x", "0"))
            start = x - length if text.get("text-anchor") == "end" else x
            assert box.x <= start, text.text
            assert start + length <= box.x + box.width, f"{text.text!r} leaves the box {box.name}"
            assert box.y < float(text.get("y", "0")) <= box.y + box.height - 6, text.text


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_meet_the_contrast_that_wcag_aa_asks_for(scheme: int) -> None:
    colour = {name: pair[scheme] for name, pair in build.PALETTE.items()}
    grounds = ("plain", "bronze", "silver", "gold")
    text = [(a, b) for a in ("text", "quiet") for b in grounds] + [("on-lit", "lit")]
    shapes = [("line", "page"), ("lit", "page"), *((f"{layer}-edge", layer) for layer in grounds[1:])]
    weak = {(a, b): round(_contrast(colour[a], colour[b]), 2) for a, b in text}
    assert {pair: ratio for pair, ratio in weak.items() if ratio < 4.5} == {}
    faint = {(a, b): round(_contrast(colour[a], colour[b]), 2) for a, b in shapes}
    assert {pair: ratio for pair, ratio in faint.items() if ratio < 3} == {}


def test_an_unknown_box_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no box named 'platinum'; the boxes are workspace, .*dashboard"):
        build.render("platinum")
