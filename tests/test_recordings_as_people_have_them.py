"""Recordings as people have them: each kind that once went wrong in silence, or was refused for
nothing, with the right value."""
import json
import os
import shutil
import warnings
from functools import partial
from pathlib import Path

import mne
import mne_bids
import numpy as np
import pybv
import pytest
import requests
from moabb.datasets.base import BaseDataset

from sjepa_nb.command_line import sjepa_pretrain
from sjepa_nb.preprocessing import Preprocessing, _cuts, preprocess
from sjepa_nb.sources import Source, _fingerprint, _whose, file_sources
from sjepa_nb.store import (
    _shortened, build_store, cut_windows, plan_windows, split_by_subject, subjects_of,
)
from sjepa_nb.trials import _mark_defects, load_trials
from sjepa_nb.montage import (
    HEAD_RADIUS, LEE2019_CHANNELS, canonical_name, named_montage, other_kind, recording_montage,
)

T19 = tuple("Fp1 Fp2 F3 F4 C3 C4 P3 P4 O1 O2 F7 F8 T7 T8 P7 P8 Fz Cz Pz".split())
CHANNELS = ["Fp1", "Fz", "C3", "Cz", "C4", "Pz", "O1", "Oz"]
UV = 1e-6  # V


def noise(names=T19, sfreq=250., seconds=60, sd=10., seed=0):
    "A recording of white noise, in volts."
    x = np.random.default_rng(seed).normal(size=(len(names), int(sfreq * seconds))) * sd * UV
    return mne.io.RawArray(x, mne.create_info(list(names), sfreq, "eeg"), verbose="ERROR")


def save_noise(path, **kwargs):
    "A recording of white noise in a file."
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(**kwargs).save(path, overwrite=True, verbose="ERROR")
    return path


def read_one(path):
    "The only run of a file."
    (_, raw), = file_sources([path])[0].read()
    return raw


def build(folder, files, interval=2.):
    "A store of windows of one second."
    return build_store(folder, file_sources(files), 1., interval, progress=False)


# ---------------------------------------------------------------- what a channel is, by its name

@pytest.mark.parametrize("name, place", [
    ("EEG Fp1", "Fp1"), ("EEG Fp1-REF", "Fp1"), ("EEG FP1-LE", "Fp1"), ("Fp1-A1", "Fp1"),
    ("C3-M2", "C3"), ("Fz-CPz", "Fz"), ("EEG C3-Org", "C3"), ("EEG T3-REF", "T7"), ("A1", "A1"),
    ("EEG A1-REF", "A1"), ("Fp1 REF", "Fp1"), ("EEG Cz LE", "Cz"), ("A2-A1", None),
    ("M1-M2", None), ("Fp1-F7", None), ("Fpz-Cz", None)])
def test_references_in_names(name, place):
    assert canonical_name(name) == place


def test_channels_that_are_no_electrodes_are_named_and_left_out():
    beside = ["ECG ECG", "EEG EKG1-REF", "EEG ROC-REF", "EMG chin", "Resp thorax", "PHOTIC-REF",
              "DC1-DC", "POL E", "EEG A2-A1"]
    raw = noise([f"EEG {n}-REF" for n in T19] + beside)
    raw._data[19:] *= 1000  # they would drown the reference
    rec = preprocess(raw)
    assert rec.montage.names == T19
    assert all(n in rec.notes[0] for n in beside)
    clean = raw.copy().pick(raw.ch_names[:19])
    np.testing.assert_array_equal(rec.data, preprocess(clean).data)


@pytest.mark.parametrize("suffix", ["-G2", "-AA", " REF", "-(A1+A2)/2", "-Vref", "-Pz"])
def test_what_all_names_share_behind_the_hyphen_is_the_reference(suffix):
    names = [n for n in T19 if n != "Pz"]
    raw = noise([f"{n}{suffix}" for n in names] + [f"EKG1{suffix}"])
    rec = preprocess(raw)
    assert rec.montage.names == tuple(names)
    assert rec.notes == (f"no electrodes, left out: EKG1{suffix} (ECG)",)


@pytest.mark.parametrize("name, kind", [
    ("VEOU", "EOG"), ("HEOL", "EOG"), ("VEO", "EOG"), ("EEG LUC-LE", "EOG"),
    ("PTAF", "respiration"), ("PlethWV", "ECG"), ("EEG Mark1", "stimulus or marker"),
    ("INTERPOLATED", "stimulus or marker"), ("RAW_CQ", "input beside the electrodes"),
    ("Cz-0", None), ("X1", None), ("CB1", None), ("O2-P4", None), ("O2-G2", None),
    ("O2 sat", "oxygen"), ("SaO2", "oxygen")])
def test_kinds_by_name(name, kind):
    assert other_kind(name) == kind


def test_names_that_say_nothing_are_still_refused():
    raw = noise(T19 + ("Q7",))
    with pytest.raises(ValueError, match="channels without a position: Q7"): preprocess(raw)
    rec = preprocess(raw, Preprocessing(on_missing="drop"))
    assert rec.notes == ("1 channels without a position left out: Q7",)


def test_bipolar_derivations_are_said_to_be_such():
    said = "bipolar derivations: Fp1-F7, F7-T7; each is the difference"
    with pytest.raises(ValueError, match=said): preprocess(noise(["Fp1-F7", "F7-T7"]))


def test_an_electrode_with_a_place_of_its_own_is_an_electrode():
    "`E1` and `E2` are eyes in a sleep laboratory and electrodes of a geodesic net."
    assert other_kind("E1") == "EOG" and other_kind("E12") is None
    net = mne.channels.make_standard_montage("GSN-HydroCel-128")
    info = mne.create_info(net.ch_names, 128., "eeg").set_montage(net)
    assert len(recording_montage(info)[0]) == 128


EEGMAT = Path(os.environ.get("EEGMAT", "/nonexistent"))


@pytest.mark.skipif(not EEGMAT.exists(), reason="EEGMAT names no folder of eegmat's recordings")
def test_eegmat_without_an_option(tmp_path):
    sources = file_sources(sorted(EEGMAT.glob("*.edf")))
    store = build_store(tmp_path / "store", sources, 4., progress=False)
    assert len(set(subjects_of(store.index))) == 18 and len(store.montage) == 19
    assert "EEG A2-A1" in store.describe() and "ECG ECG" in store.describe()


# ---------------------------------------------------------------- whose recording it is

WHO = {  # path → dataset, subject, session
    "edf/01_tcp_ar/aaaaaaab_s001_t000.edf": ("TUH", "aaaaaaab", "s001"),
    "edf/train/aaaaaaab/s002_2003/02_tcp_le/aaaaaaab_s002_t001.edf": ("TUH", "aaaaaaab", "s002"),
    "v1/00000258_s002_t000.edf": ("TUH", "00000258", "s002"),
    "tuab/aaaaaaab_s001.edf": ("TUH", "aaaaaaab", "s001"),
    "chb/chb01/chb01_03.edf": ("CHB-MIT", "chb01", "0"),
    "chb/chb17/chb17a_03.edf": ("CHB-MIT", "chb17", "0"),
    "chb/chb21/chb21_01.edf": ("CHB-MIT", "chb01", "0"),
    "bci/A01T.gdf": ("BCI-IV", "A01", "0"),
    "bci/A01E.gdf": ("BCI-IV", "A01", "0"),
    "bci/B0103T.gdf": ("BCI-IV", "B01", "03"),
    "sleep/SC4001E0-PSG.edf": ("Sleep-EDF", "SC400", "1"),
    "sleep/SC4002E0-PSG.edf": ("Sleep-EDF", "SC400", "2"),
    "sleep/SC4011E0-PSG.edf": ("Sleep-EDF", "SC401", "1"),
    "mmi/S001/S001R01.edf": ("mmi", "S001", "0"),
    "eegmat/Subject00_1.edf": ("eegmat", "Subject00", "0"),
    "study/sub-03/ses-2/eeg/sub-03_ses-2_eeg.vhdr": ("study", "03", "ses-2"),
    "study/sub-anna/ses-a/eeg/sub-anna_ses-a_eeg.edf": ("study", "anna", "ses-a"),
    "study/P01/rest.edf": ("study", "P01", "0"),
    "study/VP03/rest.edf": ("study", "VP03", "0"),
    "study/VPeaa/rest.vhdr": ("study", "VPeaa", "0"),
    "study/patient12/rest.edf": ("study", "patient12", "0"),
    "study/patient12/session2/s02_rest.edf": ("study", "patient12", "0"),
    "study/p01_s02.edf": ("study", "p01", "0"),
    "P300/S01/x.edf": ("P300", "S01", "0"),
    "P300/x.edf": ("P300", None, "0"),
}


@pytest.mark.parametrize("path, who", WHO.items())
def test_whose_recording_it_is(path, who):
    labels, rule = _whose(Path("/data") / path)
    assert (labels["dataset"], labels["subject"], labels["session"]) == who and rule


def test_no_patient_of_tuh_is_in_two_parts(tmp_path):
    files = []
    for session, folder in (("s001", "01_tcp_ar"), ("s002", "02_tcp_le")):
        (tmp_path / folder).mkdir()
        for patient in ("aaaaaaab", "aaaaaaac", "aaaaaaad"):
            name = f"{patient}_{session}_t000_raw.fif"
            files.append(save_noise(tmp_path / folder / name, seconds=30))
    store = build(tmp_path / "store", files)
    assert set(subjects_of(store.index)) == {"TUH/aaaaaaab", "TUH/aaaaaaac", "TUH/aaaaaaad"}
    parts = split_by_subject(store.index, .34)
    patients = store.index.run.str[:8]
    assert not set(patients.iloc[parts["train"]]) & set(patients.iloc[parts["valid"]])
    who = "subjects: TUH/aaaaaaab, TUH/aaaaaaac, TUH/aaaaaaad (by the names of TUH)"
    assert who in store.describe()


def test_dates_with_dots_tell_runs_apart(tmp_path):
    names = ("S1_2020.01.02_raw.fif", "S1_2020.01.03_raw.fif", "S2_2020.01.03_raw.fif")
    store = build(tmp_path / "store", [save_noise(tmp_path / n, seconds=30) for n in names])
    assert len(set(store.index.run)) == 3 and set(store.index.subject) == {"S1", "S2"}


def test_a_long_list_of_subjects_is_shortened():
    assert _shortened(list("abcdef"), 4) == "a, b, …, f"
    assert "…" not in _shortened([f"d/{i}" for i in range(40)])


# ---------------------------------------------------------------- cuts

def kept(rec, length=1., interval=.5):
    return [rec.data[:, s:s + 152] for s, why in plan_windows(rec, length, interval) if why is None]


@pytest.mark.parametrize("words", ["boundary", "New Segment/", "BAD boundary", "EDGE boundary"])
def test_a_cut(words):
    """A step of hundreds of microvolts at an annotation: no window near it, no trace of it in the
    others, and each side as if it were alone."""
    raw = noise(sfreq=128.)
    raw._data[:, 30 * 128:] += np.random.default_rng(1).normal(size=(19, 1)) * 300 * UV
    onset = [0., 30.] if words == "New Segment/" else [30.]
    took_out = 7. if words == "boundary" else 0.   # s; EEGLAB writes how much it was
    raw.set_annotations(mne.Annotations(onset, took_out, words))
    rec = preprocess(raw)
    assert max(np.abs(w).max() for w in kept(rec)) < 45
    cut = np.flatnonzero(rec.reasons["cut"])
    assert (cut[0], cut[-1]) == (29 * 128 - 1, 31 * 128)
    windows, offsets, why = cut_windows(rec, 1., .5)
    assert why["cut"] >= 5 and "annotated" not in why
    alone = preprocess(raw.copy().set_annotations(None).crop(0, 30, include_tmax=False))
    np.testing.assert_array_equal(rec.data[:, :30 * 128], alone.data)


def test_a_skip_of_a_fif_file_is_a_cut_at_both_ends():
    raw = noise()
    raw._data[:, 20 * 250:25 * 250] = 0
    raw._data[:, 25 * 250:] += 500 * UV * np.arange(19)[:, None]
    rec = preprocess(raw.set_annotations(mne.Annotations([20.], [5.], ["BAD_ACQ_SKIP"])))
    assert max(np.abs(w).max() for w in kept(rec)) < 45
    assert rec.reasons["cut"][[19 * 128 + 10, 26 * 128 - 10]].all()


def test_trials_are_not_cut_across_a_seam():
    raw = noise(seconds=20).set_annotations(mne.Annotations([10.], [0.], ["boundary"]))
    words = [a["description"] for a in _mark_defects(raw).annotations]
    assert [w for w in words if w.startswith("BAD")] == ["BAD_cut"]


def field(value, width):
    "A field of an EDF header."
    return str(value).ljust(width)[:width].encode()


def edf_plus_d_header(names, samples, records):
    "The header of an EDF+D file in tenths of a microvolt, with records of a second."
    n = len(names)
    fixed = [(0, 8), ("X X X X", 80), ("Startdate X X X X", 80), ("01.01.20", 8), ("00.00.00", 8),
             (256 * (n + 1), 8), ("EDF+D", 44), (records, 8), (1, 8), (n, 4)]
    columns = [(16, names), (80, [""] * n), (8, ["uV"] * (n - 1) + [""]), (8, [-3276.8] * n),
               (8, [3276.7] * n), (8, [-32768] * n), (8, [32767] * n), (80, [""] * n),
               (8, samples), (32, [""] * n)]
    head = b"".join(field(*f) for f in fixed)
    for width, values in columns: head += b"".join(field(v, width) for v in values)
    return head


def write_gapped(path):
    "An EDF+D file of ten records of a second, the last five a minute later."
    x = np.random.default_rng(0).normal(size=(8, 2000)) * 10
    content = edf_plus_d_header([*CHANNELS, "EDF Annotations"], [200] * 8 + [30], 10)
    for i in range(10):
        start = i if i < 5 else i + 60
        marks = f"+{start}\x14\x14\0".encode()
        if i == 7: marks += b"+67\x14left_hand\x14\0"
        content += np.round(x[:, i * 200:(i + 1) * 200] * 10).astype("<i2").tobytes()
        content += marks.ljust(60, b"\0")
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["s1.edf", "sub-1_task-a_eeg.edf"])
def test_gaps_of_an_edf_plus_d_file(tmp_path, name):
    """The seam is a cut, and what is marked after it keeps its place in the signal; in a BIDS
    dataset without a table of events too."""
    write_gapped(tmp_path / name)
    if "sub" in name:
        (tmp_path / "sub-1/eeg").mkdir(parents=True)
        (tmp_path / name).rename(tmp_path / "sub-1/eeg" / name)
        mne_bids.make_dataset_description(path=tmp_path, name="gaps", verbose="ERROR")
    (_, raw), = file_sources(tmp_path)[0].read()
    assert _cuts(raw) == [1000] and raw.n_times == 2000
    found = {(a["description"], float(a["onset"])) for a in raw.annotations}
    assert found == {("boundary", 5.), ("left_hand", 7.)}
    assert preprocess(raw).reasons["cut"].any()


# ---------------------------------------------------------------- dead stretches behind mixed rates

def edf(path, signals, unit="uV", limit=1000):
    edfio = pytest.importorskip("edfio")
    about = dict(physical_dimension=unit, physical_range=(-limit, limit))
    signals = [edfio.EdfSignal(x, rate, label=n, **about) for n, x, rate in signals]
    edfio.Edf(signals).write(path)
    return path


BESIDE = (), (("ECG", 512),), (("ECG", 512), ("Resp", 10)), (("SpO2", 1),)   # channel, Hz


@pytest.mark.parametrize("beside", BESIDE)
def test_dead_stretches_beside_other_rates(tmp_path, beside):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(19, 128 * 60)) * 10
    x[:, 20 * 128:30 * 128] = 0
    signals = [(n, v, 128) for n, v in zip(T19, x)]
    signals += [(n, rng.normal(size=rate * 60) * 100, rate) for n, rate in beside]
    raw = read_one(edf(tmp_path / "s1.edf", signals))
    rec = preprocess(raw)
    assert rec.reasons["flat"].sum() == 12 * 128 and raw.info["sfreq"] == 128
    assert all(n in rec.notes[0] for n, _ in beside)


def test_dead_stretches_of_a_recording_that_was_resampled():
    raw = noise(sfreq=128.)
    raw._data[:, 20 * 128:30 * 128] = 0
    rec = preprocess(raw.resample(512., method="fft", verbose="ERROR"))
    assert 11 * 128 < rec.reasons["flat"].sum() < 13 * 128


# ---------------------------------------------------------------- one bad electrode, one spike

def test_one_electrode_of_4_mV_is_left_out_before_the_reference():
    raw = noise()
    good = preprocess(raw.copy().drop_channels(["Fp1"]))
    raw._data[0] *= 400
    rec = preprocess(raw)
    assert rec.notes == ("bad, left out: Fp1 (far from the others in amplitude)",)
    np.testing.assert_array_equal(rec.data, good.data)
    said = "more than 10 times larger or smaller than the other channels: Fp1; mark as bad"
    strict = Preprocessing(bad_channels="raise")
    with pytest.raises(ValueError, match=said): preprocess(raw, strict)
    assert preprocess(raw, Preprocessing(bad_channels="keep")).montage.names == T19


def test_many_bad_electrodes_are_refused():
    raw = noise()
    raw._data[:6] *= 400
    said = "than the other channels: Fp1, Fp2, F3, F4, C3, C4"
    with pytest.raises(ValueError, match=said): preprocess(raw)


def test_one_dead_channel_is_left_out_and_named():
    raw = noise()
    raw._data[3] = 2 * UV
    rec = preprocess(raw)
    assert rec.notes == ("bad, left out: F4 (flat or NaN)",)
    assert "F4" not in rec.montage.names
    assert len(kept(rec)) == len(kept(preprocess(noise())))


def test_a_spike_is_bridged_left_out_and_counted():
    clean, raw = preprocess(noise()), noise()
    raw._data[2, 30 * 250 + 7] += .43
    rec = preprocess(raw)
    windows, offsets, why = cut_windows(rec, 1., .5)
    assert why == {"extreme": why["extreme"]} and 4 <= why["extreme"] <= 8
    # it left no trace elsewhere, and none on other channels
    assert np.abs(rec.data - clean.data)[:, ~rec.bad].max() < 2
    raw = noise()
    raw._data[2, 30 * 250:] += 50e-3   # a step of 50 mV where the amplifier was set back
    assert max(np.abs(w).max() for w in kept(preprocess(raw))) < 10 * 100


def test_blinks_are_no_extremes():
    raw = noise()
    for t in range(2, 58, 3): raw._data[:2, t * 250:t * 250 + 75] += 600 * UV * np.hanning(75)
    assert not preprocess(raw).bad.any() and preprocess(raw).notes == ()


# ---------------------------------------------------------------- the unit

@pytest.mark.parametrize("unit, volts", [("V", 1.), ("mV", 1e3), ("uV", 1e6), ("nV", 1e9)])
def test_numbers_in_another_unit_are_right_once_it_is_said(unit, volts):
    raw = noise()
    good = preprocess(raw)
    raw._data *= volts
    mine = Preprocessing(unit=unit)
    np.testing.assert_allclose(preprocess(raw, mine).data, good.data, rtol=1e-4, atol=1e-4)
    if unit == "uV":
        with pytest.raises(ValueError, match="say that these are microvolts .unit='uV'."):
            preprocess(raw)


def test_trials_in_another_unit_are_right_once_it_is_said():
    def whole(x, s): x *= 1e6
    good, *_ = load_trials(Harmed(lambda x, s: None), "MI")
    mine, *_ = load_trials(Harmed(whole), "MI", preprocessing=Preprocessing(unit="uV"))
    np.testing.assert_allclose(mine, good, rtol=1e-4, atol=1e-4)


def test_a_store_of_another_unit_is_another_store(tmp_path):
    path = save_noise(tmp_path / "s1_raw.fif", seconds=20)
    store = build(tmp_path / "store", [path])
    micro = partial(build_store, sources=file_sources([path]), length=1., interval=2.,
                    preprocessing=Preprocessing(unit="uV", scale="keep"))
    with pytest.raises(ValueError, match="unit 'V', now 'uV'"): micro(store.path)
    with pytest.raises(ValueError, match="unit 'uV', now 'V'"):
        build(micro(tmp_path / "micro").path, [path])


# ---------------------------------------------------------------- other names, another frame

@pytest.mark.parametrize("cap, n", [
    ("biosemi128", 128), ("biosemi160", 160), ("biosemi256", 256), ("GSN-HydroCel-32", 33),
    ("GSN-HydroCel-65_1.0", 65), ("GSN-HydroCel-129", 129), ("GSN-HydroCel-257", 257)])
def test_caps_of_other_systems_by_their_names(cap, n):
    cap = mne.channels.make_standard_montage(cap)
    info = mne.create_info(cap.ch_names, 128., "eeg")
    by_name, _ = recording_montage(info)
    digitised, _ = recording_montage(info.copy().set_montage(cap))
    assert len(by_name) == n and by_name.names == digitised.names
    np.testing.assert_allclose(by_name.positions, digitised.positions, atol=.05)
    assert {k for k in by_name.names if canonical_name(k)} <= {"Cz"}


NEEDLES = [f"{s}{i}" for s in "ABFO" for i in range(1, 9)]
A_AND_B = [f"{s}{i}" for s in "AB" for i in range(1, 33)]


@pytest.mark.parametrize("names", [NEEDLES, A_AND_B])
def test_names_of_another_system_without_a_place(names):
    "Needles inside the head, and 64 channels A1 to B32 that may be a whole cap or half of one."
    raw, said = noise(names, seconds=10), "names of another system, and no positions: A1, A2"
    with pytest.raises(ValueError, match=said): preprocess(raw)
    with pytest.raises(ValueError, match=said): preprocess(raw, Preprocessing(on_missing="drop"))


@pytest.mark.parametrize("names", [T19, LEE2019_CHANNELS])
@pytest.mark.parametrize("radius, shift", [
    (.095, (0, 0, 0)), (.11, (0, 0, .01)), (.085, (0, .02, -.02))])   # m
def test_places_on_a_sphere_around_another_origin(names, radius, shift):
    def placed():
        cap = mne.channels.make_dig_montage(places, coord_frame="head")
        info = mne.create_info(list(names), 128., "eeg").set_montage(cap)
        return recording_montage(info)[0].names

    sphere = mne.channels.make_standard_montage("spherical_1005").get_positions()["ch_pos"]
    places = {n: sphere[n] / np.linalg.norm(sphere[n]) * radius + shift for n in names}
    assert placed() == tuple(names)
    places[names[4]] = places[names[9]] + .001   # two names that deceive
    places[names[5]] = places[names[8]] + .001
    assert {n for n in placed() if "*" in n} == {f"{names[4]}*", f"{names[5]}*"}


# ---------------------------------------------------------------- files

def test_another_recording_of_the_same_size_is_noticed(tmp_path):
    path = save_noise(tmp_path / "s1_raw.fif", seconds=20)
    size, store = path.stat().st_size, build(tmp_path / "store", [path])
    assert len(build(tmp_path / "store", [path])) == len(store)
    save_noise(path, seconds=20, seed=1)
    assert path.stat().st_size == size
    said = "has other options or another content"
    with pytest.raises(ValueError, match=said): build(tmp_path / "store", [path])


def test_what_is_seen_of_a_recording_of_several_files(tmp_path):
    "A folder (EGI's .mff) and a FIF file in parts are as good as their other files."
    seen = set()
    (tmp_path / "s1.mff/deep").mkdir(parents=True)
    for name, content in (("signal1.bin", b"a"), ("signal1.bin", b"b"), ("deep/more", b"b")):
        (tmp_path / "s1.mff" / name).write_bytes(content)
        seen.add(_fingerprint(tmp_path / "s1.mff"))
    (tmp_path / "s1_raw.fif").write_bytes(b"a")
    for name, content in (("s1_raw.fif", b"b"), ("s1_raw-1.fif", b"a"), ("s1_raw-1.fif", b"b")):
        (tmp_path / name).write_bytes(content)
        seen.add(_fingerprint(tmp_path / "s1_raw.fif"))
    assert len(seen) == 6
    (tmp_path / "s1_raw-1.fif").unlink()
    assert _fingerprint(tmp_path / "s1_raw.fif").count("-") == 1   # as stores have it


def test_a_store_of_before_still_opens(tmp_path):
    """Its preprocessing knows no `bad_channels`, its sources a file's size alone, and it does not
    say how subjects were found."""
    path = save_noise(tmp_path / "s1_raw.fif", seconds=20)
    store = build(tmp_path / "store", [path])
    file = tmp_path / "store/zarr.json"
    about = json.loads(file.read_text())
    old = about["attributes"]
    del old["preprocessing"]["bad_channels"], old["subjects_by"]
    old["sources"] = {k: v.split("-")[0] for k, v in old["sources"].items()}
    file.write_text(json.dumps(about))
    again = build(tmp_path / "store", [path])
    assert len(again) == len(store) and "1 subjects" in again.describe()
    with pytest.raises(ValueError, match="another store"): build(tmp_path / "store", [path], 3.)


def test_two_channels_of_one_name_and_records_that_are_not_counted(tmp_path):
    rng = np.random.default_rng(0)
    signals = [(n, rng.normal(size=200 * 20) * 10, 200) for n in T19 + ("Fz",)]
    path = edf(tmp_path / "s1.edf", signals)
    rec = preprocess(read_one(path))
    assert rec.montage.names == tuple(n for n in T19 if n != "Fz")
    assert rec.notes == ("several channels of one name, left out: Fz-0, Fz-1",)
    every = edf(tmp_path / "s2.edf", [(n, rng.normal(size=4000) * 10, 200) for n in ["Fz"] * 2])
    said = "several channels of one name, numbered by the reader: Fz-0, Fz-1"
    with pytest.raises(ValueError, match=said): preprocess(read_one(every))
    content = bytearray(path.read_bytes())
    content[236:244] = b"-1      "
    path.write_bytes(content)
    assert read_one(path).n_times == 200 * 20


# ---------------------------------------------------------------- many recordings, a few bad

def made(run, read, harm):
    "A run of a made-up person, whom `harm` has met; `read` notes who was read."
    read.append(run)
    raw = noise(CHANNELS, seconds=20)
    harm(raw)
    yield dict(dataset="made", subject="1", session="0", run=run), raw


def well(raw): pass
def dead(raw): raw._data[:] = 0
def millions(raw): raw._data *= 1e6
def offline(raw): raise requests.ConnectionError("no route to host")


def made_sources(read, **harms):
    return [Source(f"made/{run}", "", partial(made, run, read, harm))
            for run, harm in harms.items()]


def test_all_bad_recordings_are_told_when_the_others_are_done(tmp_path):
    read = []
    sources = made_sources(read, a=dead, b=well, c=millions, d=well)
    with pytest.raises(ValueError) as e: build_store(tmp_path / "s", sources, 1., 2.)
    first, *lines = str(e.value).splitlines()
    assert "2 recordings cannot be used" in first and "skip_bad=True" in first
    assert [line.partition(":")[0] for line in lines] == [
        f"made/{r}, session 0, run {r}" for r in "ac"]
    assert "no signal" in lines[0] and "microvolts where volts are due" in lines[1]
    assert not (tmp_path / "s").exists()
    read.clear()
    store = build_store(tmp_path / "s", sources, 1., 2., skip_bad=True)
    assert read == ["a", "c"]   # b and d were done
    assert set(store.index.run) == {"b", "d"} and store.about["left_out"] == lines
    assert all(f"left out: {line}" in store.describe() for line in lines)
    assert len(build_store(tmp_path / "s", sources, 1., 2., skip_bad=True)) == len(store)


def test_nothing_left_is_an_error_even_when_bad_ones_may_be_skipped(tmp_path):
    with pytest.raises(ValueError, match="no signal"):
        build_store(tmp_path / "s", made_sources([], a=dead), 1., 2., skip_bad=True)


def test_a_lost_network_ends_a_build_at_once(tmp_path):
    read = []
    with pytest.raises(OSError, match="made/a cannot be read: no route to host"):
        build_store(tmp_path / "s", made_sources(read, a=offline, b=well), 1., 2., skip_bad=True)
    assert read == ["a"]


def test_what_headers_tell_is_told_of_all_files_before_one_is_read(tmp_path):
    save_noise(tmp_path / "s1_raw.fif", seconds=10)
    slow = save_noise(tmp_path / "s2_raw.fif", seconds=10, sfreq=64.)
    alone = save_noise(tmp_path / "s3_raw.fif", seconds=10, names=["Cz"])
    lost = save_noise(tmp_path / "s4_raw.fif", seconds=10, names=["Cz", "Q7"])
    (tmp_path / "s5.edf").touch()
    with pytest.raises(ValueError) as e: file_sources(tmp_path, preprocessing=Preprocessing())
    first, *lines = str(e.value).splitlines()
    assert "4 recordings cannot be used" in first and "skip_bad=True" in first
    for line, path, words in zip(lines, [slow, alone, lost, tmp_path / "s5.edf"], [
            "holds nothing above 32 Hz", "average reference of one", "position: Q7", "is empty"]):
        assert line.startswith(f"{path}: ") and words in line
    with pytest.warns(UserWarning, match="4 recordings left out:\n.*s2_raw.fif: a recording at 64"):
        sources = file_sources(tmp_path, preprocessing=Preprocessing(), skip_bad=True)
    assert [s.name.split("/")[1] for s in sources] == ["s1"]
    says = "s2_raw.fif: a recording at 64 Hz[^\n]*Hz. or leave it out$"
    with pytest.raises(ValueError, match=says):
        file_sources([slow], preprocessing=Preprocessing(), skip_bad=True)   # nothing would be left


def pretrain_on(capsys, *argv):
    "The code of a command, what it says, and what is wrong."
    code = sjepa_pretrain(["--recordings", *map(str, argv), "--steps", "1", "--size", "2/8/64",
                           "--length", "1", "--interval", "2", "--quiet"])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_goes_on_without_bad_recordings_when_it_is_told_to(tmp_path, capsys):
    for i in range(3): save_noise(tmp_path / f"in/s{i}_raw.fif", seconds=20, seed=i)
    save_noise(tmp_path / "in/s3_raw.fif", seconds=20, sd=0.)
    save_noise(tmp_path / "in/s4_raw.fif", seconds=20, names=["Cz", "Pz", "Q7"])
    (tmp_path / "in/s5.edf").touch()
    run = [tmp_path / "in", "--out", tmp_path / "out"]
    code, _, wrong = pretrain_on(capsys, *run)
    first, *lines = wrong.splitlines()
    assert code == 2 and "leave them out (--skip-bad)" in first and len(lines) == 2
    assert lines[0].endswith("or drop them (--drop-unplaced)") and lines[1].endswith("is empty")
    code, said, warned = pretrain_on(capsys, *run, "--skip-bad", "--band", 1, 30)
    assert code == 0 and "1-30 Hz" in said and "3 subjects" in said
    assert f"left out: in/s3/0/s3_raw, session 0, run s3_raw: no signal" in said
    told = json.loads((tmp_path / "out/command.json").read_text())
    assert told["skip_bad"] and told["band"] == [1., 30.]
    assert told["recordings"] == [str(tmp_path / "in")]


def test_a_run_goes_on_without_its_recordings(tmp_path, capsys):
    """They moved, and new ones came: the store is whole, and stays as it is. Without the store
    there is no way on, and a replaced recording is another one."""
    recordings, out = tmp_path / "in", tmp_path / "out"
    for i in range(3): save_noise(recordings / f"s{i}_raw.fif", seconds=20, seed=i)
    assert pretrain_on(capsys, recordings, "--out", out)[0] == 0
    store = {p: p.read_bytes() for p in (out / "windows.zarr").rglob("*") if p.is_file()}
    (recordings / "s0_raw.fif").rename(tmp_path / "s0_raw.fif")
    save_noise(recordings / "s7_raw.fif", seconds=20, seed=7)

    def go_on():
        code = sjepa_pretrain(["--resume", "--out", str(out), "--quiet"])
        said = capsys.readouterr()
        return code, said.out, said.err

    code, said, _ = go_on()
    assert code == 0 and "finished" in said
    assert said.startswith("of the recordings 1 gone (in/s0/0/s0_raw) and 1 new (in/s7/0/s7_raw) "
                           f"since this run began: it goes on with the windows in {out}")
    for path in recordings.iterdir(): path.unlink()
    code, said, _ = go_on()
    assert code == 0 and said.startswith("of the recordings 3 gone (in/s0/0/s0_raw, in/s1")
    assert store == {p: p.read_bytes() for p in (out / "windows.zarr").rglob("*") if p.is_file()}
    for i in range(3): save_noise(recordings / f"s{i}_raw.fif", seconds=20, seed=i + 1)
    code, _, wrong = go_on()
    assert code == 2 and "has other options or another content" in wrong
    shutil.rmtree(recordings)
    (out / "windows.zarr").rename(tmp_path / "elsewhere")
    code, _, wrong = go_on()
    assert code == 2 and f"{recordings}" in wrong


def test_the_command_names_the_option_of_the_unit(tmp_path, capsys):
    for i in range(2): save_noise(tmp_path / f"in/s{i}_raw.fif", seconds=20, seed=i, sd=1e7)
    run = [tmp_path / "in", "--out", tmp_path / "out"]
    code, _, wrong = pretrain_on(capsys, *run)
    assert code == 2 and "say that these are microvolts (--unit uV)" in wrong
    assert "--scale implausible" in wrong
    code, said, _ = pretrain_on(capsys, *run, "--unit", "uV", "--band", 40, 30)
    assert code == 2
    assert pretrain_on(capsys, *run, "--unit", "uV")[0] == 0


def test_one_name_at_two_places_is_told_before_a_build(tmp_path):
    for i in range(2):
        raw = noise(T19 + ("X1",), seconds=5)
        places = named_montage(T19).positions * HEAD_RADIUS
        places = {n: p for n, p in zip(T19, places)} | {"X1": [.02, .09 * (-1)**i, .03]}
        raw.set_montage(mne.channels.make_dig_montage(places), verbose="ERROR")
        raw.save(tmp_path / f"s{i}_raw.fif", verbose="ERROR")
    says = "s1_raw.fif: the same name at different places.*: X1; ren"
    with pytest.raises(ValueError, match=says):
        file_sources(tmp_path, preprocessing=Preprocessing())


# ---------------------------------------------------------------- folders and BIDS

def files_of(sources):
    return [s.read.args[0].name for s in sources]


def test_a_folder_stands_for_the_recordings_below_it(tmp_path):
    save_noise(tmp_path / "P01/day1/a_raw.fif", seconds=5)
    save_noise(tmp_path / "P02/b_raw.fif", seconds=5)
    mne.make_fixed_length_epochs(noise(seconds=5), verbose="ERROR").save(
        tmp_path / "P02/b-epo.fif", verbose="ERROR")
    (tmp_path / "P03").mkdir()
    x = np.random.default_rng(0).normal(size=128 * 5) * 10
    edf(tmp_path / "P03/SC4001E0-PSG.edf", [("Cz", x, 128), ("Pz", x, 128)])
    notes = edf_plus_d_header(["EDF Annotations"], [30], 1) + b"+0\x14\x14\0".ljust(60, b"\0")
    (tmp_path / "P03/SC4001EC-Hypnogram.edf").write_bytes(notes)
    (tmp_path / "P03/._SC4001E0-PSG.edf").write_bytes(b"a Mac's")
    (tmp_path / "P03/SC4001.csv").touch()
    (tmp_path / "P03/back").symlink_to(tmp_path)
    found = files_of(file_sources(tmp_path))
    assert found == ["a_raw.fif", "b_raw.fif", "SC4001E0-PSG.edf"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no recording below this folder"):
        file_sources([tmp_path / "empty"])


def test_the_parts_of_a_long_recording_are_one(tmp_path):
    "FIF files are split at 2 GB, BrainVision's signal is a file of its own."
    raw = noise(seconds=120)
    raw.save(tmp_path / "s1_raw.fif", split_size="2MB", verbose="ERROR")
    assert (tmp_path / "s1_raw-1.fif").exists()
    pybv.write_brainvision(data=raw.get_data(), sfreq=250., ch_names=raw.ch_names,
                           fname_base="s2", folder_out=tmp_path)
    for files in (tmp_path, sorted(tmp_path.iterdir())):
        if files != tmp_path: files.remove(tmp_path / "s2.vmrk")
        sources = file_sources(files)
        assert files_of(sources) == ["s1_raw.fif", "s2.vhdr"]
    assert next(sources[0].read())[1].n_times == raw.n_times


def write_bids(root, who, **kwargs):
    "A recording with an eye channel, a bad channel, a cough and a date."
    raw = noise(T19 + ("Eye",), **kwargs)
    raw.set_channel_types({"Eye": "eog"}, verbose="ERROR").set_meas_date(1e9)
    raw.info["bads"], raw.info["line_freq"] = ["C4"], 50
    raw.set_annotations(mne.Annotations([4.], [1.], ["BAD_cough"], orig_time=raw.info["meas_date"]))
    path = mne_bids.BIDSPath(subject=who, session="1", task="rest", datatype="eeg", root=root)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mne_bids.write_raw_bids(raw, path, format="EDF", allow_preload=True, overwrite=True,
                                verbose="ERROR")
    return path.copy().update(suffix="eeg", extension=".edf").fpath


def test_a_bids_dataset(tmp_path):
    root = tmp_path / "study"
    files = [write_bids(root, who, seconds=20, seed=i) for i, who in enumerate(("anna", "ben"))]
    derived = root / "derivatives/clean"
    write_bids(derived, "anna", seconds=20)
    scans = root / "sub-anna/ses-1/sub-anna_ses-1_scans.tsv"   # another date than the file's
    scans.write_text(scans.read_text().replace("2001-", "1925-"))
    sources = file_sources(root)
    assert [s.read.args[0] for s in sources] == files
    assert [s.name.split("/")[:3] for s in sources] == [
        ["study", who, "ses-1"] for who in ("anna", "ben")]
    for s in sources:
        (_, raw), = s.read()
        rec = preprocess(raw)
        assert "C4" not in rec.montage.names and "Eye" not in rec.montage.names
        assert rec.notes[0] == "marked as bad: C4"
        where = np.flatnonzero(rec.reasons["annotated"])
        assert where[0] == 4 * 128 and abs(where[-1] - 5 * 128) <= 1
    assert len(file_sources(derived)) == 1   # when asked for
    assert file_sources(files)[0].settings == sources[0].settings
    told = files[0].with_name("sub-anna_ses-1_task-rest_channels.tsv")
    told.write_text(told.read_text().replace("\tbad", "\tgood"))   # the tables are a part of it
    assert file_sources(root)[0].settings != sources[0].settings
    told.write_text(told.read_text().replace("Fz", "Fq"))
    with pytest.raises(ValueError, match="anna.*: its BIDS tables do not fit .*mismatch"):
        file_sources(root)


def test_links_are_named_by_their_own_names(tmp_path):
    "git-annex, in which open datasets come, keeps the files under their checksums."
    files = []
    for i, who in enumerate(("01", "02")):
        stored = save_noise(tmp_path / f"ds1/.git/annex/objects/{i}/MD5E-s{i}_raw.fif", seconds=5)
        link = tmp_path / f"ds1/sub-{who}/eeg/sub-{who}_task-rest_raw.fif"
        link.parent.mkdir(parents=True)
        link.symlink_to(stored)
        files.append(link)
    for given in (files, tmp_path / "ds1"):
        labels = [next(s.read())[0] for s in file_sources(given)]
        assert [(v["dataset"], v["subject"]) for v in labels] == [("ds1", "01"), ("ds1", "02")]


# ---------------------------------------------------------------- trials

class Harmed(BaseDataset):
    "Ten trials of imagery, of which the fourth is harmed."
    def __init__(self, harm):
        events = dict(left_hand=1, right_hand=2)
        super().__init__(subjects=[1], sessions_per_subject=1, events=events, code="Harmed",
                         interval=[0, 4], paradigm="imagery")
        self.harm = harm

    def data_path(self, subject, **kwargs): return []

    def _get_single_subject_data(self, subject):
        raw = noise(CHANNELS, 200., 70)
        self.harm(raw._data, slice(20 * 200, 24 * 200))
        trials = mne.Annotations(np.arange(2, 62, 6.), 4, ["left_hand", "right_hand"] * 5)
        return {"0": {"0": raw.set_annotations(trials)}}


def silence(x, s): x[:, s] = 0
def gap(x, s): x[:, s] = np.nan
def volts(x, s): x[:, s] *= 1e-6
def microvolts(x, s): x[:, s] *= 1e6
def electrode(x, s): x[4] *= 400


@pytest.mark.parametrize("harm", [silence, gap, volts, microvolts])
def test_one_harmed_trial_among_good_ones(harm):
    with pytest.warns(UserWarning, match="1 trials left out"):
        X, *_ = load_trials(Harmed(harm), "MI")
    assert X.shape == (9, 8, 536) and 3 < X.std(-1).min() and X.std(-1).max() < 12


def test_a_bad_electrode_stays_out_of_the_reference_of_trials():
    with pytest.warns(UserWarning, match="far from the others and not in the reference: C4"):
        X, _, _, montage = load_trials(Harmed(electrode), "MI")
    others = [i for i, n in enumerate(montage.names) if n != "C4"]
    assert len(X) == 10 and X[:, others].std(-1).max() < 12
    strict = Preprocessing(bad_channels="raise")
    with pytest.raises(ValueError, match="than the other channels: C4"):
        load_trials(Harmed(electrode), "MI", preprocessing=strict)
