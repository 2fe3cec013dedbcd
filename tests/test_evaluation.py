"""The evaluation: the same folds for all, interruption, failures, tables of other versions,
statistics, and the commands."""
import json
import shutil
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone

from commands import Command
from sjepa_nb import evaluation, runs
from sjepa_nb.command_line import sjepa_evaluate, sjepa_finetune, sjepa_plot
from sjepa_nb.evaluation import (
    BLANK, NO_PRETRAINING, RESULTS, Pipeline, Task, baselines, compare, cross_validate,
    default_metric, evaluate, paired_interval, pipeline_colours, plot_ranking, plot_scores,
    rank_pipelines, read_results, simulated_tasks, sjepa_pipelines, summarise, to_moabb, ways,
)
from sjepa_nb.finetuning import SJEPAClassifier
from sjepa_nb.montage import lee2019_montage
from sjepa_nb.model import SJEPA, SJEPAConfig
from sjepa_nb.options import Pretrain
from sjepa_nb.runs import probes_of
from sjepa_nb.simulation import SimulatedMI

SMALL = SJEPAConfig(depth=1, predictor_depth=1, hidden=32, average_layers=1)
QUICK = dict(epochs=2, patience=2, warmup_epochs=1)
SHORT = dict(folds=2, progress=False, **QUICK)
ONE_HEAD = dict(heads=("pre-local",), with_baselines=False, **SHORT)
HERE = dict(dataset="d", subject="1", session="1")
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
    pretrainings = {"1s-60%": weights, NO_PRETRAINING: None}
    return evaluate(tasks, pretrainings, tmp_path_factory.mktemp("sweep"), **SHORT)


def scores(pipelines, X, y, *protocol, paradigm="MI", **more):
    "The table of one subject."
    about = HERE | dict(paradigm=paradigm)
    return pd.DataFrame(cross_validate(pipelines, X, y, *protocol, **about, **more))


# ---------------------------------------------------------------- the table

def test_one_row_a_fold(table):
    ours = {f"{name}-{s}-{h}" for name in ("1s-60%", NO_PRETRAINING) for s, h in ways()}
    assert len(ours) == 14 and f"{NO_PRETRAINING}-probe-pre-local" in ours
    ways_of_all = ours | {"tangent space + LR", "CSP + LDA", "EEGNet"}
    assert set(table.pipeline) == ways_of_all and list(table) == list(RESULTS)
    assert (table.groupby(["pipeline", "subject"]).fold.nunique() == 2).all()
    assert len(table) == len(ways_of_all) * 4
    assert (table.error == "").all() and table.score.between(0, 1).all()
    assert (table.chance == .5).all() and (table.trials + table.test_trials == 12).all()


def test_the_table_says_how_much_was_trained(table):
    spatial, linear, local_encoder = 4 * 63, (4 * 4 * 64 + 1) * 2, 13840
    parameters = table.groupby("pipeline").parameters.unique()
    assert parameters["1s-60%-new-post-local"] == [spatial + linear]
    assert parameters["1s-60%-full-post-local"] == [spatial + linear + local_encoder]
    assert parameters["1s-60%-new-pre-local"] == [linear]  # its filters are held
    assert parameters["1s-60%-full-pre-local"] == [linear + local_encoder]


class Spy(ClassifierMixin, BaseEstimator):
    "Says the first class, and remembers the trials that it learned from."
    seen = {}

    def __init__(self, name="a"): self.name = name

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.seen.setdefault(self.name, []).append(X[:, 0, 0])
        return self

    def predict(self, X): return np.repeat(self.classes_[0], len(X))


class Broken(ClassifierMixin, BaseEstimator):
    def fit(self, X, y): raise RuntimeError("no reason")


def test_all_pipelines_see_the_same_folds():
    X, y = np.arange(20)[:, None, None] * np.ones((1, 2, 152)), np.arange(20) % 2
    Spy.seen.clear()
    scores([Pipeline("a", Spy("a")), Pipeline("b", Spy("b"))], X, y)
    a, b = Spy.seen["a"], Spy.seen["b"]
    assert all(np.array_equal(x, z) for x, z in zip(a, b, strict=True))
    tested = np.concatenate([np.setdiff1d(np.arange(20), f) for f in a])
    assert sorted(tested) == list(range(20))  # every trial is tested once, and not trained on then


def test_labels_without_meaning_score_at_chance():
    "A simulation without effect: all pipelines, all paradigms."
    rows = []
    for t in simulated_tasks((1,), n_trials=(40, 60, 40), effect=0.):
        X, y, _, montage = t.load(1)
        X, montage = X[:, ::3], montage.select(montage.names[::3])
        heads = "pre-local", "post-local"
        pipelines = sjepa_pipelines(NO_PRETRAINING, None, montage, t.paradigm, heads, epochs=12)
        field = baselines(t.paradigm, np.unique(y), eegnet=False)
        pipelines += [p for p in field if p.name != "CCA"]
        rows.append(scores(pipelines, X, y, default_metric(t.paradigm), 4, paradigm=t.paradigm))
    for _, g in pd.concat(rows).groupby(["paradigm", "pipeline"]):
        assert abs(g.score.mean() - g.chance.mean()) < .25, g


@pytest.mark.parametrize("paradigm,best,subject", [
    ("MI", "CSP + LDA", 7),  # is simulated as able to do imagery, 12 is not
    ("ERP", "xDAWN + Riemann", 12),
    ("SSVEP", "CCA", 12),
])
def test_the_baselines_work(paradigm, best, subject):
    tasks = {t.paradigm: t for t in simulated_tasks((subject,), n_trials=(60, 180, 40))}
    X, y, _, _ = tasks[paradigm].load(subject)
    pipelines = baselines(paradigm, np.unique(y), eegnet=False)
    rows = scores(pipelines, X[:, ::2], y, default_metric(paradigm), 3, paradigm=paradigm)
    assert (rows.error == "").all()
    assert rows[rows.pipeline == best].score.mean() > rows.chance.mean() + .2


def test_the_pre_local_head_has_filters_and_norm_of_the_paradigm_unless_told_otherwise():
    def settings(paradigm, head="pre-local", **given):
        ways = sjepa_pipelines("p", None, lee2019_montage(), paradigm, (head,), ("new", "full"),
                               **given)
        return {(w.estimator.filters, w.estimator.norm) for w in ways}
    assert settings("MI") == {("csp", "frozen")}
    assert settings("ERP") == {("xdawn", "window")}
    assert settings("SSVEP", norm="frozen") == {("class means", "frozen")}
    assert settings("MI", filters="random", norm="window") == {("random", "window")}
    for head in ("post-local", "contextual"): assert settings("MI", head) == {("random", "window")}


def test_a_pipeline_that_fails_leaves_a_row_and_the_others_go_on():
    X = np.random.default_rng(0).standard_normal((12, 3, 152)).astype(np.float32) * 10
    pipelines = [Pipeline("broken", Broken()), Pipeline("fine", SJEPAClassifier(**QUICK))]
    rows = scores(pipelines, X, np.arange(12) % 2, folds=2)
    broken, fine = (rows[rows.pipeline == name] for name in ("broken", "fine"))
    assert list(broken.error) == ["RuntimeError: no reason"] * 2 and broken.score.isna().all()
    assert (fine.error == "").all()
    ranks = rank_pipelines(rows)
    assert list(ranks.columns) == [] or "broken" not in ranks


# ---------------------------------------------------------------- interruption

def test_an_interrupted_sweep_goes_on(weights, tasks, table, tmp_path, monkeypatch):
    pretrainings = {"1s-60%": weights, NO_PRETRAINING: None}
    rows_of, done = evaluation._cell_rows, []

    def one_then_stop(cell, sweep):
        if done: raise KeyboardInterrupt
        done.append(cell)
        return rows_of(cell, sweep)

    def counted(cell, sweep):
        done.append(cell)
        return rows_of(cell, sweep)

    monkeypatch.setattr(evaluation, "_cell_rows", one_then_stop)
    with pytest.raises(KeyboardInterrupt): evaluate(tasks, pretrainings, tmp_path / "s", **SHORT)
    assert 0 < len(read_results(tmp_path / "s" / "results.csv")) < len(table)
    monkeypatch.setattr(evaluation, "_cell_rows", counted)
    whole = evaluate(tasks, pretrainings, tmp_path / "s", **SHORT)
    assert len(done) == 6  # cells, none of them twice
    both = whole.merge(table, on=["pipeline", "subject", "fold"])
    assert len(whole) == len(table) == len(both) and np.allclose(both.score_x, both.score_y)
    assert {p.name for p in (tmp_path / "s").glob("[!.]*")} == {"results.csv", "sweep.json"}


def test_the_table_is_in_the_order_of_the_sweep(weights, tasks, tmp_path):
    "Whatever was done first."
    few = dict(ONE_HEAD, strategies=("full",))
    evaluate(tasks, {NO_PRETRAINING: None}, tmp_path, **few)
    both = evaluate(tasks, {"1s-60%": weights, NO_PRETRAINING: None}, tmp_path, **few)
    names = "1s-60%", NO_PRETRAINING
    order = [(s, n, f) for s in ("1", "2") for n in names for f in (0, 1)]
    assert list(zip(both.subject, both.pretraining, both.fold)) == order


def test_what_failed_is_tried_again(tasks, tmp_path, monkeypatch):
    load = Task.load

    def second_is_down(task, subject):
        if subject == 2: raise OSError("host is down")
        return load(task, subject)

    monkeypatch.setattr(Task, "load", second_is_down)
    evaluation._loaded.cache_clear()
    first = evaluate(tasks, {NO_PRETRAINING: None}, tmp_path, **ONE_HEAD)
    assert list(first[first.subject == "2"].error) == ["OSError: host is down"]
    assert (first[first.subject == "1"].error == "").all()
    assert set(summarise(first).subjects) == {1}
    plot_scores(first)
    to_moabb(first)
    monkeypatch.setattr(Task, "load", load)
    again = evaluate(tasks, {NO_PRETRAINING: None}, tmp_path, **ONE_HEAD)
    assert (again.error == "").all() and set(again.subject) == {"1", "2"}
    assert len(again) == 3 * 2 * 2


def test_several_processes(weights, tasks, table, tmp_path):
    several = evaluate(tasks, {"1s-60%": weights}, tmp_path, n_jobs=2, **ONE_HEAD)
    both = several.merge(table, on=["pipeline", "subject", "fold"])
    assert len(both) == 3 * 2 * 2 and np.allclose(both.score_x, both.score_y)


def test_killed(tmp_path):
    "SIGKILL in the middle: the table is whole, and holds the cells that were finished."
    out = tmp_path / "s"
    p = Command("--subjects", 11, 12, "--paradigm", "MI", "--folds", 3, "--epochs", 3,
                "--heads", "pre-local", "--no-baselines", "--quiet", "--out", out,
                command="sjepa_evaluate")
    for _ in range(600):
        if (out / "results.csv").exists(): break
        time.sleep(.1)
    p.kill()
    p.communicate()
    assert len(read_results(out / "results.csv")) % 3 == 0


# ---------------------------------------------------------------- channels without a place

class CapWithCB1(SimulatedMI):
    "Two channels of a Neuroscan cap, which no atlas has, in the place of two others."
    def _get_single_subject_data(self, subject):
        data = super()._get_single_subject_data(subject)
        for runs in data.values():
            for raw in runs.values():
                raw.rename_channels(dict(PO9="CB1", PO10="CB2")).set_montage(None)
        return data


def test_a_channel_without_a_place_keeps_out_the_contextual_head_alone(weights, tmp_path):
    """All channels for the others; without those two when that is asked for, and for all alike. A
    warning names them."""
    cap = CapWithCB1(1, n_trials=12)
    asked = SHORT | dict(strategies=("new",), pretrainings={"1s-60%": weights})
    with pytest.warns(UserWarning, match="subject 1: without a position: CB1, CB2; the contextual"):
        kept = evaluate([Task("MI", cap, (1,))], out=tmp_path / "kept", **asked)
    alone = kept["head"] == "contextual"
    assert kept[alone].error.str.contains("channels without a position: CB1, CB2").all()
    assert (kept[~alone].error == "").all() and set(kept[~alone].channels) == {62}
    assert {"pre-local", "post-local", ""} == set(kept[~alone]["head"])
    task = Task("MI", cap, (1,), drop_unplaced=True)
    with pytest.warns(UserWarning, match="2 channels without a position left out: CB1, CB2"):
        dropped = evaluate([task], out=tmp_path / "dropped", **asked)
    assert (dropped.error == "").all() and set(dropped.channels) == {60}
    with pytest.raises(ValueError, match="holds MI with other channels"):
        evaluate([task], out=tmp_path / "kept", **asked)


def test_a_probe_of_channels_without_a_place_asks_the_local_tokens(monkeypatch):
    "All channels stay for the local tokens; without those two when that is asked for."
    monkeypatch.setattr(runs, "find_dataset", lambda name: CapWithCB1(1, n_trials=12))
    asked, model = dict(probe=["Cap"], probe_subjects=["1"]), SJEPA(config=SMALL)
    kept = probes_of(Pretrain(**asked), set())[0]
    assert len(kept.names) == 62 and "CB1" in kept.names
    local, contextual = kept(model).values()
    assert 0 <= local <= 1 and np.isnan(contextual)
    dropped = probes_of(Pretrain(**asked, drop_unplaced=True), set())[0]
    assert len(dropped.names) == 60 and np.isfinite([*dropped(model).values()]).all()


# ---------------------------------------------------------------- the band

def above(hz, x):
    "Share of the power of trials above a frequency."
    power = np.abs(np.fft.rfft(x)) ** 2
    return power[..., np.fft.rfftfreq(x.shape[-1], 1 / 128) > hz].sum() / power.sum()


def test_trials_and_probes_have_the_band_that_is_asked_for(tasks):
    task = replace(tasks[0], band=(1., 12.))
    wide, narrow = (t.load(1)[0] for t in (tasks[0], task))
    assert above(16, wide) > .02 and above(16, narrow) < .01
    few = dict(probe=["simulated"], probe_subjects=["1"], band=(1., 12.))
    assert above(16, probes_of(Pretrain(**few), set())[0].trials[0][0]) < .01


def test_a_sweep_keeps_its_band(tmp_path, capfd):
    """The commands take it from the run that the weights come from; another one is another sweep,
    and what is none is refused."""
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    SJEPA(config=SMALL).save(run / "model.safetensors")
    told = dict(preprocessing=dict(l_freq=1., h_freq=12.), samples=152)
    (run / "run.json").write_text(json.dumps(dict(data=told, training=dict(radius=.6))))
    words = ["--subjects", "11", "--paradigm", "MI", "--trials", "20", "48", "20", "--folds", "2",
             "--heads", "pre-local", "--strategies", "probe", "--no-baselines", "--quiet",
             "--weights", str(run), "--out", str(out)]
    assert sjepa_evaluate(words) == 0
    assert json.loads((out / "sweep.json").read_text())["tasks"][0]["band"] == [1., 12.]
    for band, says in ((("0.5", "40"), "holds MI with another band"), (("12", "1"), "--band is")):
        assert sjepa_evaluate([*words, "--band", *band]) == 2
        assert says in capfd.readouterr().err


# ---------------------------------------------------------------- what is refused

def test_tables_of_other_versions(table, tmp_path):
    table.drop(columns="chance").to_csv(tmp_path / "old.csv", index=False)
    with pytest.raises(ValueError, match="another version of sjepa_nb"):
        read_results(tmp_path / "old.csv")
    pd.DataFrame(dict(a=[1])).to_csv(tmp_path / "x.csv")
    with pytest.raises(ValueError, match="another version"): read_results(tmp_path / "x.csv")
    with pytest.raises(FileNotFoundError): read_results(tmp_path / "none.csv")


def test_another_sweep_in_the_same_folder(tasks, tmp_path):
    def sweep(folds):
        return evaluate(tasks, {NO_PRETRAINING: None}, tmp_path, **ONE_HEAD | dict(folds=folds))

    sweep(2)
    with pytest.raises(ValueError, match="folds: 2 then, 3 now"): sweep(3)
    told = json.loads((tmp_path / "sweep.json").read_text()) | dict(version="0.0.1")
    (tmp_path / "sweep.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match="version: 0.0.1 then"): sweep(2)


def test_more_heads_in_the_same_folder(tasks, tmp_path):
    "They are added; what is there is not computed again."
    first = evaluate(tasks, {NO_PRETRAINING: None}, tmp_path, **ONE_HEAD)
    two = dict(ONE_HEAD, heads=("pre-local", "post-local"))
    both = evaluate(tasks, {NO_PRETRAINING: None}, tmp_path, **two)
    assert len(both) == len(first) + 2 * 2 * 2
    assert both.groupby(["pipeline", "subject", "fold"]).size().max() == 1


def test_other_weights_of_the_same_name(weights, tasks, tmp_path):
    few = dict(ONE_HEAD, heads=("post-local",), strategies=("new",))
    for same in (weights, SJEPA.load(weights)): evaluate(tasks, {"a": same}, tmp_path, **few)
    with pytest.raises(ValueError, match="scores of other weights called a"):
        evaluate(tasks, {"a": SJEPA(lee2019_montage(), SMALL)}, tmp_path, **few)


def test_datasets_keep_their_names():
    t = made_up(dict(a=[[.5]], b=[[.6]]))
    t["dataset"] = ["BNCI2014-001", "BNCI2014-004"]
    assert set(to_moabb(t).dataset) == {"BNCI2014-001", "BNCI2014-004"}
    assert evaluation.short_name("SimulatedMI-86d691f8") == "SimulatedMI"


@pytest.mark.parametrize("y,metric,folds,says", [
    ([0, 0, 0, 0, 1, 1], "accuracy", 3, "3 folds, and 2 trials of class 1"),
    ([0] * 6, "accuracy", 3, "only one class"),
    ([0, 1, 2] * 2, "roc_auc", 2, "two classes, and here are 3: use accuracy"),
    ([0, 0, 0, 0, 1, 1], "f1", 2, "a metric is one of"),
])
def test_trials_that_cannot_be_scored(y, metric, folds, says):
    with pytest.raises(ValueError, match=says):
        cross_validate([], np.ones((6, 2, 152)), np.array(y), metric, folds)


@pytest.mark.parametrize("settings,says", [
    (dict(epochs=0), "epochs is a whole number"),
    (dict(scale="standardise"), "a task's"),
    (dict(limits={"contextual": {}}), "limits are for"),
    (dict(limits={"full-contextual": dict(epochs=0)}), "epochs is a whole"),
    (dict(folds=1), "at least 2 folds"),
])
def test_sweeps_that_cannot_work(settings, says, tasks, tmp_path):
    with pytest.raises(ValueError, match=says):
        evaluate(tasks, {NO_PRETRAINING: None}, tmp_path / "o", progress=False, **settings)
    assert not (tmp_path / "o").exists()


def test_weights_that_are_not_there(tasks, tmp_path):
    with pytest.raises(FileNotFoundError, match="no pre-trained model"):
        evaluate(tasks, {"a": tmp_path / "none"}, tmp_path / "o", progress=False)
    assert not (tmp_path / "o").exists()


# ---------------------------------------------------------------- statistics and figures

def made_up(scores):
    "A table with given scores: pipeline → (subjects, folds)."
    about = BLANK | dict(paradigm="MI", dataset="D", session="1", chance=.5, metric="accuracy",
                         trials=10, channels=3, fit_seconds=1.)
    rows = []
    for pipeline, people in scores.items():
        for subject, folds in enumerate(people):
            mine = about | dict(pipeline=pipeline, subject=str(subject))
            rows += [mine | dict(fold=fold, score=score) for fold, score in enumerate(folds)]
    return pd.DataFrame(rows)


def test_statistics_by_hand():
    t = made_up(dict(a=[[.9, .7], [.6, .6]], b=[[.5, .5], [.5, .7]]))
    means = summarise(t).set_index("pipeline")
    assert np.allclose(means.loc["a", ["mean", "low", "high"]].astype(float), [.7, 0, 1])
    three = paired_interval([.1, .2, .3])  # 4.303: Student's t of two degrees of freedom
    assert np.allclose(three, [.2, .2 - 4.3027 * .1 / 3**.5, .2 + 4.3027 * .1 / 3**.5], atol=1e-5)
    assert np.isnan(paired_interval([.1])[1:]).all() and paired_interval([.1, .1]) == (.1, .1, .1)
    assert np.isclose(means.loc["b", "sd"], .1 / 2**.5)
    c = compare(t, "a", "b").set_index("paradigm")
    assert c.loc["all", "subjects"] == 2
    assert np.isclose(c.loc["MI", "difference"], (.3 + 0) / 2)
    assert c.loc["MI", "subjects"] == 2
    ranks = rank_pipelines(t)
    assert list(ranks.columns) == ["a", "b"] and sorted(ranks["a"]) == [1, 1, 1, 2]
    with pytest.raises(ValueError, match="no pipeline x"): compare(t, "a", "x")


def test_a_real_difference_is_found_and_chance_is_not():
    rng = np.random.default_rng(0)
    base = rng.uniform(.5, .8, (12, 5))
    better = base + .1 + rng.normal(0, .01, base.shape)
    equal = base + rng.normal(0, .02, base.shape)
    t = made_up(dict(a=better, b=base, c=equal))
    assert compare(t, "a", "b").p.iloc[0] < .01 < .05 < compare(t, "c", "b").p.iloc[0]


def test_figures_and_moabb(table):
    from moabb.analysis import plotting
    from moabb.analysis import meta_analysis
    assert len(plot_scores(table).axes) == 1
    assert len(plot_ranking(table).axes[0].patches) == 14 * 14
    m = to_moabb(table)
    stats = meta_analysis.compute_dataset_statistics(m)
    meta_analysis.find_significant_differences(stats)
    plotting.score_plot(m)
    plotting.paired_plot(m, "CSP + LDA", "1s-60%-new-pre-local")
    plotting.meta_analysis_plot(stats, "CSP + LDA", "1s-60%-new-pre-local")


def test_colours_come_from_the_columns(table):
    "Whatever a pipeline is called."
    renamed = table.assign(pipeline="my " + table.pipeline)
    assert list(pipeline_colours(renamed).values()) == list(pipeline_colours(table).values())
    assert pipeline_colours(table)["EEGNet"] == pipeline_colours(table)["CSP + LDA"] == ".45"
    new_head = table.assign(head=table["head"].replace("pre-local", "mine"))
    assert len(pipeline_colours(new_head)) == table.pipeline.nunique()


# ---------------------------------------------------------------- the commands

def call(capfd, command, *argv):
    code = command([str(a) for a in argv])
    return code, *capfd.readouterr()


def test_finetune(weights, tmp_path, capfd):
    out = tmp_path / "f"
    code, said, err = call(
        capfd, sjepa_finetune, "--weights", weights, "--subjects", 11, "--paradigm", "SSVEP",
        "--folds", 2, "--epochs", 2, "--head", "contextual", "--strategy", "new", "--out", out)
    assert (code, err) == (0, "") and "accuracy" in said and "chance 0.25" in said
    clf = SJEPAClassifier.load(next(out.glob("SSVEP*.safetensors")))
    X, y, _, _ = simulated_tasks((11,))[2].load(11)
    assert clf.predict(X).shape == y.shape and set(clf.classes_) == set(y)
    assert (clf.filters, clf.norm) == ("random", "window")
    assert len(read_results(out / "results.csv")) == 2
    code, _, err = call(capfd, sjepa_finetune, "--out", out)
    assert code == 2 and "now say no-pre-training-full-pre-local" in err


def test_evaluate_and_plot(weights, tmp_path, capfd):
    sweep, figures = tmp_path / "e", tmp_path / "figures"
    code, said, err = call(
        capfd, sjepa_evaluate, "--weights", f"1s-60%={weights}", "--subjects", 11,
        "--paradigm", "MI", "--folds", 2, "--epochs", 2, "--heads", "pre-local", "--out", sweep,
        "--quiet")
    assert code == 0, err
    assert "1s-60%-new-pre-local" in said and "chance" in said and "CSP + LDA" in said
    plots = {"ranking.png", "scores.png"}
    assert {p.name for p in sweep.glob("[!.]*")} == {"results.csv", "sweep.json"} | plots
    code, _, _ = call(capfd, sjepa_plot, sweep, "--out", figures)
    assert code == 0 and {p.name for p in figures.iterdir()} == plots
    code, _, err = call(capfd, sjepa_plot, tmp_path)
    assert code == 2 and "neither a pre-training" in err


@pytest.mark.parametrize("argv,says", [
    (["--dataset", "Nothing"], "Nothing"),
    (["--weights", "no/such/place"], "neither a folder nor"),
    (["--epochs", "0"], "epochs is a whole number"),
    (["--dataset", "PhysionetMI", "--subjects", "400"], "has no subject 400"),
    (["--dataset", "PhysionetMI", "--paradigm", "SSVEP", "--subjects", "1"],
     "nothing could be scored"),
    (["--events", "hands"], "not for simulated ones"),
    (["--device", "cuda:7"], "no CUDA device"),
    (["--folds", "1"], "at least 2 folds"),
], ids=lambda v: str(v)[:40])
def test_wrong_commands(argv, says, tmp_path, capfd):
    code, _, err = call(capfd, sjepa_evaluate, *argv, "--quiet", "--out", tmp_path / "o")
    assert code == 2 and err.count("\n") == 1 and says in err


def test_names_from_runs(weights, tmp_path):
    from sjepa_nb.runs import weights_of
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(weights, run)
    about = dict(data=dict(samples=2072), training=dict(radius=.6))
    (run / "run.json").write_text(json.dumps(about))
    assert list(weights_of([str(run)])) == ["16s-60%"]
    with pytest.raises(ValueError, match="two --weights are called 16s-60%"):
        weights_of([str(run)] * 2)
    masks = dict(mask="blocks", mask_schedule="scattered first")
    about["training"] |= masks
    (run / "run.json").write_text(json.dumps(about))
    assert list(weights_of([str(run)])) == ["16s-60%-blocks-scattered-first"]
    (run / "run.json").write_text(json.dumps(about | dict(training="sphere")))
    with pytest.raises(ValueError, match="does not say what was trained"):
        weights_of([str(run)])


# ---------------------------------------------------------------- real recordings

def test_other_channels_rate_and_unit(real_data, tmp_path):
    "Weights of 62 channels, 8 channels of SSVEPExo in an unknown unit: every pipeline."
    torch.manual_seed(0)
    task = Task("SSVEP", "Kalunga2016", (1,), ("13", "17", "21"), "standardise")
    table = evaluate([task], {"4s-60%": SJEPA(lee2019_montage(), SMALL)}, tmp_path, **SHORT)
    assert (table.error == "").all() and set(table.channels) == {8}
    assert {"CCA", "tangent space + LR"} < set(table.pipeline)
    assert table[table.pipeline == "CCA"].score.mean() > .6


def test_xdawn_takes_trials_that_are_referenced_otherwise_than_those_it_learned_from():
    "The training trials decide whether a channel is left out, not each batch by itself."
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 8, 152)), np.arange(60) % 2
    X[y == 1, 0] += 1.
    referenced = X - X.mean(1, keepdims=True)
    for train, test in ((X, referenced), (referenced, X)):
        xdawn, = baselines("ERP", np.unique(y), eegnet=False)
        assert clone(xdawn.estimator).fit(train, y).predict(test).shape == (60,)
