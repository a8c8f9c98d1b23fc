"""The figure of the shop agrees with the files."""

from __future__ import annotations

from collections import Counter
from datetime import date
from pathlib import Path

import pytest

from generators import generate
from generators.plan import GeneratorError
from generators.shop_profile import ShopProfile, figure, profile_of


@pytest.fixture(scope="module")
def landing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("landing")
    generate(out, scale=0.1, seed=3, defects=0)
    return out


@pytest.fixture(scope="module")
def profile(landing: Path) -> ShopProfile:
    return profile_of(landing)


def test_profile_counts_every_order_once(landing: Path, profile: ShopProfile) -> None:
    lines = (landing / "orders/2025-12-31/orders_historical.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert profile.daily["orders"].sum() == profile.hourly.sum() == len(lines) == 10_000
    days = Counter(line.split(",")[3][:10] for line in lines)
    assert {str(day): n for day, n in profile.daily["orders"].items() if n} == dict(days)
    assert len(profile.daily) == 365


def test_revenue_leaves_out_cancelled_and_returned_orders(landing: Path, profile: ShopProfile) -> None:
    lines = (landing / "orders/2025-12-31/orders_historical.csv").read_text(encoding="utf-8").splitlines()[1:]
    cents = 0
    for line in lines:
        _, _, _, placed, quantity, price, discount, status, _, _ = line.split(",")
        if placed.startswith("2025-11-28") and status not in ("cancelled", "returned"):
            cents += (int(price.replace(".", "")) * int(quantity) * (100 - int(discount)) + 50) // 100
    assert profile.daily.loc[date(2025, 11, 28), "revenue"] == cents / 100
    assert cents > 0


def test_customers_without_orders_count_as_unequal(profile: ShopProfile) -> None:
    assert len(profile.orders_of["customers"]) == 1_000
    assert profile.orders_of["customers"][0] == 0
    assert profile.orders_of["customers"].sum() == 10_000
    assert profile.share_of_top("customers", 1.0) == 1.0
    assert 0.5 < profile.share_of_top("customers", 0.2) < 0.75
    assert 0.5 < profile.gini("customers") < 0.75


def test_defects_do_not_bend_the_curves(landing: Path, tmp_path: Path) -> None:
    generate(tmp_path, scale=0.1, seed=3, defects=0.1)
    flawed, clean = profile_of(tmp_path), profile_of(landing)
    assert flawed.daily["orders"].corr(clean.daily["orders"]) > 0.99
    assert 0.9 < flawed.daily["orders"].sum() / clean.daily["orders"].sum() <= 1
    assert flawed.gini("customers") == pytest.approx(clean.gini("customers"), abs=0.02)


def test_figure_shows_the_profile_and_marks_promotions(profile: ShopProfile) -> None:
    view = figure(profile)
    drawn = {trace.name.split(":")[0]: trace for trace in view.data}
    assert list(drawn["orders"].y) == profile.daily["orders"].tolist()
    assert list(drawn["revenue"].y) == profile.daily["revenue"].tolist()
    assert list(drawn["orders an hour"].y) == profile.hourly.tolist()
    for table in ("customers", "products"):
        x, y = list(drawn[table].x), list(drawn[table].y)
        assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
        assert all(orders <= members for members, orders in zip(x, y, strict=True))
    bands = {(shape.x0, shape.x1) for shape in view.layout.shapes}
    assert bands == {("2025-07-04", "2025-07-14"), ("2025-11-24", "2025-12-02")}


def test_figure_is_the_same_every_time(profile: ShopProfile) -> None:
    assert figure(profile).to_json() == figure(profile).to_json()


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GeneratorError, match=r"orders_historical\*\.csv"):
        profile_of(tmp_path)
