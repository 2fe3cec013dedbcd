"""Which choices of S-JEPA's pre-training carry it? One training of thousands of steps for each.

    OMP_NUM_THREADS=1 python benchmarks/pretraining_choices.py --work DIR [--only NAME …]

Each changes one thing. Simulated people 1 to 8 train, or 36 of another population; 9 to 12 are
asked: a training is judged by what its frozen tokens are worth to the probes of the page on
diagnostics, not by its loss, since other targets have another loss. Rows are added to
results/pretraining_choices.csv, those of every thousandth step to results/pretraining_curves.csv;
choices already there are skipped. Several processes may share DIR.
"""
import argparse
import platform
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout

from sjepa_nb.contextual_encoder import set_precision
from sjepa_nb.diagnostics import TrainingError, simulated_probes
from sjepa_nb.files import write_whole
from sjepa_nb.model import SJEPA, SJEPAConfig
from sjepa_nb.pretraining import Pretraining, TrainingConfig
from sjepa_nb.simulation import simulated_datasets
from sjepa_nb.sources import moabb_sources
from sjepa_nb.store import build_store, split_by_subject

RESULTS = Path(__file__).resolve().parent.parent / "results"
BASE = dict(
    size="4/8/256", length=152, interval=1.3, batch_size=32, learning_rate=5e-4, predictor_rate=4.,
    momentum=(.99, .9995), target_norm="layer", mask="sphere", radius=.6, crop=None, people=8)
OLD = dict(learning_rate=5e-5, predictor_rate=10., momentum=(.999, .9999))
CHOICES = {
    "base": {},
    "the old defaults' rates and momentum": OLD,
    "targets centred": dict(target_norm="centred"),
    "rate 1e-4": dict(learning_rate=1e-4),
    "momentum 0.999 to 0.9999": dict(momentum=(.999, .9999)),
    "radius 0.8": dict(radius=.8),
    "fixed budget 0.6": dict(mask="fixed budget", batch_size=4),
    "targets instance": dict(target_norm="instance"),
    "base, seed 1": dict(seed=1),
    "base, seed 2": dict(seed=2),
    "radius 0.4": dict(radius=.4),
    "predictor 1 x": dict(predictor_rate=1.),
    "predictor 10 x": dict(predictor_rate=10.),
    "size 2/8/64": dict(size="2/8/64"),
    "size 8/8/256": dict(size="8/8/256"),
    "1,000 steps": dict(steps=1000),
    "6,000 steps": dict(steps=6000),
    "rate 1e-3": dict(learning_rate=1e-3),
    "windows every 5.2 s": dict(interval=5.2),
    "windows that begin anywhere": dict(length=320, crop=152),
    "targets as they are": dict(target_norm="none"),
    "momentum 0.996 to 0.9999": dict(momentum=(.996, .9999)),
    "windows of 4 s, batch 8": dict(length=536, batch_size=8),
    "windows of 16 s, batch 2": dict(length=2072, batch_size=2),
    "size 8/8/2048": dict(size="8/8/2048"),
}
MANY = dict(people=36, steps=6250)
SAMPLES = {1: 152, 4: 536, 16: 2072}
for batch, radius in [(8, .6), (32, .6), (8, .8), (8, .4), (32, .8), (32, .4)]:
    for seconds, samples in SAMPLES.items():
        CHOICES[f"36 people, {batch} windows of {seconds} s, radius {radius}"] = MANY | dict(
            length=samples, batch_size=batch, radius=radius)
CHOICES["36 people, 15,000 steps"] = MANY | dict(steps=15_000)
CHOICES["36 people, fixed budget"] = MANY | dict(mask="fixed budget", batch_size=4)


SPLITS = {8: (0, [9, 10]), 36: (1, [37, 38, 39, 40])}  # population, and who validates


def windows(work, length, interval, people=8):
    "The windows of so many people, built once, and of those who validate."
    population, valid = SPLITS[people]
    datasets = simulated_datasets(n_subjects=valid[-1], seed=population)
    sources = [s for d in datasets for s in moabb_sources(d)]
    path = work / f"windows-of-{people}-{length}-{interval}"
    store = build_store(path, sources, length=length, interval=interval, progress=False)
    return store, split_by_subject(store.index, valid=valid)


@contextmanager
def claimed(work, choice):
    "Whether no other process is at it; then none will be, until the end of the block."
    lock = FileLock(f"{folder_of(work, choice)}.lock")
    try: lock.acquire(timeout=0)
    except Timeout: pass
    try: yield lock.is_locked
    finally: lock.release()


def append(work, name, rows):
    "Add rows to a table that other processes write as well."
    path = RESULTS / name
    with FileLock(work / f".{name}.lock"):
        old = [pd.read_csv(path)] if path.exists() else []
        table = pd.concat([*old, pd.DataFrame(rows)])
        write_whole(path, lambda part: table.to_csv(part, index=False, float_format="%.5g"))


def done():
    "The choices that the table has already."
    path = RESULTS / "pretraining_choices.csv"
    return set(pd.read_csv(path).choice) if path.exists() else set()


def about():
    "What a row says of where it was made."
    return dict(
        torch=torch.__version__, processor=platform.machine(), threads=torch.get_num_threads())


def scores_of(model, probes):
    "What a model's frozen tokens are worth."
    set_precision(model, "auto", "cpu")
    scores = post_local(model, probes)
    for probe in probes: scores |= probe(model)
    return scores


def post_local(model, probes):
    "What local tokens are worth where filters come behind the encoder, as for contextual ones."
    scores, model = {}, model.eval()
    for probe in probes:
        each = [probe.post_local(model, person) for person in range(len(probe.trials))]
        scores[f"{probe.name} post-local"] = float(np.mean(each))
    return scores


def untrained(seed, probes, montage):
    "The row of a network that has learned nothing."
    torch.manual_seed(seed)
    model = SJEPA(montage, SJEPAConfig.preset(BASE["size"]))
    return dict(choice=f"untrained, seed {seed}", steps=0, **scores_of(model, probes), **about())


def given(name, probes):
    "The row of a model that is there already, such as a shipped one."
    scores = scores_of(SJEPA.from_pretrained(name), probes)
    return dict(choice=f"model {Path(name).name}", **scores, **about())


CONFIGURED = ("steps", "seed", "batch_size", "learning_rate", "predictor_rate", "momentum", "mask",
              "radius", "crop", "mask_schedule", "probe_steps")
MODEL = ("target_norm", "target", "collapse", "registers", "condition", "norm_over",
         "position")
KEPT = ["train_loss", "loss", "trivial", "positional", "spread", "rank", "bands", "random_share"]


def folder_of(work, choice):
    "Where the training of that name is."
    return work / "".join(c if c.isalnum() else "-" for c in choice)


def train(choice, change, work, steps, probes):
    "One training: rows of the final state and of the states on the way, and the run."
    s = BASE | dict(seed=0, steps=steps) | change
    store, split = windows(work, s["length"], s["interval"], s["people"])
    config = TrainingConfig(patience=10_000, **{k: s[k] for k in CONFIGURED if k in s})
    sizes = SJEPAConfig.preset(s["size"], **{k: s[k] for k in MODEL if k in s})
    folder = folder_of(work, choice)
    resume = (folder / "checkpoint.pt").exists()
    run = Pretraining(store, split, folder, config, sizes, probes, resume, progress=False)
    row, start = dict(choice=choice, **s), time.monotonic()
    try: run.run()
    except TrainingError as e: row["failed"] = str(e)[:80]
    row["seconds"] = round(time.monotonic() - start)
    run.model.save(folder / "last.safetensors")
    last, curve = read(folder, choice)
    row |= dict(steps=run.step, windows=len(split["train"]), **last, **about())
    return row, curve, run


def read(folder, choice):
    "What a run's table says of its last epoch, and of those in which the probes were asked."
    epochs = pd.read_csv(folder / "epochs.csv")
    names = list(epochs.columns[epochs.columns.get_loc("memory_gb") + 1:])
    curve = []
    for _, r in epochs[epochs[names[0]].notna()].iterrows():
        curve.append(dict(choice=choice, step=int(r.step) + 1) | r[KEPT + names].to_dict())
    return epochs.iloc[-1][KEPT + names].to_dict(), curve


def ask(choice, args, probes, montage):
    "Train, or make a random network, and write down what it is worth."
    if choice.startswith("untrained"):
        row = untrained(int(choice[-1]), probes, montage)
        return append(args.work, "pretraining_choices.csv", [row])
    row, curve, _ = train(choice, CHOICES[choice], args.work, args.steps, probes)
    append(args.work, "pretraining_choices.csv", [row])
    append(args.work, "pretraining_curves.csv", curve)
    told = {k: v for k, v in row.items() if k in ("choice", "loss", "seconds") or " " in k}
    print(told, flush=True)


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", type=Path, required=True, help="folder of windows and runs")
    p.add_argument("--only", nargs="*", help="names of choices (default: all)")
    p.add_argument("--steps", type=int, default=3000)
    p.add_argument("--weights", nargs="*", default=[],
                   help="models that are there already: ask them too, and train nothing")
    args = p.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    probes = simulated_probes((9, 10, 11, 12))
    for name in args.weights:
        append(args.work, "pretraining_choices.csv", [given(name, probes)])
    if args.weights: return
    store, _ = windows(args.work, BASE["length"], BASE["interval"])
    for choice in [f"untrained, seed {k}" for k in range(3)] + list(CHOICES):
        if choice in done(): continue
        if args.only and choice not in args.only: continue
        with claimed(args.work, choice) as mine:
            if mine and choice not in done(): ask(choice, args, probes, store.montage)


if __name__ == "__main__": main()
