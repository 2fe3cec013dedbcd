"""Which choices of downstream training matter? One choice changed at a time, on simulated people
whom no pre-training has seen, beside the field's classifiers.

    python benchmarks/finetuning_choices.py --part development
    python benchmarks/finetuning_choices.py --part test --choices probe data EEGNet baselines

Choices are made on the development subjects; the test subjects are looked at once, to confirm them.
Each row of results/finetuning_choices.csv is one fit: so many training trials of one subject (0:
four fifths of all), and the score on all trials that are left (AUC for ERP, accuracy else). Rows
that are there already are skipped, so that an interrupted run goes on, or several share the work.
"""
import argparse
import sys
import time
import warnings
from functools import lru_cache
from itertools import product
from pathlib import Path

import mne
import pandas as pd
import torch
from filelock import FileLock
from sklearn.model_selection import StratifiedShuffleSplit

from sjepa_nb.evaluation import (
    EEGNetClassifier, baselines, default_metric, score_of, simulated_tasks,
)
from sjepa_nb.finetuning import BY_PARADIGM, SJEPAClassifier, sjepa_probe
from sjepa_nb.model import SJEPA, SJEPAConfig

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "finetuning_choices.csv"
SUBJECTS = dict(development=(9, 10, 13, 14, 15, 16), test=(55, 56, 57, 58, 59, 60, 61))
RUNS = 200, 996, 200  # trials of a run: imagery, ERP (flashes; two runs), flicker
TRIALS = 20, 40, 160, 0  # to train on
OTHER_NORM = dict(window="frozen", frozen="window")
OTHER_HEAD = dict(filters="random", norm="window")
PAPER = OTHER_HEAD | dict(validation=.2)

# name → settings; what is not named is as `BY_PARADIGM` has it, sixty epochs at most
CHOICES = {
    "probe": dict(probe=True),
    "probe, other norm": dict(probe=True, norm="other"),
    "the paper's": PAPER,
    "random filters": dict(filters="random"),
    "data": dict(),
    "data, other norm": dict(norm="other"),
    "data, early stop": dict(validation=.2),
    "data, new layers alone": dict(strategy="new"),
    "data, dropout": dict(dropout=.5),
    "data, weight decay": dict(weight_decay=1.),
    "data, smoothing": dict(label_smoothing=.2),
    "data, one epoch's weights": dict(average=1),
    "data, sphere masks": dict(mask="sphere"),
    "data, scattered masks": dict(mask="scattered"),
    "the paper's, sphere masks": PAPER | dict(mask="sphere"),
    "post-local": OTHER_HEAD | dict(head="post-local"),
    "post-local, sphere masks": OTHER_HEAD | dict(head="post-local", mask="sphere"),
    "contextual": OTHER_HEAD | dict(head="contextual"),
    "contextual, sphere masks": OTHER_HEAD | dict(head="contextual", mask="sphere"),
    "EEGNet": dict(eegnet=True),
    "baselines": {},
}
WITHOUT_START = "EEGNet", "baselines"  # begin from no pre-training


@lru_cache(maxsize=1)
def trials(paradigm, subject):
    "Trials, labels, montage of one simulated subject."
    task = next(t for t in simulated_tasks((subject,), RUNS) if t.paradigm == paradigm)
    with mne.utils.use_log_level("ERROR"):
        X, y, _, montage = task.load(subject)
    return X, y, montage


def make(paradigm, choice, weights, montage):
    "The estimator of one choice."
    settings = BY_PARADIGM[paradigm] | dict(epochs=60, validation=0) | CHOICES[choice]
    if settings["norm"] == "other": settings["norm"] = OTHER_NORM[BY_PARADIGM[paradigm]["norm"]]
    if settings.pop("probe", False):
        kept = {k: settings[k] for k in ("filters", "norm")}
        return sjepa_probe(weights, channels=montage, **kept)
    if settings.pop("eegnet", False):
        sys.path.insert(0, str(ROOT / "tests"))
        import torchaudio_stub  # noqa: F401
        return EEGNetClassifier(channels=montage, epochs=60)
    return SJEPAClassifier(weights, channels=montage, **settings)


def model(name, montage):
    "A pre-trained model, or a random one of the shipped ones' size."
    if name != "random": return name or None
    torch.manual_seed(0)
    return SJEPA(montage, SJEPAConfig.preset("4/8/256"))


def estimators(paradigm, choice, weights, y, montage):
    "Name and estimator of everything that a choice asks for."
    if choice != "baselines":
        return {choice: make(paradigm, choice, model(weights, montage), montage)}
    return {p.name: p.estimator for p in baselines(paradigm, sorted(set(y)), eegnet=False)}


def split(y, n):
    "Rows to train on, and all others; 0: four fifths."
    parts = StratifiedShuffleSplit(1, train_size=n or .8, test_size=None if n else .2,
                                   random_state=0)
    return next(parts.split(y, y))


def measure(paradigm, subject, choice, n, weights):
    "A row for each estimator of one choice."
    X, y, montage = trials(paradigm, subject)
    train, test = split(y, n)
    for name, estimator in estimators(paradigm, choice, weights, y, montage).items():
        start = time.time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = estimator.fit(X[train], y[train])
            score = score_of(default_metric(paradigm), y[test], fitted, X[test])
        yield dict(pipeline=name, score=score, train_trials=len(train), test_trials=len(test),
                   seconds=round(time.time() - start, 2))


def arguments():
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    p.add_argument("--part", choices=SUBJECTS, required=True)
    p.add_argument("--weights", nargs="*", default=["simulated"], help="pre-trained models")
    p.add_argument("--no-random", action="store_true", help="leave the random weights out")
    p.add_argument("--subjects", type=int, nargs="+", help="some of the part's (default: all)")
    p.add_argument("--paradigms", nargs="+", choices=BY_PARADIGM, default=list(BY_PARADIGM))
    p.add_argument("--trials", type=int, nargs="+", default=list(TRIALS))
    p.add_argument("--choices", nargs="+", choices=CHOICES, default=list(CHOICES))
    return p.parse_args()


def fits(a):
    "Paradigm, subject, weights, choice and number of trials of every fit."
    models = [*a.weights, *([] if a.no_random else ["random"])]
    for subject in a.subjects or SUBJECTS[a.part]:
        if subject not in SUBJECTS[a.part]:
            raise SystemExit(f"subject {subject} is none of {a.part}")
        for paradigm, n, choice in product(a.paradigms, a.trials, a.choices):
            for name in [""] if choice in WITHOUT_START else models:
                yield paradigm, subject, name, choice, n


KEYS = ["part", "paradigm", "subject", "weights", "choice", "trials"]


def is_done(key):
    "Whether the table has a row of this fit."
    if not RESULTS.exists(): return False
    table = pd.read_csv(RESULTS, keep_default_na=False)
    return bool((table[KEYS] == list(key)).all(axis=1).any())


def main():
    a = arguments()
    torch.set_num_threads(1)
    lock = FileLock(f"{RESULTS}.lock")
    for fit in fits(a):
        key = a.part, *fit
        if is_done(key): continue
        paradigm, subject, name, choice, n = fit
        rows = pd.DataFrame([dict(zip(KEYS, key)) | row
                             for row in measure(paradigm, subject, choice, n, name)])
        with lock: rows.to_csv(RESULTS, mode="a", index=False, header=not RESULTS.exists(),
                               float_format="%.4g")
        print(rows.to_string(header=False, index=False), flush=True)


if __name__ == "__main__": main()
