"""`router add-candidate`: a new LLM joins a finished run from 20 to 200 labelled queries."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from router.artifact.export import ROUNDING, Description, write_artifact
from router.artifact.manifest import amend_manifest, read_manifest
from router.artifact.runtime import Router
from router.encoding.cache import encode_cached
from router.errors import RouterError
from router.estimators.base import require_takes_candidates
from router.estimators.head import Head
from router.evaluation.baselines import Baselines
from router.evaluation.validation import validation_figures
from router.outcomes.files import read_table
from router.outcomes.fingerprint import fingerprint
from router.outcomes.matrix import OutcomeMatrix, build_matrix
from router.outcomes.prices import Price, PriceTable
from router.outcomes.splits import Split, grouped_folds
from router.outcomes.table import check_table
from router.pipelines.cluster_report import cluster_names, cluster_report, print_cluster_report
from router.pipelines.console import console
from router.pipelines.label_first import Clusters, label_first
from router.pipelines.run_folder import output_folder, run_folder, shown
from router.pipelines.train import Parts, Settings, Trained, fit, write_validation
from router.pipelines.values import text_or_null, whole_number
from router.prediction import Prediction
from router.staging import staged_file

log = logging.getLogger(__name__)

FEWEST_PROMPTS = 5
FEW_PROMPTS = 20
ALIKE = 0.99  # share of queries that a rebuilt head must predict as the exported one does


@dataclass(frozen=True)
class Labels:
    """Outcomes of one new model. path: their table. prices: YAML price table with the model's
    price, where the log is priced by tokens."""

    path: Path
    prices: Path | None
    table: pd.DataFrame

    @classmethod
    def read(cls, path: str, prices: str | None) -> Labels:
        """Raises RouterError where the table is faulty or holds several models."""
        if not Path(path).is_file():
            raise RouterError(
                f"labels={path}: no such file; give a table of the new model's scores."
            )
        table = check_table(read_table(path), path)
        models = sorted(table["model"].unique())
        if len(models) != 1:
            raise RouterError(
                f"labels={path}: outcomes of {len(models)} models ({', '.join(models)}); give the "
                "new one's alone, and add several one after the other."
            )
        return cls(Path(path), Path(prices) if prices else None, table)

    @property
    def model(self) -> str:
        return str(self.table["model"].iloc[0])

    def joined(self, outcomes: OutcomeMatrix) -> OutcomeMatrix:
        """The outcomes with one more candidate, the last; prompts new to the log come last too.

        Raises RouterError where the model, a prompt or a price does not fit the log.
        """
        source = f"labels={self.path}"
        if self.model in outcomes.candidates:
            raise RouterError(f"{source}: {self.model!r} is a candidate of the run already.")
        prompts = dict(zip(outcomes.queries["query_id"], outcomes.prompts, strict=True))
        for query, prompt in zip(self.table["query_id"], self.table["prompt"], strict=True):
            if prompts.get(query, prompt) != prompt:
                raise RouterError(
                    f"{source}: query_id {query!r} has another prompt in the run's log; give the "
                    "log's prompt, or a query_id of its own."
                )
        known_table = outcomes.to_table()
        needed = [] if outcomes.cost is None else ["cost_usd"]
        if outcomes.prices is not None:
            needed = ["input_tokens", "output_tokens"]
        for column in needed:
            if column not in self.table or self.table[column].isna().any():
                raise RouterError(
                    f"{source}: column '{column}' is missing, in some rows or in all; the run "
                    "predicts cost by it, so log it here too."
                )
        # What the log does not have, a single model's labels cannot teach.
        own = self.table[[name for name in self.table if name in known_table]]
        table = pd.concat([known_table, own], ignore_index=True)
        prices = None
        if outcomes.prices is not None:
            known = {
                name: Price(1e6 * price[0], 1e6 * price[1], date)
                for name, price, date in zip(
                    outcomes.candidates, outcomes.prices.tolist(), outcomes.price_dates, strict=True
                )
            }
            if self.prices is None:
                raise RouterError(
                    f"{source}: the run's log is priced by tokens; give prices=FILE.yaml with the "
                    f"price of {self.model!r}."
                )
            given = PriceTable.read(self.prices)
            given.of([self.model])
            prices = PriceTable({**known, self.model: given.prices[self.model]}, str(self.prices))
        return build_matrix(table, prices, (*outcomes.candidates, self.model), source)


@dataclass(frozen=True)
class Opened:
    """A finished run's configuration and log. outcomes: of the log, and of the candidates added
    since; their prompts that were new stand behind the log's. split: rows of the log."""

    folder: Path
    config: DictConfig
    manifest: dict[str, Any]
    parts: Parts
    settings: Settings
    outcomes: OutcomeMatrix
    split: Split

    @classmethod
    def of(cls, folder: Path) -> Opened:
        """Raises RouterError where the run is not complete or its log is not the one it saw."""
        if not (folder / "artifact").is_dir() or not (folder / "config.yaml").is_file():
            raise RouterError(f"{folder}: no finished run with an artifact here; give run=FOLDER.")
        manifest = read_manifest(folder / "artifact")
        loaded = OmegaConf.load(folder / "config.yaml")
        assert isinstance(loaded, DictConfig)
        parts = Parts.of(loaded)
        outcomes = parts.data.load()
        if outcomes.fingerprint != manifest["data"]["sha256"]:
            raise RouterError(
                f"{folder}: its log {parts.data.name} has changed since (other SHA-256), so its "
                "head cannot be rebuilt; restore the log, or train anew."
            )
        split = parts.split(outcomes)
        return cls(folder, loaded, manifest, parts, Settings.of(loaded), outcomes, split)

    @property
    def added(self) -> list[dict[str, Any]]:
        """labels, prices and sha256 of every candidate that joined since training."""
        entries: Any = OmegaConf.to_container(self.config.get("added") or OmegaConf.create([]))
        return list(entries)

    def vectors(self, rows: np.ndarray, outcomes: OutcomeMatrix | None = None) -> np.ndarray:
        """(k, d) vectors of the queries; those of the log lie in the cache."""
        prompts = (self.outcomes if outcomes is None else outcomes).take(rows).prompts
        return encode_cached(self.parts.encoder, prompts)

    def to_learn_from(self, joined: OutcomeMatrix) -> np.ndarray:
        """Rows that hold a label of the last candidate and share no prompt or group with the test
        side, which is to judge it."""
        observed = joined.observed[:, -1]
        on_test = np.isin(joined.groups, joined.groups[self.split.test])
        if (observed & on_test).any():
            log.info(
                "%d labels left out: their prompt or group stands on the test side.",
                int((observed & on_test).sum()),
            )
        return np.flatnonzero(observed & ~on_test)


@dataclass(frozen=True)
class Run:
    """An opened run with its head, as it was exported or with candidates added.

    seen: rows of the outcomes from which something was learned. labelled: those of them that taught
    the last candidate.
    """

    opened: Opened
    trained: Trained
    outcomes: OutcomeMatrix
    seen: np.ndarray
    labelled: np.ndarray

    @classmethod
    def restored(cls, opened: Opened) -> Run:
        """Fit again what the run fitted, add what was added since, and compare with its artifact.

        Raises RouterError where the rebuilt head is not the exported one.
        """
        require_takes_candidates(opened.parts.head.quality)
        trained = fit(opened.parts, opened.settings, opened.outcomes, opened.split)
        train = opened.split.train
        run = cls(opened, trained, opened.outcomes, train, np.array([], dtype=int))
        for entry in opened.added:
            labels = Labels.read(entry["labels"], entry["prices"])
            if fingerprint(labels.table) != entry["sha256"]:
                raise RouterError(
                    f"{opened.folder}: its labels {entry['labels']} have changed since (other "
                    "SHA-256); restore them, or train anew."
                )
            run = run.with_candidate(labels)
        run._require_the_exported_head()
        return run

    def _require_the_exported_head(self) -> None:
        vectors = self.opened.vectors(self.opened.split.train)
        served = Router(self.opened.folder / "artifact").predict(vectors)
        rebuilt = self.trained.head.predict(vectors)
        alike = served.candidates == self.outcomes.candidates and (
            np.isclose(rebuilt.quality, served.quality, rtol=0, atol=ROUNDING).all(axis=1).mean()
            >= ALIKE
        )
        if not alike:
            raise RouterError(
                f"{self.opened.folder}: the head rebuilt from its log is not the one that it "
                "exported; another version of the software, or another machine's vectors, made "
                "it, so train anew here."
            )

    def validated(self) -> np.ndarray:
        """Rows of the queries that tuned the policy."""
        row_of = {query: row for row, query in enumerate(self.opened.outcomes.queries["query_id"])}
        return np.array([row_of[query] for query in self.trained.validation.queries["query_id"]])

    def with_candidate(self, labels: Labels) -> Run:
        """The run with one more candidate, the policy tuned anew.

        Where a validation query shares a prompt or group with a label, the new candidate is
        predicted from the other folds' labels there. Its outcomes that validation did not see are
        replaced by its predictions, as everywhere.
        """
        opened, trained = self.opened, self.trained
        joined = labels.joined(self.outcomes)
        rows = opened.to_learn_from(joined)
        groups = joined.groups[rows]
        if len(np.unique(groups)) < FEWEST_PROMPTS:
            raise RouterError(
                f"labels={labels.path}: {len(np.unique(groups))} different prompts off the test "
                f"side; label at least {FEWEST_PROMPTS}, better 50 (router add-candidate "
                "suggest=50 names them)."
            )
        if len(np.unique(groups)) < FEW_PROMPTS:
            log.warning("Fewer than %d labels say little; see the intervals.", FEW_PROMPTS)
        X = opened.vectors(rows, joined)
        head = _with_candidate(trained.head, X, joined.take(rows))
        validated = self.validated()
        V = opened.vectors(validated)
        column = head.predict(V)
        for others, held_out in grouped_folds(
            groups, opened.settings.folds, opened.settings.random_state
        ):
            fold_head = _with_candidate(trained.head, X[others], joined.take(rows[others]))
            here = np.isin(joined.groups[validated], groups[held_out])
            if here.any():
                column = _replaced(column, here, fold_head.predict(V[here]))
        prediction = _joined(trained.validation_prediction, column)
        validation = joined.take(validated)
        policy = opened.parts.policy.tune(prediction, validation)
        seen = np.union1d(self.seen, rows)
        baselines = Baselines.fit(joined.take(seen), policy)
        grown = Trained(head, policy, baselines, validation, prediction)
        return Run(opened, grown, joined, seen, rows)


def _with_candidate(head: Head, X: np.ndarray, outcomes: OutcomeMatrix) -> Head:
    """The fitted head with the outcomes' last candidate, all of whose outcomes are known."""
    name = outcomes.candidates[-1]
    grown = copy.copy(head)
    grown.quality_ = head.quality_.with_candidate(name, X, outcomes.scores[:, -1])
    if head.cost_ is not None and outcomes.cost is not None:
        amounts = outcomes.cost[:, -1:] if outcomes.tokens is None else outcomes.tokens[:, -1]
        price = None if outcomes.prices is None else outcomes.prices[-1]
        grown.cost_ = head.cost_.with_candidate(name, X, amounts, price)
    if head.latency_ is not None:
        seconds = np.full(len(X), np.nan) if outcomes.latency is None else outcomes.latency[:, -1]
        known = ~np.isnan(seconds)
        if not known.any():
            raise RouterError(f"The run predicts latency; log latency_s of {name!r} too.")
        grown.latency_ = head.latency_.with_candidate(name, X[known], seconds[known, None])
    return grown


def _replaced(prediction: Prediction, rows: np.ndarray, by: Prediction) -> Prediction:
    """The prediction with other numbers in the given rows (n True and False)."""

    def mixed(ours: np.ndarray | None, theirs: np.ndarray | None) -> np.ndarray | None:
        if ours is None or theirs is None:
            return ours
        ours = ours.copy()
        ours[rows] = theirs
        return ours

    return _mapped(mixed, prediction, by, prediction.candidates)


def _joined(known: Prediction, grown: Prediction) -> Prediction:
    """The known candidates as `known` says, the last one as `grown` does."""

    def mixed(ours: np.ndarray | None, theirs: np.ndarray | None) -> np.ndarray | None:
        return None if ours is None or theirs is None else np.hstack([ours, theirs[:, -1:]])

    return _mapped(mixed, known, grown, grown.candidates)


def _mapped(
    mixed: Any, one: Prediction, two: Prediction, candidates: tuple[str, ...]
) -> Prediction:
    names = ("quality", "quality_se", "cost", "latency")
    return Prediction(candidates, *(mixed(getattr(one, n), getattr(two, n)) for n in names))


def add_candidate(config: DictConfig) -> None:
    """Add the model of `labels` to `run`, into a new run folder; or, with `suggest`, write a table
    of the queries to label first to `out`."""
    path, prices = text_or_null(config, "labels"), text_or_null(config, "prices")
    if path is None and config.suggest is None:
        raise RouterError(
            "Give labels=FILE with the new model's outcomes, or suggest=100 for a table of the "
            "queries to label first."
        )
    labels = None if path is None else Labels.read(path, prices)
    out = Path(str(config.out))
    n_labels = None
    if config.suggest is not None:
        n_labels = whole_number(config, "suggest", least=1)
        if out.exists():
            raise RouterError(f"{out}: there already; give another file with out=FILE.csv.")
    opened = Opened.of(Path(str(config.run)))
    if n_labels is not None:
        _suggest(opened, labels, n_labels, out)
        return
    assert labels is not None
    run = Run.restored(opened)
    grown = run.with_candidate(labels)
    sha256 = fingerprint(labels.table)
    entry = {"labels": path, "prices": prices, "sha256": sha256}
    report = _report(grown)
    expected = validation_figures(
        grown.trained.policy, grown.trained.validation_prediction, grown.trained.validation
    )
    with run_folder(output_folder()) as folder:
        with console.status("Exporting"):
            _write_artifact(folder / "artifact", grown, labels.model, sha256, expected)
        write_validation(folder / "validation.parquet", grown.trained)
        report.to_csv(folder / "clusters.csv", index=False)
        kept = OmegaConf.merge(opened.config, {"added": [*opened.added, entry]})
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(kept), encoding="utf-8")
    print_cluster_report(labels.model, report)
    _print_change(run.trained, grown.trained)
    artifact = shown(output_folder()) / "artifact"
    console.print(f"Artifact   {artifact}; judge it with router evaluate artifact={artifact}")


def _suggest(opened: Opened, labels: Labels | None, n_labels: int, out: Path) -> None:
    """Write the queries of the train side to label next, with empty columns to fill in."""
    outcomes, rows = opened.outcomes, opened.split.train
    known, labelled = outcomes.scores, np.array([], dtype=int)
    new_scores = np.array([])
    if labels is not None:
        joined = labels.joined(outcomes)
        taught = opened.to_learn_from(joined)
        rows = np.union1d(rows, taught)
        outcomes, known = joined, joined.scores[:, :-1]
        labelled, new_scores = np.searchsorted(rows, taught), joined.scores[taught, -1]
    clusters = Clusters.of(opened.vectors(rows, outcomes))
    first = label_first(clusters, known[rows], n_labels, labelled, new_scores)
    queries = outcomes.queries.iloc[rows[first]]
    table = queries[[name for name in ("query_id", "prompt", "task") if name in queries]].copy()
    table["model"] = "" if labels is None else labels.model
    empty = ["score"]
    if outcomes.tokens is not None:
        empty += ["input_tokens", "output_tokens"]
    elif outcomes.cost is not None:
        empty += ["cost_usd"]
    if outcomes.latency is not None:
        empty += ["latency_s"]
    with staged_file(out) as staged:
        table.assign(**dict.fromkeys(empty, "")).to_csv(staged, index=False)
    console.print(f"Written    {out}: {len(table)} queries, in turn from every cluster of the log")
    console.print(
        f"Next       fill in {', '.join(['model', *empty])}, then add-candidate labels={out}"
    )


class _Exported:
    """The encoder as the run exported it: nothing of the query side changes."""

    def __init__(self, artifact: Path):
        self.artifact = artifact

    def export(self) -> Path:
        return self.artifact


def _write_artifact(
    folder: Path, run: Run, name: str, sha256: str, expected: dict[str, float | None]
) -> None:
    folder.mkdir()
    opened, trained, outcomes = run.opened, run.trained, run.outcomes
    prices = opened.manifest["prices"]
    if outcomes.prices is not None:
        price = 1e6 * outcomes.prices[-1]
        date = outcomes.price_dates[-1]
        asked, answered = map(float, price)
        prices = {**prices, name: {"input": asked, "output": answered, "date": date}}
    data = opened.manifest["data"]
    data = {**data, "added": {**data.get("added", {}), name: sha256}}
    write_artifact(
        folder,
        _Exported(opened.folder / "artifact"),
        trained.head,
        trained.policy,
        outcomes.candidates,
        Description(prices=prices, data=data, baselines=trained.baselines.to_dict()),
    )
    amend_manifest(folder, validation=expected)


def _report(run: Run) -> pd.DataFrame:
    opened, outcomes = run.opened, run.outcomes
    train = opened.split.train
    X = opened.vectors(train)
    clusters = Clusters.of(X)
    names = cluster_names(clusters, X, opened.outcomes.take(train))
    chosen = run.trained.policy.probabilities(run.trained.validation_prediction)[:, -1]
    return cluster_report(
        clusters,
        names,
        opened.outcomes.take(train),
        clusters.nearest(opened.vectors(run.labelled, outcomes)),
        outcomes.scores[run.labelled, -1],
        clusters.nearest(opened.vectors(run.validated())),
        chosen,
    )


def _print_change(before: Trained, after: Trained) -> None:
    """Shares, quality and cost on validation, before and after."""
    for title, trained in (("Before", before), ("After", after)):
        prediction = trained.validation_prediction
        figures = validation_figures(trained.policy, prediction, trained.validation)
        shares = trained.policy.probabilities(prediction).mean(axis=0)
        traffic = ", ".join(
            f"{prediction.candidates[j]} {shares[j]:.1%}"
            for j in np.argsort(-shares, kind="stable")
        )
        cost = "" if figures["cost"] is None else f", ${1000 * figures['cost']:.4f} per 1,000"
        console.print(f"{title:<10} quality {figures['quality']:.4f}{cost} expected; {traffic}")
