"""Do the encoder's likelihood and its misfit find spoilt windows? Beside rules of amplitude.

    OMP_NUM_THREADS=1 python benchmarks/likelihood.py [--real]

For simulated people 62 to 65, whom no pre-training saw; with --real for PhysionetMI 1 to 3 (set
MNE_DATA). 24 windows of a person as they are against 8 spoilt ones, for each kind of accident:
AUC of each rule, all with a direction given beforehand. `own artefacts`: of 128 simulated windows,
the eight with the most that is not brain, known from simulating the person without any; the others
are of the quieter half. `another person`: windows of the next of the people. `unusual`: beside
other windows of the person, 32 or (--real) all that are left. `alike`: not an AUC, but the rank
correlation of a model's likelihood with a random network's, over all these windows.
Rows go to results/likelihood.csv; a person's that are there are skipped.
"""
import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

from sjepa_nb.likelihood import embedding_jacobian, log_volume, robust_z
from sjepa_nb.missing_channel import dead, loose, misfit, swap
from sjepa_nb.model import SJEPA, SJEPAConfig, on_montage
from sjepa_nb.simulation import SimulatedMI
from sjepa_nb.trials import load_trials

RESULTS = Path(__file__).resolve().parent.parent / "results" / "likelihood.csv"
PEOPLE = {"simulated": (62, 63, 64, 65), "PhysionetMI": (1, 2, 3)}
CLEAN, SPOILT = 24, 8
CLASSES = ["left_hand", "right_hand", "hands", "feet"]


def simulated(person, **settings):
    "Windows of a simulated person, and the montage."
    data = SimulatedMI(65, n_trials=128, test_run=False, **settings)
    x, _, _, montage = load_trials(data, "MI", [person], length=152)
    return x, montage


def windows(dataset, person):
    "Windows of a person in random order, those with most artefacts if that is known, montage."
    rng = np.random.default_rng(person)
    if dataset == "PhysionetMI":
        x, _, _, montage = load_trials(dataset, "MI", [person], length=152, events=CLASSES)
        return rng.permutation(x), None, montage
    x, montage = simulated(person)
    order = (x - simulated(person, artefacts=0)[0]).std((1, 2)).argsort()
    return x[rng.permutation(order[:64])], x[order[-SPOILT:]], montage


def blink(x, montage, rng):
    "A blink of 150 µV at the forehead's electrodes, fading with distance."
    fp = montage.positions[montage.index(["Fp1", "Fp2"])].mean(0)
    fading = np.exp(-((montage.positions - fp)**2).sum(1) / (2 * .4**2))
    course = np.zeros(x.shape[-1])
    start = int(rng.integers(0, 152 - 40))
    course[start:start + 40] = 150 * np.hanning(40)
    return referenced(x + fading[:, None] * course)


def muscle(x, montage, rng):
    "Muscles at the right temple: 20 to 40 Hz with an SD of 30 µV, fading with distance."
    place = montage.positions[montage.index(["T8"])[0]]
    fading = np.exp(-((montage.positions - place)**2).sum(1) / (2 * .4**2))
    spectrum = np.fft.rfft(rng.standard_normal(x.shape[-1]))
    hz = np.fft.rfftfreq(x.shape[-1], 1 / 128)
    course = np.fft.irfft(spectrum * ((hz > 20) & (hz < 40)), x.shape[-1])
    return referenced(x + fading[:, None] * 30 * course / course.std())


def referenced(x): return x - x.mean(-2, keepdims=True)


def half_as_fast(x):
    "The first half of a window, drawn out to its whole length."
    n = x.shape[-1]
    return np.stack([np.interp(np.arange(n) / 2, np.arange(n), row) for row in x])


def noise_of(x, rng):
    "White noise with the amplitude of each channel."
    return rng.standard_normal(x.shape) * x.std(-1, keepdims=True)


def accidents(montage, rng):
    "The accidents by name: window → spoilt window."
    n = len(montage)
    other_order = rng.permutation(n)
    return {
        "blink": lambda x: blink(x, montage, rng),
        "muscle": lambda x: muscle(x, montage, rng),
        "twice as large": lambda x: 2 * x,
        "one loose": lambda x: loose(x, int(rng.integers(n)), rng),
        "one dead": lambda x: dead(x, int(rng.integers(n)), rng),
        "two swapped": lambda x: swap(x, *rng.choice(n, 2, replace=False)),
        "labels in another order": lambda x: x[other_order],
        "half as fast": half_as_fast,
        "white noise": lambda x: noise_of(x, rng)}


def models(montage, seed):
    "The shipped models and a random one, on a montage."
    found = {name: SJEPA.from_pretrained(name) for name in ("simulated", "physionet")}
    torch.manual_seed(seed)
    found["random"] = SJEPA(montage, SJEPAConfig.preset("4/8/256"))
    return {name: on_montage(model, montage) for name, model in found.items()}


def embeddings(model, x):
    "The mean contextual token of each window."
    with torch.no_grad(): return model.encode(torch.as_tensor(x)).mean(1).numpy()


def of_model(model, usual):
    "Rules of a model: windows → a number a rule, larger for the less likely."
    density = LedoitWolf().fit(embeddings(model, usual))
    expected, spans = misfit(model, usual), np.ptp(usual, axis=-1)
    def rules(x):
        jacobians = [embedding_jacobian(model, w) for w in torch.as_tensor(x)]
        shapes = [j * w.std(1)[:, None] for j, w in zip(jacobians, torch.as_tensor(x))]
        found = {"likelihood": -np.array([float(log_volume(j)) for j in jacobians]),
                 "likelihood of the shape": -np.array([float(log_volume(j)) for j in shapes])}
        far = density.mahalanobis(embeddings(model, x)) / 2
        found["likelihood, Gaussian"] = found["likelihood"] + far
        errors = misfit(model, x)
        found |= {"mean misfit": errors.mean(1), "largest misfit": errors.amax(1)}
        found["unusual misfit"] = unusual = robust_z(errors, expected)
        found["either unusual"] = np.maximum(unusual, robust_z(np.ptp(x, axis=-1), spans))
        return pd.DataFrame(found)
    return rules


def of_amplitude(usual):
    "The rules of amplitude: the largest peak-to-peak, and the least usual one of a channel."
    spans = np.ptp(usual, axis=-1)
    def rules(x):
        span = np.ptp(x, axis=-1)
        found = {"peak to peak": span.max(1), "unusual peak to peak": robust_z(span, spans)}
        return pd.DataFrame(found)
    return rules


def judged(clean, spoilt):
    "AUC of each rule."
    truth = np.r_[np.zeros(len(clean)), np.ones(len(spoilt))]
    both = pd.concat([clean, spoilt])
    return {rule: roc_auc_score(truth, both[rule]) for rule in both}


def compare(rules, kinds):
    "A row for each kind of spoilt windows and each rule, of each model and of none."
    rows, likelihood = [], {}
    for model, rule in rules.items():
        found = {kind: rule(x.astype(np.float32)) for kind, x in kinds.items()}
        for kind, spoilt in list(found.items())[1:]:
            aucs = judged(found["as recorded"], spoilt)
            rows += [dict(model=model, kind=kind, rule=r, auc=auc) for r, auc in aucs.items()]
        if model != "none": likelihood[model] = pd.concat(found.values())
    for model, mine in likelihood.items():
        for rule in ("likelihood", "likelihood of the shape"):
            same = spearmanr(mine[rule], likelihood["random"][rule]).statistic
            rows.append(dict(model=model, kind="alike", rule=rule, auc=same))
    return rows


def rows_of(dataset, person):
    "All rows of a person."
    x, artefacts, montage = windows(dataset, person)
    clean, rest, usual = np.split(x, [CLEAN, CLEAN + SPOILT])
    kinds = {"as recorded": clean}
    if artefacts is not None: kinds["own artefacts"] = artefacts
    for name, accident in accidents(montage, np.random.default_rng(person)).items():
        kinds[name] = np.stack([accident(w) for w in rest])
    people = PEOPLE[dataset]
    other = people[(people.index(person) + 1) % len(people)]
    kinds["another person"] = windows(dataset, other)[0][:SPOILT]
    rules = {"none": of_amplitude(usual)}
    for name, model in models(montage, person).items(): rules[name] = of_model(model, usual)
    return compare(rules, kinds)


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--real", action="store_true", help="PhysionetMI instead of simulated people")
    dataset = "PhysionetMI" if p.parse_args().real else "simulated"
    old = pd.read_csv(RESULTS) if RESULTS.exists() else pd.DataFrame(columns=["dataset", "person"])
    there = set(zip(old.dataset, old.person))
    for person in PEOPLE[dataset]:
        if (dataset, person) in there: continue
        rows = rows_of(dataset, person)
        table = pd.DataFrame([dict(dataset=dataset, person=person) | row for row in rows])
        now = pd.read_csv(RESULTS) if RESULTS.exists() else None
        pd.concat([now, table]).to_csv(RESULTS, index=False, float_format="%.4f")
        print(dataset, person, flush=True)


if __name__ == "__main__": main()
