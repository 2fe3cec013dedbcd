"""Which features do tokens hold early in a training, and which late: latent or signal targets?

    OMP_NUM_THREADS=1 python benchmarks/learnt_first.py --work DIR

Two trainings of a kind of 3,000 steps (two seeds): size 4/8/256, eight windows of 1.2 s a step of
simulated people 1 to 8. On the way, band powers and phases of each token's own second are read off
frozen tokens of people 9 and 10 by a ridge regression, place by place: fitted on half of the
windows, judged on the other half. Makes results/learnt_first.csv anew, and
results/features_of_eeg.csv: the power of each band, and how well other channels tell of it.
"""
import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pretraining_choices import BASE, RESULTS, windows
from scipy.signal import butter, hilbert, sosfiltfilt
from sklearn.linear_model import Ridge

from sjepa_nb.batches import epoch_batches, montage_masks
from sjepa_nb.collapse import centre_by, token_places
from sjepa_nb.diagnostics import band_powers
from sjepa_nb.files import write_whole
from sjepa_nb.model import SJEPA, SJEPAConfig
from sjepa_nb.pretraining import TrainingConfig, make_optimiser, train_step
from sjepa_nb.targets import BANDS

STEPS = 0, 10, 30, 100, 300, 1000, 3000
CONFIG = TrainingConfig(batch_size=8, precision="float32")


def in_band(x, low, high):
    "Windows `(…, samples)` filtered forwards and backwards."
    return sosfiltfilt(butter(2, (low, high), "bandpass", fs=128, output="sos"), x)


def features(x):
    "Of the one token of each channel: name → `(windows × channels, n)`."
    powers = band_powers(x)[:, :, 0]
    found = {f"{name} power": powers[..., [k]].flatten(0, 1) for k, name in enumerate(BANDS)}
    for name, band in BANDS.items():
        angle = np.angle(hilbert(in_band(x.numpy(), *band)))[..., 76]  # at the middle sample
        found[f"{name} phase"] = torch.as_tensor(np.stack([np.cos(angle), np.sin(angle)], -1)
                                                 ).float().flatten(0, 1)
    return found


def readable(tokens, feature, place, half):
    "R² of a feature, read off tokens, place by place."
    tokens, feature = centre_by(tokens, place).numpy(), centre_by(feature, place).numpy()
    said = Ridge(10.).fit(tokens[half], feature[half]).predict(tokens[~half])
    said = said.reshape(feature[~half].shape)
    return 1 - ((feature[~half] - said)**2).sum() / (feature[~half]**2).sum()


@torch.no_grad()
def ask(model, x, found):
    "What local and contextual tokens of windows tell of each feature."
    model.eval()
    n = x.shape[1]
    kinds = dict(local=model.local_encoder(x)[:, :, 0], contextual=model.encode(x))
    place = token_places(torch.ones(len(x), n, dtype=torch.bool), torch.arange(n), 1)
    half = (np.arange(len(x)) % 2 == 0).repeat(n)
    return [dict(tokens=kind, feature=name,
                 r2=readable(tokens.flatten(0, 1), feature, place, half))
            for kind, tokens in kinds.items() for name, feature in found.items()]


def train(target, seed, store, split, x):
    "Rows of one training."
    torch.manual_seed(seed)
    model = SJEPA(store.montage, SJEPAConfig.preset(BASE["size"], target=target))
    optimiser, found, rows, step = make_optimiser(model, CONFIG), features(x), [], 0
    draw, channels = montage_masks(store, model.montage)[0]
    for epoch in range(100):
        for batch in epoch_batches(store.index["montage"], split["train"], 8, seed=[seed, epoch]):
            if step in STEPS:
                new = ask(model, x, found)
                rows += [dict(target=target, seed=seed, step=step, **r) for r in new]
                print(target, seed, step, flush=True)
            if step == STEPS[-1]: return rows
            masks = draw(len(batch), torch.Generator().manual_seed(seed * 1_000_003 + step))
            seen = torch.as_tensor(store.read(batch))
            train_step(model.train(), optimiser, seen, masks, channels, step, STEPS[-1], CONFIG)
            step += 1


def bands_of(store, split):
    "Power of each band at a channel, and the share of it that channels 0.6 radii away tell."
    x = store.read(split["valid"][::10]).astype(float)
    far, rows = store.montage.distances() >= .6, []
    for name, band in BANDS.items():
        part = in_band(x, *band)[..., 20:-20]
        flat = part.swapaxes(0, 1).reshape(part.shape[1], -1)
        first = np.arange(flat.shape[1]) < flat.shape[1] // 2
        told = []
        for at in range(len(flat)):
            others = flat[far[at]].T
            said = Ridge(1.).fit(others[first], flat[at, first]).predict(others[~first])
            told.append(1 - ((flat[at, ~first] - said)**2).sum() / (flat[at, ~first]**2).sum())
        rows.append(dict(band=name, power=part.var(), told=np.mean(told)))
    return rows


def write(name, rows):
    "A table, whole or not at all."
    table = pd.DataFrame(rows)
    write_whole(RESULTS / name, lambda part: table.to_csv(part, index=False, float_format="%.4g"))


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", type=Path, required=True, help="folder of windows")
    work = p.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    store, split = windows(work, BASE["length"], BASE["interval"])
    write("features_of_eeg.csv", bands_of(store, split))
    x, rows = torch.as_tensor(store.read(split["valid"][::4])), []
    for seed in (0, 1):
        for target in ("latent", "signal"): rows += train(target, seed, store, split, x)
    write("learnt_first.csv", rows)


if __name__ == "__main__": main()
