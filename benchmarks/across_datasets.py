"""What is a pre-training on one dataset worth to another? Every source, every target.

    OMP_NUM_THREADS=1 python benchmarks/across_datasets.py --work DIR --files eegmat/*.edf
        [--only SOURCE …]

Sources: simulated people (36 of population 1), PhysionetMI (1 to 3, and the rest runs of six more),
eegmat (18 people; --files), Kalunga2016 (SSVEPExo, four people); a network of size 4/8/256 is
trained on each, windows of 1.19 s, 32 a step, the last weights kept. Targets: simulated people 48
to 54 (MI, ERP, SSVEP), PhysionetMI 1 to 3 (two pairs of classes), Kalunga2016 1 to 4. Nobody is
asked of a network that was trained on them: where source and target are the same dataset, the
training is repeated without those who are asked. Each person's pre-local heads are a closed form,
a new head on the frozen encoder, and full fine-tuning, with filters and norm by paradigm; from
forty trials (simulated; the score on all others) or in five folds (real), beside random weights.
Rows go to results/across_datasets.csv; those there are skipped. Several processes may share DIR.
Set MNE_DATA.
"""
import argparse
import warnings
from pathlib import Path

import pandas as pd
import torch
from frozen_tokens import PEOPLE, TASKS, TRIALS
from pretraining_choices import BASE, RESULTS, about, append, claimed
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit
from switches import commit

from sjepa_nb.diagnostics import make_probe
from sjepa_nb.evaluation import default_metric, score_of
from sjepa_nb.finetuning import BY_PARADIGM, SJEPAClassifier, sjepa_probe
from sjepa_nb.model import SJEPA, SJEPAConfig
from sjepa_nb.montage import lee2019_montage
from sjepa_nb.preprocessing import Preprocessing
from sjepa_nb.pretraining import Pretraining, TrainingConfig
from sjepa_nb.simulation import simulated_datasets
from sjepa_nb.sources import file_sources, moabb_sources
from sjepa_nb.store import build_store, split_by_subject, split_in_time

SIZES = SJEPAConfig.preset(BASE["size"])
PHYSIONET, KALUNGA = [1, 2, 3, 38, 40, 50, 59, 64, 71], [1, 2, 3, 4]
SOURCES = {  # name → dataset, and whom it must not see
    "simulation": ("simulated", []),
    "eegmat": ("eegmat", []),
    "PhysionetMI": ("PhysionetMI", []),
    "SSVEPExo": ("Kalunga2016", []),
    "PhysionetMI without 1": ("PhysionetMI", [1]),
    "PhysionetMI without 2": ("PhysionetMI", [2]),
    "PhysionetMI without 3": ("PhysionetMI", [3]),
    "SSVEPExo without 1 and 2": ("Kalunga2016", [1, 2]),
    "SSVEPExo without 3 and 4": ("Kalunga2016", [3, 4]),
}


# ---------------------------------------------------------------- sources

def recordings(dataset, unseen, files):
    "What there is of a dataset, but for some people."
    if dataset == "simulated":
        sets = simulated_datasets(n_subjects=40, seed=1)
        return [s for d in sets for s in moabb_sources(d)]
    if dataset == "eegmat": return file_sources(files, subject_regex="Subject[0-9]+")
    people = PHYSIONET if dataset == "PhysionetMI" else KALUNGA
    return moabb_sources(dataset, [s for s in people if s not in unseen])


def windows(work, name, files):
    "A source's windows, and which of them train. SSVEPExo has too few people to spare any."
    dataset, unseen = SOURCES[name]
    sources = recordings(dataset, unseen, files)
    scale = "always" if dataset == "Kalunga2016" else "raise"
    store = build_store(work / f"windows of {name}", sources, BASE["length"], BASE["interval"],
                        preprocessing=Preprocessing(scale=scale), progress=False)
    if dataset == "Kalunga2016": return store, split_in_time(store.index, store.length)
    valid = dict(simulated=[37, 38, 39, 40], PhysionetMI=[64, 71],
                 eegmat=["Subject15", "Subject16", "Subject17"])[dataset]
    return store, split_by_subject(store.index, valid=valid)


def trained(args, name, seed):
    "The network of one source; its last weights."
    folder = args.work / f"{name}, seed {seed}"
    last = folder / "last.safetensors"
    if not last.exists():
        store, split = windows(args.work, name, args.files)
        config = TrainingConfig(steps=args.steps, seed=seed, patience=10_000)
        resume = (folder / "checkpoint.pt").exists()
        run = Pretraining(store, split, folder, config, SIZES, resume=resume, progress=False)
        run.run()
        run.model.save(last)
    return SJEPA.load(last)


def untrained(seed):
    "A network that has learned nothing."
    torch.manual_seed(seed)
    return SJEPA(lee2019_montage(), SIZES).eval()


# ---------------------------------------------------------------- targets

def targets():
    "Dataset, paradigm, person, and a probe of each person who is asked."
    sets = simulated_datasets(max(PEOPLE), n_trials=TRIALS, test_run=False)
    for dataset, paradigm in zip(sets, ("MI", "ERP", "SSVEP")):
        for person in PEOPLE:
            probe = make_probe(dataset, paradigm, [person], most=2000)
            yield "simulated", paradigm, person, probe
    for name, paradigm, people, events, scale in TASKS:
        title, prep = f"{paradigm} {'/'.join(events)}", Preprocessing(scale=scale)
        for person in people:
            probe = make_probe(name, paradigm, [person], title, events=events, preprocessing=prep)
            yield name, paradigm, person, probe


def may_ask(name, dataset, person):
    "Whether a source's network has never seen the person, and is the one to ask."
    mine, unseen = SOURCES[name]
    if mine == dataset and dataset != "simulated": return person in unseen  # another population
    return not unseen


def head(strategy, model, names, paradigm):
    "An estimator of one kind."
    settings = dict(channels=list(names)) | BY_PARADIGM[paradigm]
    if strategy == "closed form": return sjepa_probe(model, **settings)
    return SJEPAClassifier(model, strategy=strategy, epochs=60, validation=0, **settings)


def rows_of(name, model, dataset, paradigm, person, probe):
    "What a model is worth to one person, for each kind of head: the mean over the folds."
    x, y = probe.trials[0]
    few = StratifiedShuffleSplit(1, train_size=40, random_state=0)
    folds = few if dataset == "simulated" else StratifiedKFold(5, shuffle=True, random_state=0)
    for strategy in ("closed form", "new", "full"):
        scores = []
        for train, test in folds.split(y, y):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fitted = head(strategy, model, probe.names, paradigm).fit(x[train], y[train])
                scores.append(score_of(default_metric(paradigm), y[test], fitted, x[test]))
        yield dict(model=name, dataset=dataset, task=probe.name, subject=str(person),
                   strategy=strategy, score=sum(scores) / len(scores), folds=len(scores),
                   train_trials=len(train), chance=probe.chance)


def done(path):
    "Which questions of which models the table has."
    if not path.exists(): return set()
    table = pd.read_csv(path, dtype=dict(subject=str))
    return set(map(tuple, table[["model", "seed", "dataset", "task", "subject"]].to_numpy()))


def ask_all(args, name, seed, asked, path):
    "All people of all targets who may be asked of one network."
    model = untrained(seed) if name == "random" else trained(args, name, seed)
    for dataset, paradigm, person, probe in asked:
        if name != "random" and not may_ask(name, dataset, person): continue
        if (name, seed, dataset, probe.name, str(person)) in done(path): continue
        rows = rows_of(name, model, dataset, paradigm, person, probe)
        more = dict(seed=seed, steps=0 if name == "random" else args.steps, commit=commit())
        append(args.work, path.name, [r | more | about() for r in rows])
        print(name, seed, dataset, probe.name, person, flush=True)


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", type=Path, required=True, help="folder of windows and runs")
    p.add_argument("--files", nargs="*", default=[], help="eegmat's recordings")
    p.add_argument("--only", nargs="*", choices=[*SOURCES, "random"], help="sources (default: all)")
    p.add_argument("--seeds", type=int, nargs="*", default=[0])
    p.add_argument("--steps", type=int, default=5000)
    args = p.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "across_datasets.csv"
    asked = list(targets())
    for seed in args.seeds:
        for name in args.only or ["random", *SOURCES]:
            with claimed(args.work, f"{name}, seed {seed}") as mine:
                if mine: ask_all(args, name, seed, asked, path)


if __name__ == "__main__": main()
