"""Values that cannot be, refused where they are given; and folders that wrong ones leave usable.
`benchmarks/robustness.py` tries many more."""
import numpy as np
import pytest

from sjepa_nb import command_line
from sjepa_nb.evaluation import Task, evaluate, simulated_tasks
from sjepa_nb.masking import FixedBudgetMask, SphereMask
from sjepa_nb.model import SJEPAConfig
from sjepa_nb.montage import lee2019_montage
from sjepa_nb.preprocessing import Preprocessing
from sjepa_nb.pretraining import Pretraining, plot_pretraining
from sjepa_nb.trials import FileDataset

MONTAGE = lee2019_montage()
TRIALS = ["--subjects", "11", "--paradigm", "MI", "--trials", "20", "48", "20"]


@pytest.mark.parametrize("call, says", [
    (lambda: Preprocessing(on_missing="x"), "on_missing is"),
    (lambda: SphereMask(MONTAGE, np.nan), "radius"),
    (lambda: SphereMask(MONTAGE, max_share=0.), "max_share"),
    (lambda: FixedBudgetMask(MONTAGE, n_hidden=0), "n_hidden is at least 1"),
    (lambda: SJEPAConfig(width=-64), "width is a whole number"),
    (lambda: SJEPAConfig(hidden=0), "hidden is a whole number"),
    (lambda: SJEPAConfig(predictor_depth=0), "predictor_depth is a whole number"),
    (lambda: SJEPAConfig(depth="8"), "depth is a whole number"),
    (lambda: plot_pretraining(), "no folder of a run"),
    (lambda: FileDataset([], "MI", {}), "events is a dict"),
    (lambda: FileDataset([], "MI", ["a"]), "events is a dict"),
    (lambda: FileDataset([], "MI", dict(a="b"), seconds=-1), "seconds of a trial"),
    (lambda: Task("x", "PhysionetMI"), "paradigm is MI, ERP or SSVEP"),
])
def test_a_value_that_cannot_be(call, says):
    with pytest.raises(ValueError, match=says): call()


@pytest.mark.parametrize("tasks, pretrainings, more, says", [
    ((), {"a": None}, {}, "nothing to evaluate"),
    (simulated_tasks([11]), {}, dict(with_baselines=False), "nothing to evaluate"),
    (simulated_tasks([11]), {"a": None}, dict(train_trials=0), "train_trials is at least 1"),
    (simulated_tasks([11]), {"a": None}, dict(heads=["x"]), "a head is one of"),
])
def test_an_evaluation_that_cannot_be(tasks, pretrainings, more, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        evaluate(tasks, pretrainings, tmp_path / "out", progress=False, **more)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("split, says", [
    (dict(train=[0]), "no windows to valid on"),
    (dict(train=[0], valid=[3]), "the rows to valid on are not all among the 3 windows")])
def test_rows_that_are_not_there(split, says, tmp_path):
    with pytest.raises(ValueError, match=says): Pretraining(range(3), split, tmp_path / "out")


@pytest.mark.parametrize("command, more", [
    ("sjepa_finetune", ["--epochs", "1"]),
    ("sjepa_evaluate", ["--strategies", "probe", "--heads", "pre-local", "--no-baselines"])])
def test_a_table_of_failures_binds_nobody(command, more, tmp_path, capfd):
    "Too many folds are found out with the trials; then the folder takes others."
    words = [*TRIALS, *more, "--out", str(tmp_path)]
    assert getattr(command_line, command)([*words, "--folds", "1000"]) == 2
    assert "use fewer folds" in capfd.readouterr().err
    assert getattr(command_line, command)([*words, "--folds", "2"]) == 0, capfd.readouterr().err
