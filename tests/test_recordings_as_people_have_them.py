"""Recordings as people have them: each kind that once went wrong in silence, or was refused for nothing, with the right value."""
import os
from pathlib import Path

import mne
import numpy as np
import pytest

from sjepa_nb.data import Preprocessing, preprocess
from sjepa_nb.montage import canonical_name, other_kind, recording_montage

T19 = tuple("Fp1 Fp2 F3 F4 C3 C4 P3 P4 O1 O2 F7 F8 T7 T8 P7 P8 Fz Cz Pz".split())
UV = 1e-6  # V


def noise(names=T19, sfreq=250., seconds=60, sd=10., seed=0):
    "A recording of white noise, in volts."
    x = np.random.default_rng(seed).normal(size=(len(names), int(sfreq * seconds))) * sd * UV
    return mne.io.RawArray(x, mne.create_info(list(names), sfreq, "eeg"), verbose="ERROR")


# ---------------------------------------------------------------- channels that are no electrodes, references in names

@pytest.mark.parametrize("name, place", [
    ("EEG Fp1", "Fp1"), ("EEG Fp1-REF", "Fp1"), ("EEG FP1-LE", "Fp1"), ("Fp1-A1", "Fp1"), ("C3-M2", "C3"), ("Fz-CPz", "Fz"), ("EEG C3-Org", "C3"),
    ("EEG T3-REF", "T7"), ("A1", "A1"), ("EEG A1-REF", "A1"), ("A2-A1", None), ("M1-M2", None), ("Fp1-F7", None), ("Fpz-Cz", None)])
def test_references_in_names(name, place):
    assert canonical_name(name) == place


def test_channels_that_are_no_electrodes_are_named_and_left_out():
    beside = ["ECG ECG", "EEG EKG1-REF", "EEG ROC-REF", "EMG chin", "Resp thorax", "PHOTIC-REF", "DC1-DC", "POL E", "EEG A2-A1"]
    raw = noise([f"EEG {n}-REF" for n in T19] + beside)
    raw._data[19:] *= 1000  # they would drown the reference
    rec = preprocess(raw)
    assert rec.montage.names == T19
    assert all(n in rec.notes[0] for n in beside)
    clean = raw.copy().pick(raw.ch_names[:19])
    np.testing.assert_array_equal(rec.data, preprocess(clean).data)


def test_names_that_say_nothing_are_still_refused():
    with pytest.raises(ValueError, match="channels without a position: Q7"): preprocess(noise(T19 + ("Q7",)))
    rec = preprocess(noise(T19 + ("Q7",)), Preprocessing(on_missing="drop"))
    assert rec.notes == ("1 channels without a position left out: Q7",)


def test_bipolar_derivations_are_said_to_be_such():
    with pytest.raises(ValueError, match="bipolar derivations: Fp1-F7, F7-T7; each is the difference"): preprocess(noise(["Fp1-F7", "F7-T7"]))


def test_an_electrode_with_a_place_of_its_own_is_an_electrode():
    "`E1` and `E2` are eyes in a sleep laboratory and electrodes of a geodesic net."
    assert other_kind("E1") == "EOG" and other_kind("E12") is None
    net = mne.channels.make_standard_montage("GSN-HydroCel-128")
    info = mne.create_info(net.ch_names, 128., "eeg").set_montage(net)
    assert len(recording_montage(info)[0]) == 128


EEGMAT = Path(os.environ.get("EEGMAT", "/nonexistent"))


@pytest.mark.skipif(not EEGMAT.exists(), reason="EEGMAT names no folder of eegmat's recordings")
def test_eegmat_without_an_option(tmp_path):
    from sjepa_nb.data import build_store, file_sources, subjects_of
    store = build_store(tmp_path / "store", file_sources(sorted(EEGMAT.glob("*.edf"))), 4., progress=False)
    assert len(set(subjects_of(store.index))) == 18 and len(store.montage) == 19
    assert "EEG A2-A1" in store.describe() and "ECG ECG" in store.describe()
