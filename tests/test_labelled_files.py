"""Labelled trials: filtered as windows of pre-training are, and read from files of one's own."""
import warnings

import mne
import numpy as np
import pytest
from moabb.datasets.base import BaseDataset

from sjepa_nb.command_line import sjepa_evaluate, sjepa_finetune
from sjepa_nb.preprocessing import Preprocessing, preprocess
from sjepa_nb.trials import EpochsFiles, FileDataset, load_trials

CHANNELS = ["Fp1", "Fz", "C3", "Cz", "C4", "Pz", "O1", "Oz"]
ONSETS = np.arange(2, 62, 6.)  # s


def recording(seed=0, sfreq=128., words=("left_hand", "right_hand")):
    "Seventy seconds of noise on a drift, with ten cues."
    rng, n = np.random.default_rng(seed), int(70 * sfreq)
    x = 10e-6 * rng.standard_normal((8, n)) + 1e-6 * rng.standard_normal((8, n)).cumsum(1)
    raw = mne.io.RawArray(x, mne.create_info(CHANNELS, sfreq, "eeg"), verbose="ERROR")
    return raw.set_annotations(mne.Annotations(ONSETS, 4, list(words) * 5))


class OneRun(BaseDataset):
    "That recording as a dataset."
    def __init__(self, raw):
        super().__init__([1], 1, dict(left_hand=1, right_hand=2), "OneRun", [0, 4], "imagery")
        self.raw = raw

    def data_path(self, subject, **kwargs): return []
    def _get_single_subject_data(self, subject): return {"0": {"0": self.raw.copy()}}


@pytest.mark.parametrize("cuts", [(), (31.5,)])
def test_trials_have_the_filter_of_pretraining(cuts):
    raw = recording()
    raw.annotations.append(list(cuts), [0.] * len(cuts), ["boundary"] * len(cuts))
    windows = preprocess(raw).data
    X, *_ = load_trials(OneRun(raw), "MI")
    starts = [int(s * 128) for s in ONSETS if not any(s - 1 < c < s + 5.2 for c in cuts)]
    assert len(X) == len(starts)
    for trial, s in zip(X, starts):
        np.testing.assert_allclose(trial, windows[:, s:s + 536], atol=2e-3)


def files(folder, write, name):
    "Three people's files."
    paths = [folder / name.format(person) for person in (1, 2, 3)]
    for person, path in enumerate(paths): write(recording(person, 250., ("L", "R")), path)
    return paths


def test_files_give_the_trials_of_a_dataset(tmp_path):
    paths = files(tmp_path, lambda raw, path: raw.save(path, verbose="ERROR"), "S{}_raw.fif")
    mine = FileDataset(paths, "MI", dict(left_hand="L", right_hand="R"))
    X, y, meta, montage = load_trials(mine, "MI", ["S2"])
    theirs, labels, _, _ = load_trials(OneRun(recording(1, 250.)), "MI")
    np.testing.assert_allclose(X, theirs, atol=1e-3)   # a FIF file holds float32
    assert list(y) == list(labels)
    assert set(meta.subject) == {"S2"} and montage.names == tuple(CHANNELS)


def test_moabb_evaluates_files(tmp_path):
    from moabb.evaluations import WithinSessionEvaluation
    from moabb.paradigms import LeftRightImagery
    from sklearn.dummy import DummyClassifier
    paths = files(tmp_path, lambda raw, path: raw.save(path, verbose="ERROR"), "S{}_raw.fif")
    mine = FileDataset(paths, "MI", dict(left_hand="L", right_hand="R"))
    evaluation = WithinSessionEvaluation(LeftRightImagery(), datasets=[mine], overwrite=True,
                                         hdf5_path=str(tmp_path))
    with warnings.catch_warnings(action="ignore"):
        found = evaluation.process({"most frequent": DummyClassifier()})
    assert sorted(found.subject) == ["S1", "S2", "S3"]


def test_a_trial_takes_time(tmp_path):
    paths = files(tmp_path, lambda raw, path: raw.save(path, verbose="ERROR"), "S{}_raw.fif")
    with pytest.raises(ValueError, match="seconds is -1"):
        FileDataset(paths, "MI", dict(left_hand="L"), seconds=-1)


def save_epochs(raw, path):
    with mne.utils.use_log_level("ERROR"):
        mne.Epochs(raw.filter(.5, 40.), tmin=-.5, tmax=3, baseline=None).save(path)


def test_epochs_begin_at_their_cue(tmp_path):
    paths = files(tmp_path, save_epochs, "S{}-epo.fif")
    X, y, *_ = load_trials(EpochsFiles(paths, "MI"), "MI", ["S1"])
    runs, labels, *_ = load_trials(OneRun(recording(0, 250.)), "MI")
    assert [dict(L="left_hand", R="right_hand")[w] for w in y] == list(labels)
    n = X.shape[2] - 32  # the ends of epochs are not those of runs
    alike = np.corrcoef(X[..., :n].ravel(), runs[..., :n].ravel())[0, 1]
    assert alike > .98


def test_channels_of_epochs_that_are_left_out_are_named(tmp_path):
    with mne.utils.use_log_level("ERROR"):
        raw = recording(0, 250., ("L", "R")).filter(.5, 40.).rename_channels(dict(Oz="CB1"))
        mne.Epochs(raw, tmin=0, tmax=3, baseline=None).save(tmp_path / "S1-epo.fif")
    with pytest.warns(UserWarning, match="subject S1: 1 channels without a position left out: CB1"):
        load_trials(EpochsFiles([tmp_path / "S1-epo.fif"], "MI"), "MI",
                    preprocessing=Preprocessing(on_missing="drop"))


def test_epochs_of_another_filter_are_told(tmp_path):
    with mne.utils.use_log_level("ERROR"):
        raw = recording(0, 250., ("L", "R")).filter(1., 20.)
        mne.Epochs(raw, tmin=0, tmax=3, baseline=None).save(tmp_path / "S1-epo.fif")
    with pytest.warns(UserWarning, match="filtered at 1 to 20 Hz"):
        load_trials(EpochsFiles([tmp_path / "S1-epo.fif"], "MI"), "MI")


@pytest.mark.parametrize("command", [sjepa_finetune, sjepa_evaluate])
@pytest.mark.parametrize("words, says", [
    ("--events left=L right=R", "--paradigm MI, ERP or SSVEP"),
    ("--paradigm MI", "--events CLASS=ANNOTATION"),
    ("--paradigm MI --events left=L --subjects 9", "no subject 9")])
def test_what_files_need_is_said(tmp_path, capsys, command, words, says):
    (path, *_) = files(tmp_path, lambda raw, path: raw.save(path, verbose="ERROR"), "S{}_raw.fif")
    out = tmp_path / "out"
    assert command(["--recordings", str(path), *words.split(), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert says in said and len(said.splitlines()) == 1
    assert not (out / "results.csv").exists()


def test_annotations_that_are_not_there_are_named(tmp_path):
    paths = files(tmp_path, lambda raw, path: raw.save(path, verbose="ERROR"), "S{}_raw.fif")
    with pytest.raises(ValueError, match="subject S1: no recording of this subject has an annot"):
        load_trials(FileDataset(paths, "MI", dict(left_hand="X", right_hand="Y")), "MI")
