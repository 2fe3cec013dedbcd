"""What do the last seconds tell of those to come? Latents and band powers, 1, 2 and 4 s ahead.

    OMP_NUM_THREADS=1 python benchmarks/forecasting.py --work DIR [--real] [--files EDF …]

Windows of 8.19 s: four seconds are seen, four are asked for. A network of the size 4/8/256 is
trained with the mask "future" on simulated people 1 to 8, and asked of 62 to 67; with --real, on
PhysionetMI 1 to 3 and the first people of eegmat (--files), and asked of others of both (set
MNE_DATA). Beside it: the mean, persistence, autoregressive models that ridge regression fits to
the people who train, and untrained networks. Trainings that were interrupted go on. Rows go to
results/forecasting.csv; those of a kind of people and a network that are there are skipped.

`latent`: R² of the targets. `power` and `share`: R² of the log powers of the second to come, in
µV² or as a share of all of its power, in four bands, or their mean (`all`). `predicted`, `true`:
read by ridge regression from the latents of that second. R² is about
the mean of a run, and the mean over a person's runs. `correlation`: of a second's log powers
with those of the last one that is seen.
`another past`: the targets of the same seconds, when those that are seen are another window's.
"""
import argparse
import subprocess
from dataclasses import replace
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import torch

from sjepa_nb.contextual_encoder import set_precision
from sjepa_nb.corruption import target_tokens
from sjepa_nb.files import write_whole
from sjepa_nb.forecasting import (
    Autoregression, Persistence, explained, look_ahead, with_another_past)
from sjepa_nb.model import SJEPA, SJEPAConfig, on_montage
from sjepa_nb.pretraining import Pretraining, TrainingConfig
from sjepa_nb.simulation import simulated_datasets
from sjepa_nb.sources import file_sources, moabb_sources
from sjepa_nb.store import build_store, split_by_subject
from sjepa_nb.targets import BANDS, patches, powers_in, signal_target

RESULTS = Path(__file__).resolve().parent.parent / "results" / "forecasting.csv"
LENGTH, INTERVAL = 1048, 2.6  # samples: eight tokens; seconds
SEEN, SAMPLES = 4, 536  # tokens that are seen, and their samples
HORIZONS = 1, 2, 4  # seconds
AHEAD = [h - 1 for h in HORIZONS]
TEN_TWENTY = "fp1 fp2 f7 f3 fz f4 f8 t7 t3 c3 cz c4 t8 t4 p7 t5 p3 pz p4 p8 t6 o1 o2".split()
DATASETS = {"Simulated": "simulated", "Physionet": "PhysionetMI", "recordings": "eegmat"}
TEST = 62, 63, 64, 65, 66, 67  # simulated people
REAL_TEST = [f"PhysionetMI/{k}" for k in (38, 40, 50, 59, 64, 71)] + [
    f"Subject{k}" for k in (12, 13, 14, 15, 16, 17)]
MOST = 600  # windows to which the baselines are fitted
SIZES = SJEPAConfig.preset("4/8/256", norm_over="token")


# ---------------------------------------------------------------- windows and networks

def nineteen(source):
    "A source's recordings with the channels of the 10-20 system, which all of them have."
    def read():
        for labels, raw in source.read():
            plain = {n: n.removeprefix("EEG ").strip(".").lower() for n in raw.ch_names}
            yield labels, raw.copy().pick([n for n in plain if plain[n] in TEN_TWENTY])
    return replace(source, read=read)


def simulated_windows(work):
    "Windows of simulated people, and who is in which part."
    people = [*range(1, 11), *TEST]
    datasets = simulated_datasets(max(TEST))
    sources = [nineteen(s) for d in datasets for s in moabb_sources(d, people)]
    store = build_store(work / "simulated", sources, LENGTH, INTERVAL, progress=False)
    return store, split_by_subject(store.index, valid=[9, 10], test=TEST)


def real_windows(work, files):
    "The same of real people; of files `SubjectNN_…`."
    sources = moabb_sources("PhysionetMI", [1, 2, 3, 38, 40, 50, 59, 64, 71])
    sources += file_sources(files, subject_regex="Subject[0-9]+")
    sources = [nineteen(s) for s in sources]
    store = build_store(work / "real", sources, LENGTH, INTERVAL, progress=False)
    return store, split_by_subject(store.index, valid=["Subject11"], test=REAL_TEST)


def trained(store, split, folder, seed, args):
    "A network trained to say what follows; its last weights."
    config = TrainingConfig(steps=args.steps, batch_size=args.batch, mask="future",
                            patience=10_000, seed=seed)
    last = folder / "last.safetensors"
    if not last.exists():
        resume = any(folder.glob("checkpoint*.pt"))
        split = dict(split, valid=split["valid"][::5])  # each takes a pass an epoch
        run = Pretraining(store, split, folder, config, SIZES, resume=resume, progress=False)
        run.run()
        run.model.save(last)
    return SJEPA.load(last)


def untrained(montage, seed):
    "A network that has learned nothing."
    torch.manual_seed(seed)
    return SJEPA(montage, SIZES).eval()


# ---------------------------------------------------------------- what is seen, and what comes

def band_powers(x, relative):
    "Log powers `(windows, channels, seconds, bands)` of the 128 samples that each token adds."
    parts = patches(torch.as_tensor(x))[..., -128:]
    if relative: parts = signal_target(parts)
    return (powers_in(parts, BANDS) + 1e-4).log().numpy()


def powers_of(x, relative):
    "Those that are seen, and those to come."
    powers = band_powers(x, relative)
    return powers[:, :, :SEEN], powers[:, :, SEEN:][:, :, AHEAD]


def latents_of(model, x):
    "Targets that are seen, without what follows; predicted and true ones to come."
    seen = target_tokens(model, x[..., :SAMPLES])
    predicted, true = look_ahead(model, x, SEEN)
    return [v.numpy() for v in (seen, predicted[:, :, AHEAD], true[:, :, AHEAD])]


def baselines(): return {
    "persistence": Persistence(),
    "autoregressive": Autoregression(SEEN),
    "autoregressive, all channels": Autoregression(1, across=True)}


def read_out(latents, powers, whose):
    "A ridge for each horizon that reads powers from latents."
    each = range(len(HORIZONS))
    return [Autoregression(1).fit(latents[:, :, [k]], powers[:, :, [k]], whose) for k in each]


def read(readers, latents):
    "The powers that they read."
    parts = [r.predict(latents[:, :, [k]]) for k, r in enumerate(readers)]
    return np.concatenate(parts, 2)


# ---------------------------------------------------------------- rows

def row(what, model, r2, band="all"):
    "A row, a column a horizon."
    return dict(what=what, model=model, band=band) | {f"{h} s": v for h, v in zip(HORIZONS, r2)}


def power_rows(what, model, true, predicted, by_band=True):
    "R² of all bands, and of each."
    each = [explained(true[..., [k]], predicted[..., [k]]) for k in range(len(BANDS))]
    rows = [row(what, model, np.mean(each, 0))]
    return rows + [row(what, model, r2, band) for band, r2 in zip(BANDS, each) if by_band]


def lasting(what, seen, true):
    "The correlation of each band's powers with those of the last second seen, within channels."
    centred = [v - v.mean(0) for v in (seen[:, :, -1:], true)]
    a, b = centred[0], centred[1]
    r = (a * b).mean(0) / np.sqrt((a**2).mean(0) * (b**2).mean(0))  # (channels, horizons, bands)
    return [row(what, "correlation", r[..., k].mean(0), band) for k, band in enumerate(BANDS)]


def without_network(fit, whose, runs):
    "Rows of band powers forecast from band powers."
    for what in ("power", "share"):
        past = {who: powers_of(x, what == "share") for who, x in runs.items()}
        known = powers_of(fit, what == "share")
        models = [(n, m.fit(*known, whose)) for n, m in baselines().items()]
        for who, (seen, true) in past.items():
            rows = lasting(what, seen, true)
            for name, model in models: rows += power_rows(what, name, true, model.predict(seen))
            yield from (told(who, "none", r) for r in rows)


def with_network(name, model, fit, whose, runs):
    "Rows of latents, and of band powers read from latents."
    seen, predicted, true = latents_of(model, fit)
    models = [(n, m.fit(seen, true, whose)) for n, m in baselines().items()]
    readers = {}
    for what in ("power", "share"):
        _, powers = powers_of(fit, what == "share")
        readers[what] = [read_out(v, powers, whose) for v in (predicted, true)]
    for who, x in runs.items():
        seen, predicted, true = latents_of(model, x)
        rows = [row("latent", "predictor", explained(true, predicted))]
        rows += [row("latent", n, explained(true, m.predict(seen))) for n, m in models]
        other = with_another_past(x, SEEN)
        rows += [row("latent", "another past", explained(true, latents_of(model, other)[2]))]
        for what, (of_predicted, of_true) in readers.items():
            _, powers = powers_of(x, what == "share")
            by_band = name.startswith("trained")
            found = dict(predicted=read(of_predicted, predicted), true=read(of_true, true))
            for which, p in found.items(): rows += power_rows(what, which, powers, p, by_band)
        yield from (told(who, name, r) for r in rows)


def told(who, network, found):
    "A row with the run that it is of, and which network."
    return dict(zip(("dataset", "person", "run", "windows"), who), network=network) | found


def groups(store, split):
    "For each montage: windows to fit baselines to, the run of each, and those of each run asked."
    which = store.index["montage"].to_numpy()
    for m, montage in enumerate(store.montages):
        mine, asked = ([i for i in split[part] if which[i] == m] for part in ("train", "test"))
        table, runs = store.index.iloc[asked], {}
        for run, at in table.groupby("recording", sort=False).indices.items():
            dataset, person = table[["dataset", "subject"]].iloc[at[0]]
            known = [name for code, name in DATASETS.items() if dataset.startswith(code)]
            runs[known[0], person, run, len(at)] = store.read(np.asarray(asked)[at])
        some = mine[::-(-len(mine) // MOST)]
        yield montage, store.read(some), store.index.recording.iloc[some].to_numpy(), runs


def add(kind, network, rows):
    "Write the rows of a network, and say so."
    now = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=RESULTS.parent, text=True,
                         capture_output=True).stdout.strip()
    key = ["dataset", "person", "network", "what", "model", "band"]
    mean = {f"{h} s": "mean" for h in HORIZONS} | dict(windows="sum")
    table = pd.DataFrame(rows).groupby(key, sort=False, as_index=False).agg(mean)  # over runs
    table.insert(0, "people", kind)
    old = [pd.read_csv(RESULTS)] if RESULTS.exists() else []
    table = pd.concat([*old, table.assign(commit=now)])
    write_whole(RESULTS, lambda part: table.to_csv(part, index=False, float_format="%.4f"))
    print(kind, network, flush=True)


def measure(kind, store, split, network, model):
    "All rows of a network (or of none), unless they are there."
    if RESULTS.exists():
        old = pd.read_csv(RESULTS)
        if ((old.people == kind) & (old.network == network)).any(): return
    rows = []
    for montage, *windows in groups(store, split):
        if model is None: rows += without_network(*windows)
        else:
            placed = on_montage(model, montage)
            set_precision(placed, "auto", "cpu")
            rows += with_network(network, placed, *windows)
    add(kind, network, rows)


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", type=Path, required=True, help="folder of windows and runs")
    p.add_argument("--real", action="store_true", help="real people instead of simulated ones")
    p.add_argument("--files", nargs="*", default=[], help="eegmat's recordings")
    p.add_argument("--steps", type=int, default=3000)
    p.add_argument("--batch", type=int, default=4, help="windows a step")
    p.add_argument("--seeds", type=int, nargs="*", default=[0], help="of networks")
    args = p.parse_args()
    mne.set_log_level("ERROR")
    args.work.mkdir(parents=True, exist_ok=True)
    kind, work = "real" if args.real else "simulated", args.work
    store, split = real_windows(work, args.files) if args.real else simulated_windows(work)
    measure(kind, store, split, "none", None)
    for seed in args.seeds:
        measure(kind, store, split, f"untrained, seed {seed}", untrained(store.montage, seed))
        model = trained(store, split, work / f"{kind}-{seed}", seed, args)
        measure(kind, store, split, f"trained, seed {seed}", model)


if __name__ == "__main__": main()
