"""Declarations of tables: the allowed content, and one error that reports the problems of all declarations."""

from __future__ import annotations

import pytest

from shared.bronze.contracts import SOURCES
from shared.errors import MetadataError
from shared.silver import metadata
from shared.silver.metadata import TableDefinition

THERE = {"bronze.people": ["id", "name", "city", "is_gone", "at", "_malformed"], "bronze.visits": ["id", "who", "ts"]}

PEOPLE = {
    "target": "silver.people",
    "source": "bronze.people",
    "kind": "scd2",
    "processing_order": 10,
    "business_keys": ["id"],
    "sequence_column": "at",
    "delete_flag": "is_gone",
    "surrogate_key": "sk",
    "tracked_columns": ["city"],
    "columns": ["name"],
}
JOIN = {"dimension": "silver.people", "key": "who", "as_of": "ts", "take": ["sk"], "unknown": "infer"}
VISITS = {
    "target": "silver.visits",
    "source": "bronze.visits",
    "kind": "fact",
    "processing_order": 20,
    "depends_on": ["silver.people"],
    "business_keys": ["id"],
    "sequence_column": "ts",
    "columns": ["who", "ts"],
    "dimension_joins": [JOIN],
}


def problems(*entries: dict) -> list[str]:
    return metadata.problems([TableDefinition.model_validate(entry) for entry in entries], THERE)


def test_the_declared_tables_are_sound_over_the_contracts_of_bronze():
    contracts = {source.bronze_table: source.column_names for source in SOURCES.values()}
    assert metadata.problems(metadata.TABLES.declared(), contracts) == []
    assert problems(PEOPLE, VISITS) == []


def test_the_gate_asks_in_a_stated_order():
    gates = {one.target: [rule.name for rule in one.gate] for one in metadata.TABLES.declared()}
    assert gates == {
        "silver.dim_customers": [
            "line_is_well_formed", "customer_id_is_not_null", "updated_at_is_not_null",
            "updated_at_is_not_in_the_future", "email_is_not_null", "email_is_valid",
        ],
        "silver.dim_products": [
            "line_is_well_formed", "product_id_is_not_null", "updated_at_is_not_null",
            "updated_at_is_not_in_the_future", "list_price_is_not_negative", "category_is_not_null",
        ],
        "silver.orders_clean": [
            "line_is_well_formed", "order_id_is_not_null", "updated_at_is_not_null",
            "updated_at_is_not_in_the_future", "customer_id_is_not_blank", "product_id_is_not_null",
            "order_ts_is_not_null", "order_ts_is_not_in_the_future", "quantity_is_positive",
            "unit_price_is_not_negative", "discount_pct_is_in_range", "status_is_known",
            "order_date_fits", "gross_amount_fits", "net_amount_fits", "discount_amount_fits",
        ],
    }  # fmt: skip


def test_a_derived_column_stands_in_the_rules_of_those_below_it_as_its_expression():
    derived = [
        {"name": "gross", "type": "INT", "expression": "a * b"},
        {"name": "net", "type": "INT", "expression": "CASE WHEN kind = 'gross \\' net' THEN `Gross` ELSE grossly END"},
    ]
    rules = {rule.name: rule for rule in TableDefinition.model_validate(VISITS | {"derived_columns": derived}).gate}
    assert rules["gross_fits"].expectation == "(a * b) IS NULL OR try_cast((a * b) AS INT) IS NOT NULL"
    net = "CASE WHEN kind = 'gross \\' net' THEN try_cast((a * b) AS INT) ELSE grossly END"
    assert rules["net_fits"].expectation == f"({net}) IS NULL OR try_cast(({net}) AS INT) IS NOT NULL"


WRONG = {
    "an unknown source": (
        [PEOPLE | {"source": "bronze.folk"}],
        ["silver.people: unknown source bronze.folk: expected one of bronze.people, bronze.visits"],
    ),
    "an unknown column, of each list": (
        [
            PEOPLE
            | {"business_keys": ["nr"], "sequence_column": "when", "delete_flag": "gone", "tracked_columns": ["town"]}
            | {"columns": ["nick"]}
        ],
        [
            f"silver.people: unknown column {column} in {field}: bronze.people has id, name, city, is_gone, at"
            for column, field in (
                ("nr", "business_keys"),
                ("when", "sequence_column"),
                ("gone", "delete_flag"),
                ("town", "tracked_columns"),
                ("nick", "columns"),
            )
        ],
    ),
    "no key": (
        [PEOPLE | {"business_keys": []}],
        ["silver.people: no business key: expected at least one column in business_keys"],
    ),
    "a history that nothing could start": (
        [PEOPLE | {"tracked_columns": [], "surrogate_key": None}],
        [
            "silver.people: kind scd2 without tracked_columns: nothing would ever start a version",
            "silver.people: kind scd2 without surrogate_key: facts would have nothing to point at",
        ],
    ),
    "fields that mean nothing in the kind": (
        [PEOPLE | {"kind": "scd1", "surrogate_key": None}, VISITS | {"delete_flag": "who", "dimension_joins": []}],
        [
            "silver.people: tracked_columns mean something only in kind scd2, not in scd1",
            "silver.visits: delete_flag means something only in a dimension",
        ],
    ),
    "a name that is none": (
        [PEOPLE | {"target": "people"}, PEOPLE | {"target": "shop.people"}, PEOPLE | {"target": "silver.dim people"}],
        [
            f"{name}: not the name of a table: expected <schema>.<table> with a schema of bronze, silver, gold, ops"
            for name in ("people", "shop.people", "silver.dim people")
        ],
    ),
    "a table declared twice": ([PEOPLE, PEOPLE], ["silver.people: declared more than once"]),
    "a rule there twice": (
        [PEOPLE | {"rules": [{"name": "id_is_not_null", "expect": "id > 0", "limit": "more than 0"}]}],
        ["silver.people: rule id_is_not_null is there more than once"],
    ),
    "a dependency that is not there": (
        [PEOPLE | {"depends_on": ["silver.towns"]}],
        ["silver.people: depends on unknown table silver.towns: expected one of silver.people"],
    ),
    "an order that contradicts a dependency": (
        [PEOPLE, VISITS | {"processing_order": 10}],
        [
            "silver.visits: processing_order 10 contradicts depends_on: silver.people has 10, and must come before",
        ],
    ),
    "a cycle": (
        [PEOPLE | {"depends_on": ["silver.visits"]}, VISITS],
        [
            "silver.people: processing_order 10 contradicts depends_on: silver.visits has 20, and must come before",
            "a cycle: silver.people needs silver.visits needs silver.people",
        ],
    ),
    "a table that needs itself": (
        [PEOPLE | {"depends_on": ["silver.people"]}],
        ["a cycle: silver.people needs silver.people"],
    ),
    "a dimension that is not there": (
        [PEOPLE, VISITS | {"dimension_joins": [JOIN | {"dimension": "silver.folk"}]}],
        ["silver.visits: joins unknown dimension silver.folk: expected one of silver.people"],
    ),
    "a dimension that may not have run": (
        [PEOPLE, VISITS | {"depends_on": []}],
        ["silver.visits: joins silver.people but does not depend on it: add it to depends_on"],
    ),
    "a join by columns that are not there": (
        [PEOPLE, VISITS | {"dimension_joins": [JOIN | {"key": "whom", "as_of": "then", "take": ["ski"]}]}],
        [
            "silver.visits: unknown column whom in dimension_joins: bronze.visits has id, who, ts",
            "silver.visits: unknown column then in dimension_joins: bronze.visits has id, who, ts",
            "silver.visits: takes unknown column ski of silver.people: it has id, city, name, sk",
        ],
    ),
    "a join by a column that the fact does not carry": (
        [PEOPLE, VISITS | {"columns": ["ts"]}],
        ["silver.visits: who is joined on but not among columns"],
    ),
    "a history that is looked up at no instant": (
        [PEOPLE, VISITS | {"dimension_joins": [JOIN | {"as_of": None}]}],
        ["silver.visits: joins silver.people, which is scd2 and needs as_of"],
    ),
    "an instant and an inferred member where there are no versions": (
        [PEOPLE | {"kind": "scd1", "tracked_columns": []}, VISITS],
        [
            "silver.visits: joins silver.people, which is scd1 and has no versions, so no as_of",
            "silver.visits: joins silver.people with unknown = infer, which only a dimension of kind scd2 can take",
        ],
    ),
    "a dimension of two keys": (
        [PEOPLE | {"business_keys": ["id", "name"]}, VISITS],
        ["silver.visits: joins silver.people by one key, but that has 2"],
    ),
}


@pytest.mark.parametrize(("entries", "told"), WRONG.values(), ids=WRONG.keys())
def test_it_is_told_what_is_wrong_and_what_would_be_right(entries, told):
    assert problems(*entries) == told


def test_all_that_is_wrong_is_told_at_once():
    found = problems(
        PEOPLE | {"depends_on": ["silver.visits"], "business_keys": []},
        VISITS | {"source": "bronze.calls", "processing_order": 5, "dimension_joins": [JOIN | {"take": ["ski"]}]},
    )
    assert sorted(found) == sorted(
        [
            "silver.people: no business key: expected at least one column in business_keys",
            "silver.visits: unknown source bronze.calls: expected one of bronze.people, bronze.visits",
            "silver.visits: processing_order 5 contradicts depends_on: silver.people has 10, and must come before",
            "silver.visits: joins silver.people by one key, but that has 0",
            "silver.visits: takes unknown column ski of silver.people: it has city, name, sk",
            "a cycle: silver.people needs silver.visits needs silver.people",
        ]
    )
    error = metadata.TABLES.unsound(found)
    assert str(error).startswith("The metadata cannot be run:\n  - silver.")
    assert str(error).count("\n  - ") == len(found)
    assert error.hint == "correct silver/tables.toml or ops.table_metadata; nothing was run"


def test_entries_that_are_no_declarations_are_told_at_once_with_what_was_found():
    rule = {"name": "x_is_y", "limit": "y"}
    with pytest.raises(MetadataError) as raised:
        metadata.TABLES.parse(
            [
                PEOPLE | {"kind": "scd3", "processing_order": "soon", "colour": "red"},
                {name: value for name, value in VISITS.items() if name != "source"},
                PEOPLE | {"rules": [rule, rule | {"expect": "a", "expect_or_fail": "b"}, rule | {"hope": "c"}]},
                PEOPLE | {"rules": [{"name": "X is y", "expect": "a", "limit": "y"}]},
                {"kind": "fact"},
            ],
            "tables.toml",
        )
    lines = raised.value.problem.splitlines()
    assert lines[0] == "tables.toml cannot be used:"
    assert raised.value.hint == "correct these entries, then run again"
    for line in (
        "  - silver.people: kind: input should be 'scd1', 'scd2' or 'fact', found 'scd3'",
        "  - silver.people: colour: extra inputs are not permitted, found 'red'",
        "  - silver.visits: source: field required",
    ):
        assert line in lines
    one_of = "expected exactly one of expect, expect_or_quarantine, expect_or_fail, found"
    assert any("processing_order" in line and "'soon'" in line for line in lines)
    assert any(line.startswith(f"  - silver.people: rules.0: {one_of} none") for line in lines)
    assert any("rules.1" in line and one_of in line and "expect_or_fail" in line.split("found", 1)[1] for line in lines)
    assert any(line.startswith(f"  - silver.people: rules.2: {one_of} none") for line in lines)
    assert any("rules.0.name" in line and "'X is y'" in line for line in lines)
    assert "  - entry 5: target: field required" in lines


def test_a_file_that_is_not_toml_is_named_with_the_line(tmp_path):
    file = tmp_path / "tables.toml"
    file.write_text('[[table]]\ntarget = "silver.people\n')
    with pytest.raises(MetadataError, match=r"tables\.toml is not TOML: .*line 2"):
        metadata.TABLES.declared(file)


def test_declarations_come_in_processing_order_whatever_their_order_in_the_file(tmp_path):
    entry = '[[table]]\ntarget = "{}"\nsource = "bronze.people"\nkind = "scd1"\nprocessing_order = {}\n'
    entry += 'business_keys = ["id"]\nsequence_column = "at"\n'
    file = tmp_path / "tables.toml"
    file.write_text(entry.format("silver.c", 10) + entry.format("silver.a", 20) + entry.format("silver.b", 10))
    assert [one.target for one in metadata.TABLES.declared(file)] == ["silver.b", "silver.c", "silver.a"]


def test_the_fingerprint_follows_the_meaning_and_not_the_words():
    people = TableDefinition.model_validate(PEOPLE)
    same = PEOPLE | {"comment": "Everybody.", "processing_order": 11, "is_enabled": False}
    assert TableDefinition.model_validate(same).fingerprint == people.fingerprint
    rule = {"name": "id_is_positive", "expect": "id > 0", "limit": "more than 0"}
    others = [
        PEOPLE | change
        for change in ({"tracked_columns": ["city", "name"]}, {"delete_flag": None}, {"columns": []}, {"rules": [rule]})
    ]
    assert len({TableDefinition.model_validate(other).fingerprint for other in [PEOPLE, *others]}) == 5


def test_a_rule_reads_the_same_from_the_file_and_from_the_control_table():
    spoken = {"name": "id_is_positive", "expect_or_quarantine": "id > 0", "limit": "more than 0"}
    stored = {"name": "id_is_positive", "severity": "quarantine", "expectation": "id > 0", "limit": "more than 0"}
    assert metadata.Rule.model_validate(spoken) == metadata.Rule.model_validate(stored)


def test_a_fingerprint_changes_with_what_decides_the_rows_and_with_nothing_else():
    """If the fingerprint of a definition differs from the one that made a table's rows, the table is rebuilt."""
    rule = {"name": "city_is_known", "expect_or_quarantine": "city IS NOT NULL", "limit": "a city"}
    deciding = [
        {"rules": [rule]}, {"rules": [rule | {"limit": "any city"}]}, {"source": "bronze.folk"}, {"columns": []},
        {"tracked_columns": ["city", "name"]}, {"sequence_column": "then"}, {"delete_flag": None},
    ]  # fmt: skip
    others = [{"comment": "People."}, {"processing_order": 11}, {"is_enabled": False}]

    def fingerprint(change: dict) -> str:
        return TableDefinition.model_validate(PEOPLE | change).fingerprint

    assert len({fingerprint(change) for change in ({}, *deciding)}) == 1 + len(deciding)
    assert {fingerprint(change) for change in others} == {fingerprint({})}
