"""The command on real recordings, where `MNE_DATA` holds them: one dataset, and files of two
montages, rates and units at once."""
import json

import numpy as np
import pandas as pd

from sjepa_nb.command_line import sjepa_pretrain
from sjepa_nb.store import WindowStore
from sjepa_nb.model import SJEPA

QUICK = ["--length", "1", "--epochs", "1", "--batch-size", "16", "--quiet"]


def test_physionet_by_name(real_data, tmp_path):
    """Subjects with all their runs train, rest-only subjects validate; the flat tails are left out
    and counted."""
    out = tmp_path / "run"
    who = ["--subjects", "1", "38", "40", "--valid-subjects", "38", "40"]
    assert sjepa_pretrain(["--dataset", "PhysionetMI", *who, *QUICK, "--out", str(out)]) == 0
    store = WindowStore(out / "windows.zarr")
    runs = {who: set(part.run) for who, part in store.index.groupby("subject")}
    assert len(store.montage) == 64
    assert runs["1"] == {str(r) for r in range(1, 15)} and runs["38"] == {"1", "2"}
    assert np.isfinite(pd.read_csv(out / "epochs.csv").loss).all()


def test_two_montages_rates_and_units_at_once(real_data, tmp_path, capsys):
    "Eight occipital channels at 256 Hz, uncalibrated, and 64 channels at 160 Hz train one model."
    files = sorted(real_data.glob("MNE-ssvepexo-data/**/*run1_raw.fif"))[:3]
    for s in (1, 2, 38):
        files.append(sorted(real_data.glob(f"MNE-eegbci-data/**/S{s:03d}R0[12].edf"))[0])
    words = ["--recordings", *map(str, files), "--valid-subjects", "subject03", "S038", *QUICK]
    assert sjepa_pretrain([*words, "--out", str(tmp_path / "run")]) == 2
    # the uncalibrated ones are refused until one says what to do
    assert "scale" in capsys.readouterr().err
    out = tmp_path / "both"
    words += ["--scale", "implausible", "--interval", "5"]
    assert sjepa_pretrain([*words, "--out", str(out)]) == 0
    model = SJEPA.load(out / "model.safetensors")
    data = json.loads((out / "run.json").read_text())["data"]
    store = WindowStore(out / "windows.zarr")
    assert sorted(len(m) for m in store.montages) == [8, 64]
    assert len(model.montage) == len(data["channels"]) == 64
    start = SJEPA(store.montage).position.spatial
    moved = (model.position.spatial - start).detach().abs().amax(1)
    assert moved.min() > 0  # every channel's row was trained
