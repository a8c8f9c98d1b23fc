from __future__ import annotations

import gzip
import re

import pytest

from shared.bronze.contracts import PRODUCTS, SOURCES, Column
from shared.bronze.landing import landed, landed_files, strays
from shared.errors import SourceError
from shared.settings import CHECKOUT

HEADER = ",".join(PRODUCTS.column_names)


def put(volume, text, batch="2026-01-01", name="products.csv", encoding="utf-8"):
    path = volume / "products" / batch / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def test_files_come_oldest_batch_first(tmp_path):
    for batch in ("2026-01-02", "2025-12-31", "2026-01-01"):
        put(tmp_path, HEADER + "\n", batch)
    assert [file.path.split("/")[1] for file in landed_files(tmp_path, PRODUCTS)] == [
        "2025-12-31", "2026-01-01", "2026-01-02",
    ]  # fmt: skip


@pytest.mark.parametrize("text", [HEADER + "\r\n", HEADER, '"' + HEADER.replace(",", '","') + '"\n'])
def test_line_endings_and_quotes_do_not_matter(tmp_path, text):
    put(tmp_path, text)
    assert landed_files(tmp_path, PRODUCTS)[0].header == tuple(PRODUCTS.column_names)


def test_a_byte_order_mark_is_not_part_of_the_first_name(tmp_path):
    put(tmp_path, HEADER + "\n", encoding="utf-8-sig")
    assert landed_files(tmp_path, PRODUCTS)[0].header[0] == "product_id"


def test_a_missing_column_names_file_and_column(tmp_path):
    put(tmp_path, HEADER.replace("list_price", "price") + "\n")
    with pytest.raises(SourceError, match=r"products/2026-01-01/products\.csv: the required column list_price"):
        landed_files(tmp_path, PRODUCTS)


def test_every_problem_of_every_file_is_reported_at_once(tmp_path):
    put(tmp_path, HEADER.replace("brand,", "") + "\n", name="a.csv")
    put(tmp_path, HEADER + "\n", name="good.csv")
    put(tmp_path, HEADER + "\n", batch="yesterday")
    with pytest.raises(SourceError) as raised:
        landed_files(tmp_path, PRODUCTS)
    assert raised.value.problem.splitlines()[1:] == [
        "  - products/2026-01-01/a.csv: the required column brand is missing",
        "  - products/yesterday/: the folder must be a batch date such as 2026-01-01, found 'yesterday'",
    ]


REFUSED = {
    "some.csv": (
        "product_id,product_name\n",
        "the required columns category, brand, list_price, is_active, updated_at are missing",
    ),
    "price.csv": (HEADER.replace("list_price,", "") + "\n", "the required column list_price is missing"),
    "empty.csv": ("", "the first line must name the columns, but it is empty"),
    "blank.csv": ("\n" + HEADER, "the first line must name the columns, but it is empty"),
    "twice.csv": (HEADER + ",brand\n", "the column brand stands there twice"),
    "case.csv": (HEADER + ",Brand\n", "the columns brand and Brand differ only in case"),
    "capital.csv": (HEADER.replace("brand", "Brand "), "column brand is missing; 'Brand ' must be written brand"),
    "nameless.csv": (HEADER + ",,\n", "no name in column 8, 9"),
    "backtick.csv": (HEADER + ",a`b\n", "the column a`b has a backtick or a control character in its name"),
    "control.csv": (HEADER + ",a\tb\n", "the column a\\tb has a backtick or a control character in its name"),
    "reserved.csv": (HEADER + ",_malformed\n", "the column _malformed has a name that bronze itself gives"),
    "wide.csv": (HEADER + "".join(f",c{n}" for n in range(2000)), "2,007 columns: at most 500 are read"),
    "headless.csv": (
        "P-1,Mug,Home,A,5.00,true,x\n",
        f"found P-1, Mug, Home, A, 5.00: the first line must be the header {HEADER}",
    ),
    "semicolons.csv": (HEADER.replace(",", ";"), "it looks separated by ';' and not by commas"),
    "utf16.csv": ((HEADER + "\n").encode("utf-16"), "it looks like UTF-16: save it as UTF-8"),
    "utf16be.csv": ((HEADER + "\n").encode("utf-16-be"), "it looks like UTF-16: save it as UTF-8"),
    "latin.csv": ((HEADER + ",d\u00e9j\u00e0\n").encode("latin-1"), "the header is not UTF-8: byte 0xE9 at offset 72"),
    "book.csv": (b"PK\x03\x04...", "it looks like an Excel workbook or a zip file: save it as CSV"),
    "packed.csv": (gzip.compress(HEADER.encode()), "it looks like gzip: name it .csv.gz"),
    "plain.csv.gz": (HEADER, "it is no whole gzip file: Not a gzipped file"),
    "half.csv.gz": (gzip.compress((HEADER + "\n" * 9999).encode())[:-9], "it is no whole gzip file: Compressed"),
    "orders_10:30.csv": (HEADER, "the engine cannot read a name with a colon"),
    "bell\x07.csv": (HEADER, "its name has characters that are no text"),
}  # fmt: skip


def test_a_file_that_cannot_be_read_is_one_line_and_holds_up_no_other(tmp_path):
    folder = tmp_path / "products" / "2026-01-01"
    folder.mkdir(parents=True)
    for name, (content, _) in REFUSED.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "spark.csv").mkdir()
    (folder / "spark.csv" / "part-00000.csv").write_text(HEADER)
    (folder / "gone.csv").symlink_to(folder / "nowhere.csv")
    (tmp_path / "products" / "20260103").mkdir()
    (tmp_path / "products" / "20260103" / "a.csv").write_text(HEADER)
    put(tmp_path, HEADER + "\n", name="orders [EU] {1}, caf\u00e9*?.csv")
    (folder / "good.csv.gz").write_bytes(gzip.compress(HEADER.encode()))
    found = landed(tmp_path, PRODUCTS)
    assert [file.path.split("/")[-1] for file in found.files] == ["good.csv.gz", "orders [EU] {1}, caf\u00e9*?.csv"]
    refused = {path.removeprefix("products/2026-01-01/"): problem for path, problem in found.refused.items()}
    assert refused.pop("products/20260103/") == "the folder must be a batch date such as 2026-01-01, found '20260103'"
    assert "move the part files into products/2026-01-01/" in refused.pop("spark.csv/")
    assert refused.pop("gone.csv") == "it cannot be read: No such file or directory"
    refused["bell\x07.csv"] = refused.pop("bell\\x07.csv")
    assert refused.keys() == REFUSED.keys()
    wrong = {name: problem for name, problem in refused.items() if REFUSED[name][1] not in problem}
    assert wrong == {}
    assert not [problem for problem in refused.values() if "\n" in problem or len(problem) > 250]
    # The page for readers with data of their own explains these messages.
    page = (CHECKOUT / "docs" / "own-data.md").read_text(encoding="utf-8")
    table = page.split("| refusal |")[1].split("\n\n")[0]
    explained = [words for row in table.splitlines()[2:] for words in re.findall("`([^`]+)`", row.split("|")[1])]
    parts = [part for words in explained for part in words.split("...")]
    assert len(explained) > 12
    assert [part for part in parts if not any(part in problem for problem in found.refused.values())] == []


def test_what_is_left_alone_is_named_with_the_reason(tmp_path):
    folder = tmp_path / "products" / "2026-01-01"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "deep.csv").write_text(HEADER)
    for name in ("UPPER.CSV", "part.csv.tmp", "o.txt", "_half.csv", ".hidden.csv", ".a.csv.crc"):
        (folder / name).write_text(HEADER)
    (tmp_path / "products" / "outside.csv").write_text(HEADER)
    (tmp_path / "products" / "2026-01-02").mkdir()
    (tmp_path / "order").mkdir()
    (tmp_path / "stray.csv").write_text(HEADER)
    (tmp_path / "manifest.json").write_text("{}")
    found = landed(tmp_path, PRODUCTS)
    assert (found.files, found.refused) == ([], {})
    assert found.ignored == {
        "products/2026-01-01/UPPER.CSV": "its name does not end in .csv or .csv.gz, which is written in small letters",
        "products/2026-01-01/part.csv.tmp": "its name does not end in .csv or .csv.gz",
        "products/2026-01-01/o.txt": "its name does not end in .csv or .csv.gz",
        "products/2026-01-01/_half.csv": "a name that begins with _ marks what is not finished",
        "products/2026-01-01/sub/deep.csv": "it is too deep: files are read from products/2026-01-01/ itself",
        "products/outside.csv": "it is in no folder of a batch date, such as products/2026-01-01/",
    }
    why = "there is no such source; the folders are customers, products, orders"
    assert strays(tmp_path, SOURCES) == {"order/": why, "stray.csv": why}


def test_a_compressed_file_that_was_read_is_not_decompressed_again(tmp_path):
    put(tmp_path, "", name="a.csv.gz")
    whole = gzip.compress((HEADER + "\n" + "x" * 100_000).encode())
    (tmp_path / "products" / "2026-01-01" / "a.csv.gz").write_bytes(whole[:-4])
    assert landed(tmp_path, PRODUCTS).refused
    assert not landed(tmp_path, PRODUCTS, verified=["products/2026-01-01/a.csv.gz"]).refused


@pytest.mark.parametrize(
    ("kind", "fitting", "others"),
    [
        ("DECIMAL(12,2)", ["19.90", "5", "-0.5", "+1.00", "0012.50"],
         ["12,99", "1.234,56", "1,234.56", "0.0149", "19.900", "1e3", ".5", "5.", " 5", "NaN", "12 EUR", "\u0661"]),
        ("DECIMAL(5,0)", ["12"], ["12.0"]),
        ("INT", ["12", "-3", "+4"], ["1.5", "1,000", "0x1", "1e3", "\u0661", ""]),
        ("BOOLEAN", ["true", "FALSE"], ["t", "1", "yes", "truee"]),
        ("DATE", ["2025-03-01"], ["2025", "2025-12", "2025-1-1", "2025-01-01 junk", "0000-01-01", "20250301"]),
        ("TIMESTAMP", ["2025-03-01 14:03:22", "2025-03-01T14:03:22.123456+02:00", "2025-03-01 14:03:22Z"],
         ["T14:03:22", "10:00", "2025-03-01", "2025-03-01 14:03", "2025-03-01 14:03:22.1234567", "2025", "1740837802",
          "2025-03-01 14:03:22 Europe/Paris", "2025-03-01 2:03:22 PM"]),
    ],
)  # fmt: skip
def test_a_text_is_a_value_only_in_the_form_of_its_type(kind, fitting, others):
    form = Column("c", kind, "").form
    assert [text for text in (*fitting, *others) if re.fullmatch(form.pattern, text, re.ASCII)] == fitting
