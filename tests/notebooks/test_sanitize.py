"""The comparison of outputs ignores what varies between runs, and nothing else."""

from __future__ import annotations

import re

import pytest
from gate import SANITIZE
from nbval.plugin import get_sanitize_patterns

RULES = get_sanitize_patterns(SANITIZE.read_text(encoding="utf-8"))

SAMPLES = [
    (
        [
            "part-00000-8b8883a1-2b38-48cc-a14e-9ca7b9352f63-c000.parquet",
            '"txnId":"5b45cfe4-3bba-40a6-b2e7-2f8a3337ff51"',
        ],
        ["C-0001234", "2025-12-31", "8b8883a1-2b38", "orders_20251231-000000-000000-000000-000000000000"],
    ),
    (
        ['"timestamp":1795505308119', "&quot;modificationTime&quot;: 1795505309853", "createdTime: 1795505308034"],
        ['"order_ts":1795505308119', '"timestamp":"2025-12-31 14:03:22"', '"size":1795505309853', '"timestamp":12'],
    ),
    (
        ['"executionTimeMs":"1212"', "scanTimeMs: 1045", "&quot;rewriteTimeMs&quot;:&quot;166&quot;"],
        ['"numUpdatedRows":"1"', '"numRecords":3', "minutes: 45"],
    ),
    (
        ["(id#544 = 2)", "customer_id#12L", "predicate: id#1224"],
        ["# 544", "#544", "order #12", "2025-12-31", "customer 12"],
    ),
]
"""For each rule, in the order of the file: texts that it changes, and texts that it must not change."""


def test_every_rule_is_read_and_has_samples() -> None:
    lines = SANITIZE.read_text(encoding="utf-8").splitlines()
    written = [line for line in lines if line.startswith(("regex:", "replace:"))]
    assert len(written) == 2 * len(RULES), "a rule is a line `regex: x` directly followed by `replace: y`"
    assert len(SAMPLES) == len(RULES)


@pytest.mark.parametrize("position", range(len(RULES)))
def test_a_rule_changes_what_varies_and_only_that(position: int) -> None:
    (regex, replacement), (varying, telling) = RULES[position], SAMPLES[position]
    for text in varying:
        assert re.sub(regex, replacement, text) != text
    for text in telling:
        assert re.sub(regex, replacement, text) == text


@pytest.mark.parametrize(
    "text", ["2025-12-31", "2026-01-01 02:00:00", "2025-03-01 14:03:22.5", "1,234 rows", "C-000000042", "version 3"]
)
def test_no_rule_touches_a_date_a_count_or_a_key(text: str) -> None:
    assert all(re.sub(regex, replacement, text) == text for regex, replacement in RULES)


def test_two_runs_of_a_delta_log_read_the_same() -> None:
    first = '{"timestamp":1795505308119,"txnId":"5b45cfe4-3bba-40a6-b2e7-2f8a3337ff51","numOutputRows":"3"}'
    second = '{"timestamp":1812345678901,"txnId":"11111111-2222-3333-4444-555555555555","numOutputRows":"3"}'
    lost = second.replace('"3"', '"2"')

    def sanitized(text: str) -> str:
        for regex, replacement in RULES:
            text = re.sub(regex, replacement, text)
        return text

    assert sanitized(first) == sanitized(second) != sanitized(lost)
