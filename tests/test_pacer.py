"""The pacer's account: its rule, its promise, and what it survives."""

from __future__ import annotations

import math
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import RouterError
from router.policies import Utility
from router.prediction import Prediction
from router.serving.live_settings import PacerSettings
from router.serving.pacer import Pacer, Scale

BUDGET = 0.01


def pacer_in(folder: Path, budget: float = BUDGET) -> Pacer:
    return Pacer(PacerSettings(budget=budget, state=folder / "pacer.db"))


def test_the_charge_follows_the_published_rule_and_what_is_owed(tmp_path: Path) -> None:
    with closing(pacer_in(tmp_path)) as pacer:
        pacer.book([("a", 3 * BUDGET)])
        pace = pacer.look()
    given = PacerSettings()
    average = BUDGET + (3 * BUDGET - BUDGET) / given.window
    step = average / BUDGET - 1 + 2 / 1000
    assert pace.average == pytest.approx(average)
    assert pace.charge == pytest.approx(given.rate * step)
    assert pace.decided == 1


@settings(max_examples=25, deadline=None)
@given(
    # Dear ones alone, so that no bound cuts the charge.
    costs=st.lists(st.tuples(st.floats(1, 3), st.floats(1, 3)), min_size=1, max_size=20),
    late=st.integers(0, 20),
)
def test_what_is_paid_later_counts_as_if_it_had_been_known(
    tmp_path_factory: pytest.TempPathFactory, costs: list[tuple[float, float]], late: int
) -> None:
    folder = tmp_path_factory.mktemp("pacers")
    with closing(pacer_in(folder / "late")) as told_late, closing(pacer_in(folder)) as knew:
        for number, (predicted, actual) in enumerate(costs):
            told_late.book([(f"r{number}", BUDGET * predicted)])
            knew.book([(f"r{number}", BUDGET * actual)])
            if number >= late:
                assert told_late.paid(f"r{number - late}", BUDGET * costs[number - late][1])
        for number in range(max(len(costs) - late, 0), len(costs)):
            assert told_late.paid(f"r{number}", BUDGET * costs[number][1])
        one, other = told_late.look(), knew.look()
    for name in ("decided", "spent", "average", "owed", "charge"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-9, abs=1e-12)


def test_told_again_replaces_the_earlier_and_the_unknown_is_left_out(tmp_path: Path) -> None:
    with closing(pacer_in(tmp_path)) as pacer:
        pacer.book([("a", 0.02), ("b", 0.02)])
        assert pacer.paid("a", 0.05)
        once = pacer.look()
        assert pacer.paid("a", 0.05)
        assert pacer.look() == once
        assert not pacer.paid("never seen", 1.0)
        assert pacer.look().spent == pytest.approx(0.07)


def traffic(seed: int = 0) -> tuple[Prediction, np.ndarray]:
    """Predictions of 2,000 queries, whose dear candidate costs about $0.03, and the real costs."""
    rng = np.random.default_rng(seed)
    n = 2000
    cost = np.column_stack([0.03 * rng.lognormal(0, 0.7, n), 0.001 * rng.lognormal(0, 0.5, n)])
    gain = rng.gamma(1.0, 0.1, n)
    quality = np.column_stack([0.7 + gain, np.full(n, 0.7)])
    actual = cost * rng.lognormal(-0.02, 0.2, cost.shape)
    return Prediction(("dear", "cheap"), quality, np.zeros_like(quality), cost), actual


@pytest.mark.parametrize("paced", [True, False])
def test_the_average_spend_is_the_budget_though_costs_double(tmp_path: Path, paced: bool) -> None:
    prediction, actual = traffic()
    rng = np.random.default_rng(1)
    scale = Scale(per_usd=3.0, ceiling=None)
    spent, told = [], []
    with closing(pacer_in(tmp_path)) as pacer:
        for number, row in enumerate(rng.integers(len(prediction), size=10_000)):
            charge = pacer.charge if paced else 0.0
            chosen = Utility(scale.cost_weight(charge)).choose(prediction.take([row]))[0]
            spent.append(actual[row, chosen] * (2 if number >= 5000 else 1))
            assert prediction.cost is not None
            pacer.book([(str(number), float(prediction.cost[row, chosen]))])
            told.append((str(number), float(spent[-1])))
            if len(told) > 10:  # the invoice comes ten queries later
                pacer.paid(*told.pop(0))
    mean = float(np.mean(spent))
    if paced:
        assert mean == pytest.approx(BUDGET, rel=0.02)
    else:
        assert mean > 3 * BUDGET


BOOKING = """
import sys
from pathlib import Path
from router.serving.live_settings import PacerSettings
from router.serving.pacer import Pacer
name, state, most = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
pacer = Pacer(PacerSettings(budget=0.01, state=state))
for number in range(most):
    pacer.book([(f"{name}-{number}", 0.02)])
    if number == 20:
        print("booking", flush=True)
pacer.close()
"""


def booking(name: str, state: Path, most: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", BOOKING, name, str(state), str(most)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_two_processes_keep_one_account_and_one_of_them_may_be_killed(tmp_path: Path) -> None:
    state = tmp_path / "pacer.db"
    with (
        booking("doomed", state, 10_000_000) as doomed,
        booking("steady", state, 400) as steady,
    ):
        assert doomed.stdout is not None
        assert doomed.stdout.readline() == "booking\n"
        doomed.send_signal(signal.SIGKILL)
        assert doomed.wait() == -signal.SIGKILL
        assert steady.wait() == 0
    with closing(pacer_in(tmp_path)) as pacer:
        pace = pacer.look()
    with closing(sqlite3.connect(state)) as database:
        names = [name for (name,) in database.execute("SELECT request_id FROM booked")]
    of_doomed = [name for name in names if name.startswith("doomed")]
    assert len([name for name in names if name.startswith("steady")]) == 400
    assert len(of_doomed) > 20
    assert pace.decided == len(names) == len(set(names))
    assert pace.spent == pytest.approx(0.02 * len(names))
    assert pace.charge > 0


def test_a_restart_goes_on_and_another_budget_owes_nothing(tmp_path: Path) -> None:
    with closing(pacer_in(tmp_path)) as pacer:
        pacer.book([(str(number), 0.05) for number in range(20)])
        before = pacer.look()
    assert before.owed == pytest.approx(20 * 0.04)
    with closing(pacer_in(tmp_path)) as pacer:
        assert pacer.look() == before
        assert pacer.charge == before.charge > 0
        assert pacer.paid("19", 0.06)
    with closing(pacer_in(tmp_path, budget=0.02)) as pacer:
        assert pacer.look().owed == 0


def test_the_charge_stays_between_nothing_and_the_most(tmp_path: Path) -> None:
    with closing(pacer_in(tmp_path)) as pacer:
        pacer.book([(f"cheap{number}", 0.0) for number in range(500)])
        assert pacer.charge == 0
        assert pacer.look().owed == pytest.approx(-100 * BUDGET)
        pacer.book([(f"dear{number}", 1000.0) for number in range(500)])
        assert pacer.charge == PacerSettings().most
        assert pacer.describe()["at_most"] is True


def test_a_clock_that_goes_backwards_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = [("a", 0.02), ("b", 0.03), ("c", 0.001)]
    with closing(pacer_in(tmp_path / "steady")) as pacer:
        pacer.book(costs)
        expected = pacer.look()
    backwards = iter(range(1_000_000, 0, -1))
    monkeypatch.setattr(time, "time", lambda: float(next(backwards)))
    with closing(pacer_in(tmp_path / "backwards")) as pacer:
        pacer.book(costs)
        assert pacer.look() == expected


def test_a_state_that_fails_is_counted_and_the_charge_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(pacer_in(tmp_path)) as pacer:
        pacer.book([("a", 0.05)])
        charge = pacer.charge
        with closing(sqlite3.connect(tmp_path / "pacer.db")) as vandal:
            vandal.execute("DROP TABLE pace")
        pacer.book([("b", 0.05)])
        pacer.book([("c", 0.05)])
        assert not pacer.paid("a", 0.01)
        assert pacer.charge == charge > 0
        assert pacer.failures == 3
    assert len(caplog.records) == 1


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pacer.db").write_text("not a database, but some text that is long enough\n" * 9)
    with pytest.raises(RouterError, match=r"pacer\.db: cannot hold .*live\.pacer\.state"):
        pacer_in(tmp_path)


@given(charge=st.floats(0, 10), per_usd=st.floats(1e-6, 1e6))
def test_the_weight_is_in_proportion_near_nothing_and_grows_by_factors(
    charge: float, per_usd: float
) -> None:
    scale = Scale(per_usd, None)
    assert scale.cost_weight(0) == 0
    assert scale.cost_weight(1e-6) == pytest.approx(per_usd * 1e-6, rel=1e-5)
    # One more adds per_usd and multiplies by e.
    assert scale.cost_weight(charge + 1) == pytest.approx(
        math.e * (scale.cost_weight(charge) + per_usd) - per_usd
    )
