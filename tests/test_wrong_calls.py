"""Values that cannot be, refused where they are given; and folders that wrong ones leave usable.
`benchmarks/robustness.py` tries many more."""
import numpy as np
import pandas as pd
import pytest

from sjepa_nb import command_line
from sjepa_nb.evaluation import BLANK, Task, evaluate, rank_pipelines, simulated_tasks, summarise
from sjepa_nb.finetuning import SJEPAClassifier
from sjepa_nb.masking import FixedBudgetMask, SphereMask
from sjepa_nb.model import SJEPA, SJEPAConfig
from sjepa_nb.montage import Montage, lee2019_montage
from sjepa_nb.preprocessing import Preprocessing
from sjepa_nb.pretraining import Pretraining, TrainingConfig, _check_run, plot_pretraining
from sjepa_nb.sources import file_sources, find_dataset, moabb_sources
from sjepa_nb.store import build_store, split_by_subject
from sjepa_nb.trials import FileDataset, load_trials
from sjepa_nb.weights import save_pretrained

MONTAGE = lee2019_montage()
SCORES = pd.DataFrame([BLANK | dict(pipeline="a", score=.5)])
TRIALS = ["--subjects", "11", "--paradigm", "MI", "--trials", "20", "48", "20"]


@pytest.mark.parametrize("call, says", [
    (lambda: Preprocessing(on_missing="x"), "on_missing is"),
    (lambda: SphereMask(MONTAGE, np.nan), "radius"),
    (lambda: SphereMask(MONTAGE, max_share=0.), "max_share"),
    (lambda: FixedBudgetMask(MONTAGE, n_hidden=0), "n_hidden is a whole number"),
    (lambda: SJEPAConfig(width=-64), "width is a whole number"),
    (lambda: SJEPAConfig(hidden=0), "hidden is a whole number"),
    (lambda: SJEPAConfig(predictor_depth=0), "predictor_depth is a whole number"),
    (lambda: SJEPAConfig(depth="8"), "depth is a whole number"),
    (lambda: plot_pretraining(), "no folder of a run"),
    (lambda: FileDataset([], "MI", {}), "events is a full dict"),
    (lambda: FileDataset([], "MI", ["a"]), "events is a full dict"),
    (lambda: Task("x", "PhysionetMI"), "paradigm is MI, ERP or SSVEP"),
])
def test_a_value_that_cannot_be(call, says):
    with pytest.raises(ValueError, match=says): call()


@pytest.mark.parametrize("call, says", [
    (lambda: Montage([], []), "at least one channel"),
    (lambda: Preprocessing(l_freq="1"), "l_freq is a number"),
    (lambda: find_dataset(3), "name of a MOABB class"),
    (lambda: moabb_sources(None), "name of a MOABB class"),
    (lambda: load_trials(3, "MI"), "name of a MOABB class"),
    (lambda: file_sources(["x.edf"], 3), "subject_regex is of type"),
    (lambda: file_sources(["x.edf"], preprocessing="x"), "preprocessing is of type"),
    (lambda: build_store("x.zarr", "x.edf", 152), "what moabb_sources and file_sources give"),
    (lambda: build_store("x.zarr", [], "1"), "length is a number"),
    (lambda: build_store("x.zarr", [], 152, n_jobs=0), "n_jobs is a number of processes"),
    (lambda: split_by_subject(pd.DataFrame(dict(dataset=["a"])), .5), "index has no column subj"),
    (lambda: SphereMask(62), "montage is of type Montage"),
    (lambda: SphereMask(MONTAGE, "x"), "radius is a number"),
    (lambda: SJEPA(62), "montage is of type Montage"),
    (lambda: SJEPA(MONTAGE, dict(depth=1)), "config is of type SJEPAConfig"),
    (lambda: TrainingConfig(momentum=.9), "momentum is two numbers"),
    (lambda: TrainingConfig(betas=(1., 1.)), "betas must lie below 1"),
    (lambda: TrainingConfig(clip="1"), "clip is a number"),
    (lambda: Pretraining("store", {}, "x"), "store is of type WindowStore"),
    (lambda: SJEPAClassifier(device="x")._check_settings(), "device='x' is not a device"),
    (lambda: SJEPAClassifier.load("x", device="meta"), "device=meta: there is none here"),
    (lambda: SJEPAClassifier(dropout=None)._check_settings(), "dropout is a number"),
    (lambda: SJEPAClassifier(channels=62).fit(np.ones((4, 2, 200)), [0, 1] * 2), "channels are a"),
    (lambda: Task("MI", "PhysionetMI", subjects=3.5), "subjects are names"),
    (lambda: simulated_tasks([]), "subjects are at least one"),
    (lambda: evaluate([], None, "x"), "pretrainings is of type dict"),
    (lambda: evaluate(["MI"], {}, "x"), "tasks is of type Task"),
    (lambda: evaluate(simulated_tasks([11]), {"a": 3}, "x"), "weights is of type SJEPA"),
    (lambda: summarise(pd.DataFrame()), "table has no column pipeline"),
    (lambda: summarise(SCORES[:0]), "the table has no scores"),
    (lambda: rank_pipelines(None), "table has no column pipeline"),
    (lambda: save_pretrained("run", "x"), "model is of type SJEPA"),
])
def test_a_value_of_another_kind(call, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, TypeError), match=says): call()
    assert not [*tmp_path.iterdir()]


def test_one_subject_alone_is_no_list_of_letters():
    assert Task("MI", "PhysionetMI", "10").subjects == ("10",)
    assert [t.subjects for t in simulated_tasks(11)] == [(11,)] * 3


@pytest.mark.parametrize("tasks, pretrainings, more, says", [
    ((), {"a": None}, {}, "nothing to evaluate"),
    (simulated_tasks([11]), {}, dict(with_baselines=False), "nothing to evaluate"),
    (simulated_tasks([11]), {"a": None}, dict(train_trials=0), "train_trials is a whole number"),
    (simulated_tasks([11]), {"a": None}, dict(heads=["x"]), "a head is one of"),
])
def test_an_evaluation_that_cannot_be(tasks, pretrainings, more, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        evaluate(tasks, pretrainings, tmp_path / "out", progress=False, **more)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("split, says", [
    (dict(train=[0]), "no windows to valid on"),
    (dict(train=[0], valid=[3]), "the rows to valid on are not all among the 3 windows")])
def test_rows_that_are_not_there(split, says):
    with pytest.raises(ValueError, match=says): _check_run(range(3), split, TrainingConfig(), ())


@pytest.mark.parametrize("command, more", [
    ("sjepa_finetune", ["--epochs", "1"]),
    ("sjepa_evaluate", ["--strategies", "probe", "--heads", "pre-local", "--no-baselines"])])
def test_a_table_of_failures_binds_nobody(command, more, tmp_path, capfd):
    "Too many folds are found out with the trials; then the folder takes others."
    words = [*TRIALS, *more, "--out", str(tmp_path)]
    assert getattr(command_line, command)([*words, "--folds", "1000"]) == 2
    assert "use fewer folds" in capfd.readouterr().err
    assert getattr(command_line, command)([*words, "--folds", "2"]) == 0, capfd.readouterr().err
