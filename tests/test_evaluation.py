"""The evaluation: the same folds for all, interruption, failures, tables of other versions, statistics, and the commands."""
import json
import logging
import re
import shutil
import time
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin

from commands import Command
from sjepa_nb import evaluation
from sjepa_nb.command_line import sjepa_evaluate, sjepa_finetune, sjepa_plot
from sjepa_nb.evaluation import (
    NO_PRETRAINING, RESULTS, Pipeline, Task, baselines, chance_of, compare, cross_validate, evaluate,
    plot_ranking, plot_scores, rank_pipelines, read_results, simulated_tasks, sjepa_pipelines,
    summarise, to_moabb, ways,
)
from sjepa_nb.finetuning import SJEPAClassifier
from sjepa_nb.heads import HEADS
from sjepa_nb.montage import lee2019_montage, named_montage
from sjepa_nb.model import SJEPA, SJEPAConfig
from sjepa_nb.simulation import SimulatedMI, SimulatedSSVEP

SMALL = SJEPAConfig(depth=1, predictor_depth=1, hidden=32, average_layers=1)
QUICK = dict(epochs=2, patience=2, warmup_epochs=1)
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    "A file of random weights, small."
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    SJEPA(lee2019_montage(), SMALL).save(path)
    return path


@pytest.fixture(scope="module")
def tasks(): return [Task("MI", SimulatedMI(2, n_trials=12), (1, 2))]


@pytest.fixture(scope="module")
def table(weights, tasks, tmp_path_factory):
    return evaluate(tasks, {"1s-60%": weights, NO_PRETRAINING: None}, tmp_path_factory.mktemp("sweep"), folds=2, progress=False, **QUICK)


# ---------------------------------------------------------------- the table

def test_one_row_a_fold(table):
    ours = {f"{name}-{s}-{h}" for name in ("1s-60%", NO_PRETRAINING) for s, h in ways()}
    assert len(ours) == 14 and f"{NO_PRETRAINING}-probe-pre-local" in ours
    ways_of_all = ours | {"tangent space + LR", "CSP + LDA", "EEGNet"}
    assert set(table.pipeline) == ways_of_all and list(table) == list(RESULTS)
    assert (table.groupby(["pipeline", "subject"]).fold.nunique() == 2).all() and len(table) == len(ways_of_all) * 4
    assert (table.error == "").all() and table.score.between(0, 1).all() and (table.chance == .5).all() and (table.trials + table.test_trials == 12).all()
    new = table[table.pipeline == "1s-60%-new-post-local"]
    assert set(new.parameters) == {4 * 63 + (4 * 4 * 64 + 1) * 2} and set(table[table.pipeline == "1s-60%-full-post-local"].parameters) == {4 * 63 + (4 * 4 * 64 + 1) * 2 + 13840}


def test_all_pipelines_see_the_same_folds():
    seen = {}

    class Spy(ClassifierMixin, BaseEstimator):
        def __init__(self, name="a"): self.name = name
        def fit(self, X, y): self.classes_ = np.unique(y); seen.setdefault(self.name, []).append(X[:, 0, 0]); return self
        def predict(self, X): return np.repeat(self.classes_[0], len(X))

    X, y = np.arange(20)[:, None, None] * np.ones((1, 2, 152)), np.arange(20) % 2
    cross_validate([Pipeline("a", Spy("a")), Pipeline("b", Spy("b"))], X, y, folds=5, dataset="d", paradigm="MI", subject="1", session="1")
    assert all(np.array_equal(a, b) for a, b in zip(seen["a"], seen["b"], strict=True))
    tested = np.concatenate([np.setdiff1d(np.arange(20), f) for f in seen["a"]])
    assert sorted(tested) == list(range(20))  # every trial is tested once, and never trained on in that fold


def test_labels_without_meaning_score_at_chance():
    "A simulation without effect: all pipelines, all paradigms."
    rows = []
    for t in simulated_tasks((1,), n_trials=(40, 60, 40), effect=0.):
        X, y, _, montage = t.load(1)
        X, montage = X[:, ::3], montage.select(montage.names[::3])
        pipelines = [p for p in baselines(t.paradigm, np.unique(y), eegnet=False) + sjepa_pipelines(NO_PRETRAINING, None, montage, t.paradigm, ("pre-local", "post-local"), epochs=12) if p.name != "CCA"]
        rows += cross_validate(pipelines, X, y, evaluation.default_metric(t.paradigm), 4, dataset="d", paradigm=t.paradigm, subject="1", session="1")
    for _, g in pd.DataFrame(rows).groupby(["paradigm", "pipeline"]): assert abs(g.score.mean() - g.chance.mean()) < .25, g


@pytest.mark.parametrize("paradigm,best,subject", [("MI", "CSP + LDA", 7), ("ERP", "xDAWN + Riemann", 12), ("SSVEP", "CCA", 12)])  # 7 is simulated as able to do imagery, 12 is not
def test_the_baselines_work(paradigm, best, subject):
    task = next(t for t in simulated_tasks((subject,), n_trials=(60, 180, 40)) if t.paradigm == paradigm)
    X, y, _, _ = task.load(subject)
    rows = pd.DataFrame(cross_validate(baselines(paradigm, np.unique(y), eegnet=False), X[:, ::2], y, evaluation.default_metric(paradigm), 3, dataset="d", paradigm=paradigm, subject="12", session="1"))
    assert (rows.error == "").all() and rows[rows.pipeline == best].score.mean() > rows.chance.mean() + .2


def test_a_pipeline_that_fails_leaves_a_row_and_the_others_go_on():
    class Broken(ClassifierMixin, BaseEstimator):
        def fit(self, X, y): raise RuntimeError("no reason")

    X, y = np.random.default_rng(0).standard_normal((12, 3, 152)).astype(np.float32) * 10, np.arange(12) % 2
    rows = pd.DataFrame(cross_validate([Pipeline("broken", Broken()), Pipeline("fine", SJEPAClassifier(**QUICK))], X, y, folds=2, dataset="d", paradigm="MI", subject="1", session="1"))
    assert list(rows[rows.pipeline == "broken"].error) == ["RuntimeError: no reason"] * 2 and rows[rows.pipeline == "broken"].score.isna().all()
    assert (rows[rows.pipeline == "fine"].error == "").all()
    assert list(rank_pipelines(rows).columns) == [] or "broken" not in rank_pipelines(rows)


# ---------------------------------------------------------------- interruption

def test_an_interrupted_sweep_goes_on(weights, tasks, table, tmp_path, monkeypatch):
    cell, done = evaluation._cell, []
    def one_then_stop(*a):
        if done: raise KeyboardInterrupt
        done.append(a); return cell(*a)
    monkeypatch.setattr(evaluation, "_cell", one_then_stop)
    with pytest.raises(KeyboardInterrupt): evaluate(tasks, {"1s-60%": weights, NO_PRETRAINING: None}, tmp_path / "s", folds=2, progress=False, **QUICK)
    part = read_results(tmp_path / "s" / "results.csv")
    assert 0 < len(part) < len(table)
    calls = []
    monkeypatch.setattr(evaluation, "_cell", lambda *a: (calls.append(a[2]), cell(*a))[1])
    whole = evaluate(tasks, {"1s-60%": weights, NO_PRETRAINING: None}, tmp_path / "s", folds=2, progress=False, **QUICK)
    assert len(calls) == 5  # of six cells
    key = ["pipeline", "subject", "fold"]
    both = whole.merge(table, on=key)
    assert len(whole) == len(table) == len(both) and np.allclose(both.score_x, both.score_y)
    assert {p.name for p in (tmp_path / "s").iterdir()} == {"results.csv", "sweep.json", ".write"} - {".write"}


def test_the_table_is_in_the_order_of_the_sweep(weights, tasks, tmp_path):
    "Whatever was done first."
    few = dict(heads=("pre-local",), strategies=("full",), with_baselines=False, folds=2, progress=False, **QUICK)
    evaluate(tasks, {NO_PRETRAINING: None}, tmp_path, **few)
    both = evaluate(tasks, {"1s-60%": weights, NO_PRETRAINING: None}, tmp_path, **few)
    assert list(zip(both.subject, both.pretraining, both.fold)) == [(s, n, f) for s in ("1", "2") for n in ("1s-60%", NO_PRETRAINING) for f in (0, 1)]


def test_what_failed_is_tried_again(tasks, tmp_path, monkeypatch):
    load = Task.load
    monkeypatch.setattr(Task, "load", lambda self, s: (_ for _ in ()).throw(OSError("host is down")) if s == 2 else load(self, s))
    evaluation._loaded.cache_clear()
    first = evaluate(tasks, {NO_PRETRAINING: None}, tmp_path, heads=("pre-local",), with_baselines=False, folds=2, progress=False, **QUICK)
    assert list(first[first.subject == "2"].error) == ["OSError: host is down"] and (first[first.subject == "1"].error == "").all()
    assert set(summarise(first).subjects) == {1}; plot_scores(first); to_moabb(first)
    monkeypatch.setattr(Task, "load", load)
    again = evaluate(tasks, {NO_PRETRAINING: None}, tmp_path, heads=("pre-local",), with_baselines=False, folds=2, progress=False, **QUICK)
    assert (again.error == "").all() and set(again.subject) == {"1", "2"} and len(again) == 3 * 2 * 2


def test_several_processes(weights, tasks, table, tmp_path):
    both = evaluate(tasks, {"1s-60%": weights}, tmp_path, heads=("pre-local",), with_baselines=False, folds=2, n_jobs=2, progress=False, **QUICK).merge(table, on=["pipeline", "subject", "fold"])
    assert len(both) == 3 * 2 * 2 and np.allclose(both.score_x, both.score_y)


def test_killed(tmp_path):
    "SIGKILL in the middle: the table is whole, and holds the cells that were finished."
    out = tmp_path / "s"
    p = Command("--subjects", 11, 12, "--paradigm", "MI", "--folds", 3, "--epochs", 3, "--heads", "pre-local", "--no-baselines", "--quiet", "--out", out, command="sjepa_evaluate")
    for _ in range(600):
        if (out / "results.csv").exists(): break
        time.sleep(.1)
    p.kill(); p.communicate()
    assert len(read_results(out / "results.csv")) % 3 == 0


# ---------------------------------------------------------------- what is refused

def test_tables_of_other_versions(table, tmp_path):
    table.drop(columns="chance").to_csv(tmp_path / "old.csv", index=False)
    with pytest.raises(ValueError, match="another version of sjepa_nb"): read_results(tmp_path / "old.csv")
    pd.DataFrame(dict(a=[1])).to_csv(tmp_path / "x.csv")
    with pytest.raises(ValueError, match="another version"): read_results(tmp_path / "x.csv")
    with pytest.raises(FileNotFoundError): read_results(tmp_path / "none.csv")


def test_another_sweep_in_the_same_folder(tasks, tmp_path):
    evaluate(tasks, {NO_PRETRAINING: None}, tmp_path, heads=("pre-local",), with_baselines=False, folds=2, progress=False, **QUICK)
    with pytest.raises(ValueError, match="folds: 2 then, 3 now"): evaluate(tasks, {NO_PRETRAINING: None}, tmp_path, folds=3, progress=False, **QUICK)
    told = json.loads((tmp_path / "sweep.json").read_text()) | dict(version="0.0.1")
    (tmp_path / "sweep.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match="version: 0.0.1 then"): evaluate(tasks, {NO_PRETRAINING: None}, tmp_path, folds=2, progress=False, **QUICK)


def test_more_heads_in_the_same_folder(tasks, tmp_path):
    "They are added; what is there is not computed again."
    more = lambda *heads: evaluate(tasks, {NO_PRETRAINING: None}, tmp_path, heads=heads, with_baselines=False, folds=2, progress=False, **QUICK)
    first = more("pre-local")
    both = more("pre-local", "post-local")
    assert len(both) == len(first) + 2 * 2 * 2 and both.groupby(["pipeline", "subject", "fold"]).size().max() == 1


def test_other_weights_of_the_same_name(weights, tasks, tmp_path):
    go = lambda w: evaluate(tasks, {"a": w}, tmp_path, heads=("post-local",), strategies=("new",), with_baselines=False, folds=2, progress=False, **QUICK)
    go(weights); go(SJEPA.load(weights))
    with pytest.raises(ValueError, match="scores of other weights called a"): go(SJEPA(lee2019_montage(), SMALL))


def test_datasets_keep_their_names():
    t = made_up(dict(a=[[.5]], b=[[.6]]))
    t["dataset"] = ["BNCI2014-001", "BNCI2014-004"]
    assert set(to_moabb(t).dataset) == {"BNCI2014-001", "BNCI2014-004"}
    assert evaluation.short_name("SimulatedMI-86d691f8") == "SimulatedMI"


def test_bad_input(tasks, tmp_path):
    X, y = np.ones((6, 2, 152)), np.array([0, 0, 0, 0, 1, 1])
    with pytest.raises(ValueError, match="3 folds, and 2 trials of class 1"): cross_validate([], X, y, folds=3)
    with pytest.raises(ValueError, match="only one class"): cross_validate([], X, y * 0, folds=3)
    with pytest.raises(ValueError, match="two classes, and here are 3: use accuracy"): cross_validate([], X, np.arange(6) % 3, "roc_auc", folds=2)
    with pytest.raises(ValueError, match="a metric is one of"): cross_validate([], X, y, "f1", folds=2)
    with pytest.raises(FileNotFoundError, match="no pre-trained model"): evaluate(tasks, {"a": tmp_path / "none"}, tmp_path / "o", progress=False)
    with pytest.raises(ValueError, match="epochs is a whole number"): evaluate(tasks, {NO_PRETRAINING: None}, tmp_path / "o", progress=False, epochs=0)
    for k, says in ((dict(scale="standardise"), "a task's"), (dict(limits={"contextual": {}}), "limits are for"), (dict(limits={"full-contextual": dict(epochs=0)}), "epochs is a whole"), (dict(folds=1), "at least 2 folds")):
        with pytest.raises(ValueError, match=says): evaluate(tasks, {NO_PRETRAINING: None}, tmp_path / "o", progress=False, **k)
    assert not (tmp_path / "o").exists()


# ---------------------------------------------------------------- statistics and figures

def made_up(scores):
    "A table with given scores: pipeline → (subjects, folds)."
    blank = dict.fromkeys(RESULTS, "") | dict(paradigm="MI", dataset="D", session="1", chance=.5, metric="accuracy", trials=10, channels=3, fit_seconds=1.)
    return pd.DataFrame([blank | dict(pipeline=p, subject=str(s), fold=f, score=v, head=p.split("-")[-1]) for p, m in scores.items() for s, row in enumerate(m) for f, v in enumerate(row)])


def test_statistics_by_hand():
    t = made_up(dict(a=[[.9, .7], [.6, .6]], b=[[.5, .5], [.5, .7]]))
    means = summarise(t).set_index("pipeline")
    assert np.allclose(means.loc["a", ["mean", "low", "high"]].astype(float), [.7, .6, .8]) and np.isclose(means.loc["b", "sd"], .1 / 2**.5)
    c = compare(t, "a", "b").set_index("paradigm")
    assert c.loc["all", "subjects"] == 2
    assert np.isclose(c.loc["MI", "difference"], (.3 + 0) / 2) and c.loc["MI", "subjects"] == 2
    ranks = rank_pipelines(t)
    assert list(ranks.columns) == ["a", "b"] and sorted(ranks["a"]) == [1, 1, 1, 2]
    with pytest.raises(ValueError, match="no pipeline x"): compare(t, "a", "x")


def test_a_real_difference_is_found_and_chance_is_not():
    rng = np.random.default_rng(0)
    base = rng.uniform(.5, .8, (12, 5))
    t = made_up(dict(a=base + .1 + rng.normal(0, .01, base.shape), b=base, c=base + rng.normal(0, .02, base.shape)))
    assert compare(t, "a", "b").p.iloc[0] < .01 < .05 < compare(t, "c", "b").p.iloc[0]


def test_figures_and_moabb(table):
    from moabb.analysis import plotting
    from moabb.analysis.meta_analysis import compute_dataset_statistics, find_significant_differences
    assert len(plot_scores(table).axes) == 1 and len(plot_ranking(table).axes[0].patches) == 14 * 14
    m = to_moabb(table)
    stats = compute_dataset_statistics(m)
    find_significant_differences(stats)
    plotting.score_plot(m); plotting.paired_plot(m, "CSP + LDA", "1s-60%-new-pre-local"); plotting.meta_analysis_plot(stats, "CSP + LDA", "1s-60%-new-pre-local")


# ---------------------------------------------------------------- the commands

def call(capfd, command, *argv):
    code = command([str(a) for a in argv])
    return code, *capfd.readouterr()


def test_finetune(weights, tmp_path, capfd):
    code, out, err = call(capfd, sjepa_finetune, "--weights", weights, "--subjects", 11, "--paradigm", "SSVEP", "--folds", 2, "--epochs", 2, "--head", "contextual", "--strategy", "new", "--out", tmp_path / "f")
    assert (code, err) == (0, "") and "accuracy" in out and "chance 0.25" in out
    file = next((tmp_path / "f").glob("SSVEP*.safetensors"))
    clf = SJEPAClassifier.load(file)
    X, y, _, _ = simulated_tasks((11,))[2].load(11)
    assert clf.predict(X).shape == y.shape and set(clf.classes_) == set(y)
    assert len(read_results(tmp_path / "f" / "results.csv")) == 2
    code, _, err = call(capfd, sjepa_finetune, "--out", tmp_path / "f")
    assert code == 2 and "holds results already" in err


def test_evaluate_and_plot(weights, tmp_path, capfd):
    args = ("--weights", f"1s-60%={weights}", "--subjects", 11, "--paradigm", "MI", "--folds", 2, "--epochs", 2, "--heads", "pre-local", "--out", tmp_path / "e", "--quiet")
    code, out, err = call(capfd, sjepa_evaluate, *args)
    assert code == 0, err
    assert "1s-60%-new-pre-local" in out and "chance" in out and "CSP + LDA" in out
    assert {p.name for p in (tmp_path / "e").iterdir()} == {"results.csv", "sweep.json", "ranking.png", "scores.png"}
    code, out, err = call(capfd, sjepa_plot, tmp_path / "e", "--out", tmp_path / "figures")
    assert code == 0 and {p.name for p in (tmp_path / "figures").iterdir()} == {"ranking.png", "scores.png"}
    code, _, err = call(capfd, sjepa_plot, tmp_path)
    assert code == 2 and "neither a pre-training" in err


@pytest.mark.parametrize("argv,says", [
    (["--dataset", "Nothing"], "Nothing"), (["--weights", "no/such/place"], "neither a folder nor"), (["--epochs", "0"], "epochs is a whole number"),
    (["--dataset", "PhysionetMI", "--subjects", "400"], "has no subject 400"), (["--dataset", "PhysionetMI", "--paradigm", "SSVEP", "--subjects", "1"], "nothing could be scored"), (["--events", "hands"], "not for simulated ones"), (["--device", "cuda:7"], "no CUDA device"),
    (["--folds", "1"], "at least 2 folds")], ids=lambda v: str(v)[:40])
def test_wrong_commands(argv, says, tmp_path, capfd):
    code, _, err = call(capfd, sjepa_evaluate, *argv, "--quiet", "--out", tmp_path / "o")
    assert code == 2 and err.count("\n") == 1 and says in err


def test_names_from_runs(weights, tmp_path):
    from sjepa_nb.runs import weights_of
    (tmp_path / "run").mkdir(); shutil.copy(weights, tmp_path / "run"); (tmp_path / "run" / "run.json").write_text(json.dumps(dict(data=dict(samples=2072), training=dict(radius=.6))))
    assert list(weights_of([str(tmp_path / "run")])) == ["16s-60%"]
    with pytest.raises(ValueError, match="two --weights are called 16s-60%"): weights_of([str(tmp_path / "run")] * 2)


# ---------------------------------------------------------------- real recordings

def test_other_channels_rate_and_unit(real_data, tmp_path):
    "Weights of 64 channels, 8 channels of SSVEPExo in an unknown unit: every pipeline, one subject."
    torch.manual_seed(0)
    table = evaluate([Task("SSVEP", "Kalunga2016", (1,), ("13", "17", "21"), "standardise")], {"4s-60%": SJEPA(lee2019_montage(), SMALL)}, tmp_path, folds=2, progress=False, **QUICK)
    assert (table.error == "").all() and set(table.channels) == {8} and {"CCA", "tangent space + LR"} < set(table.pipeline)
    assert table[table.pipeline == "CCA"].score.mean() > .6
