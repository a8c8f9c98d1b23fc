"""The documents agree with each other and with the repository."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest

from generators.defects import HOW_TO_FIND
from shared.bronze.contracts import AUDIT_COLUMNS, SOURCES, Source
from shared.course.days import DAYS
from shared.course.engine_settings import as_markdown
from shared.runtime.spark import NOT_STOCK, spark_conf
from shared.settings import CHECKOUT, Settings

DOCS = CHECKOUT / "docs"
BRD = (DOCS / "brd.md").read_text(encoding="utf-8")
PLAN = (DOCS / "implementation-plan.md").read_text(encoding="utf-8")
MODEL = (DOCS / "data-model.md").read_text(encoding="utf-8")
PAGES = [
    *DOCS.glob("*.md"),
    *CHECKOUT.glob("*.md"),
    *(CHECKOUT / "lessons").glob("*.md"),
]
CENT = Decimal("0.01")


def section(text: str, heading: str) -> str:
    """The text below a heading, up to the next heading of the same or a higher level."""
    level = heading.split(" ")[0]
    _, found, rest = text.partition(f"\n{heading}\n")
    assert found, f"no heading {heading!r}"
    return re.split(rf"\n#{{1,{len(level)}}} ", rest)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row in the text, without the header and the line below it."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rules = {i for i, line in enumerate(lines) if re.fullmatch(r"[|\s:-]+", line)}
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for i, line in enumerate(lines)
        if i not in rules and i + 1 not in rules
    ]


def anchors(text: str) -> set[str]:
    """The anchors that a code host makes from the headings."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(CHECKOUT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        found = file.exists()
        if found and anchor and file.suffix == ".md":
            found = anchor in anchors(file.read_text(encoding="utf-8"))
        if not found:
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(CHECKOUT).as_posix())
def test_types_with_angle_brackets_are_set_as_code(page: Path) -> None:
    prose = re.sub(r"```.*?```|`[^`\n]+`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert re.findall(r"\w+<[A-Z][\w,]*>", prose) == [], "a page shows nothing of an unknown HTML element"


def test_every_requirement_is_stated_once_and_marked() -> None:
    stated = {
        r[0]: r
        for h in ("4. Functional requirements", "5. Non-functional requirements", "6. Acceptance criteria")
        for r in rows(section(BRD, f"## {h}"))
    }
    expected = [f"FR-{n:03d}" for n in range(1, 17)]
    expected += [f"NFR-{n:03d}" for n in range(1, 5)]
    expected += [f"AC-{n:03d}" for n in range(1, 14)]
    assert list(stated) == expected
    marks = {id_: row[2 if id_.startswith("AC") else 3] for id_, row in stated.items()}
    known = {"T", "content T", "number T", "R"}
    assert {id_: mark for id_, mark in marks.items() if mark not in known} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(CHECKOUT).as_posix())
def test_cited_requirements_exist(page: Path) -> None:
    cited = set(re.findall(r"\b(?:N?FR|AC)-\d+\b", page.read_text(encoding="utf-8")))
    stated = set(re.findall(r"^\| ((?:N?FR|AC)-\d{3}) \|", BRD, flags=re.MULTILINE))
    assert cited <= stated


def test_tests_named_in_the_requirements_exist_unless_planned() -> None:
    wrong = []
    for row in rows(section(BRD, "## 5. Non-functional requirements") + section(BRD, "## 6. Acceptance criteria")):
        planned = False
        for part in re.split(r"(planned)|;", row[-1]):
            planned = planned or part == "planned"
            for path in re.findall(r"`(tests/[\w/.]+)`", part or ""):
                if not planned and not (CHECKOUT / path).exists():
                    wrong.append(f"{row[0]} names {path}, which does not exist")
                if planned and (CHECKOUT / path).is_file():
                    wrong.append(f"{row[0]} calls {path} planned, and it exists")
    assert wrong == []


def test_the_plan_has_thirty_days_and_says_truly_which_are_built() -> None:
    days = [row for row in rows(PLAN) if len(row) == 6 and row[0].isdigit()]
    assert [int(row[0]) for row in days] == list(range(1, 31))
    assert {row[2] for row in days} <= {"built", "planned"}
    built = [(int(number), title, slug.strip("`")) for number, title, status, _, slug, _ in days if status == "built"]
    assert built == [(day.number, day.title, day.name) for day in DAYS]
    assert [slug for number, _, _, _, slug, _ in days if not slug.startswith(f"`{int(number):02d}_")] == []


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_bronze_schemas_are_the_contracts(source: Source) -> None:
    stated = [(name.strip("`"), type_) for name, type_, *_ in rows(section(BRD, f"#### `{source.bronze_table}`"))]
    assert stated == [(column.name, column.type) for column in source.columns]
    assert f"### `{source.bronze_table}`" in MODEL


@pytest.mark.parametrize("page", [BRD, MODEL], ids=["brd", "data-model"])
def test_audit_columns_are_those_that_bronze_adds(page: str) -> None:
    added = {column.name: column.type.replace(" ", "") for column in AUDIT_COLUMNS}
    stated = [row for row in rows(page) if row[0].strip("`") in added and row[2] in ("usually", "never")]
    assert [(row[0].strip("`"), row[1].strip("`")) for row in stated] == list(added.items())


def test_every_kind_of_defect_is_described() -> None:
    stated = [kind.strip("`") for kind, _ in rows(section(BRD, "### 7.4 Defects"))]
    assert sorted(stated) == sorted(HOW_TO_FIND)


def test_every_table_in_the_diagram_is_in_the_data_model() -> None:
    described = set(re.findall(r"^### `(?:bronze|silver|gold)\.(\w+)`$", MODEL, flags=re.MULTILINE))
    picture = (DOCS / "img" / "medallion.svg").read_text(encoding="utf-8")
    drawn = {name for name in re.findall(r'class="code"[^>]*>([^<]+)<', picture) if "_" in name}
    assert len(drawn) >= 10
    assert drawn <= described


def test_glossary_is_short_sorted_and_says_each_word_once() -> None:
    entries = rows(section(MODEL, "## Glossary"))
    words = [word for word, _ in entries]
    assert words == sorted(set(words), key=str.lower)
    assert {word: meaning for word, meaning in entries if len(meaning.split()) > 25} == {}


def test_worked_revenue_follows_the_definition() -> None:
    examples = [[Decimal(cell) for cell in row] for row in rows(section(MODEL, "## Revenue"))]
    assert len(examples) >= 3
    for quantity, price, percent, exact, net, discount in examples:
        assert quantity * price * (1 - percent / 100) == exact
        assert exact.quantize(CENT, ROUND_HALF_UP) == net
        assert quantity * price - net == discount


# The engine's settings

PLUMBING = re.compile(
    r"spark\.(master|app\.name|driver\.|local\.dir|connect\.grpc\.|sql\.(warehouse\.dir|extensions|catalog\.)|openlineage\.)"
    r"|spark\.(extraListeners|ui\.showConsoleProgress)$"
    # These settings have the stock value. They are set explicitly so that no other default replaces it.
    r"|spark\.sql\.(catalogImplementation|ansi\.enabled|execution\.arrow\.pyspark\.enabled)$"
    r"|spark\.sql\.pyspark\.jvmStacktrace\.enabled$|spark\.databricks\.delta\.properties\.defaults\."
)
"""Paths, addresses and plug-ins: they do not change what a query does."""


def test_lesson_1_discloses_every_setting_that_is_not_stock_spark() -> None:
    lesson = (CHECKOUT / "lessons" / "01_workspace.md").read_text(encoding="utf-8")
    assert as_markdown() in lesson, "put this there, from `python -m shared.course.engine_settings`:\n" + as_markdown()
    conf = spark_conf(Settings(spark_conf=""))
    assert [name for name in conf if name not in NOT_STOCK and not PLUMBING.match(name)] == [], "say why in NOT_STOCK"
    assert NOT_STOCK.keys() <= conf.keys()
