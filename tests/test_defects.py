"""Defects seen in other implementations. Each check passes here, and fails once the defect is put
in: both are tested."""
import mne
import numpy as np
import pytest
import torch

from sjepa_nb import attention, masking, montage, predictor, preprocessing, store, weights
from sjepa_nb import model as model_page
from sjepa_nb.contextual_encoder import Attention
from sjepa_nb.masking import SphereMask
from sjepa_nb.montage import lee2019_montage
from sjepa_nb.model import SJEPA, SJEPAConfig


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = SJEPAConfig(depth=3, predictor_depth=2, hidden=128, average_layers=2)
    return SJEPA(config=config).eval()


@pytest.fixture(scope="module")
def batch(model):
    "Windows, and masks that hide unequal numbers of channels."
    masks = SphereMask(model.montage, .6)(4, torch.Generator().manual_seed(0))
    assert len(set(masks.hidden.sum(1).tolist())) > 1
    return torch.randn(4, 62, 280, generator=torch.Generator().manual_seed(1)) * 10, masks


def fails(check, *args):
    with pytest.raises((AssertionError, pytest.fail.Exception)): check(*args)


@torch.no_grad()
def answers_differ_by_place(model, batch):
    out = model(*batch)
    spread = out.predicted[1, :int(batch[1].hidden[1].sum()) * 2].std(0).mean()
    assert spread > .01, f"all hidden places get the same answer (spread {spread:.1e})"


def test_queries_have_positions(model, batch, monkeypatch):
    answers_differ_by_place(model, batch)
    forward = predictor.Predictor.forward
    placeless = lambda self, position, *a: forward(self, position * 0, *a)
    monkeypatch.setattr(predictor.Predictor, "forward", placeless)
    fails(answers_differ_by_place, model, batch)


@torch.no_grad()
def batch_is_its_examples(model, batch):
    x, masks = batch
    together = model(x, masks)
    alone = [model(x[[i]], masks.subset(torch.tensor([i]))) for i in range(len(x))]
    for t, a in zip(together.predicted, alone):
        torch.testing.assert_close(t[:a.predicted.shape[1]], a.predicted[0], atol=1e-5, rtol=0)
    n = masks.hidden.sum(1)
    mean = (torch.stack([a.loss for a in alone]) * n).sum() / n.sum()
    torch.testing.assert_close(together.loss, mean, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows", [attention.PaddedRows, attention.PackedRows])
def test_padding_is_not_attended_to(model, batch, monkeypatch, rows):
    "Padded rows without their mask, packed rows that pack the filler too."
    monkeypatch.setattr(Attention, "fast", rows.packed)
    batch_is_its_examples(model, batch)
    init = rows.__init__
    if rows.packed: blind = lambda self, shape, exists=None: init(self, shape)
    else: blind = lambda self, exists=None: init(self)
    monkeypatch.setattr(rows, "__init__", blind)
    fails(batch_is_its_examples, model, batch)


@pytest.mark.parametrize("kind", ["context", "questions"])
def test_padding_is_masked_on_both_sides(model, batch, monkeypatch, kind):
    "The mask over the context alone, or over the questions alone, is not enough."
    monkeypatch.setattr(Attention, "fast", False)
    forward, blind = predictor.DecoderLayer.forward, attention.PaddedRows()

    def half_masked(self, x, memory, rows, memory_rows):
        if kind == "questions": return forward(self, x, memory, blind, memory_rows)
        return forward(self, x, memory, rows, blind)

    monkeypatch.setattr(predictor.DecoderLayer, "forward", half_masked)
    fails(batch_is_its_examples, model, batch)


def test_loss_leaves_padding_out(model, batch, monkeypatch):
    batch_is_its_examples(model, batch)
    over_all = lambda predicted, target, exists=None: (predicted - target).abs().mean()
    monkeypatch.setattr(model_page, "masked_l1", over_all)
    fails(batch_is_its_examples, model, batch)


def channels_in_a_sphere():
    held = masking.sphere(lee2019_montage(), .6).sum(1)
    assert (held.min(), held.max()) == (4, 11) and abs(held.mean() - 7.5) < .1


def test_radius_is_in_head_radii(monkeypatch):
    channels_in_a_sphere()
    of_largest = lambda m, radius: m.distances() < radius * m.distances().max()
    monkeypatch.setattr(masking, "sphere", of_largest)
    fails(channels_in_a_sphere)


def digitised_position_is_read():
    info = mne.create_info([f"E{i}" for i in range(20)], 128., "eeg")  # names that no atlas knows
    rng = np.random.default_rng(0)
    for ch in info["chs"]:
        place = rng.normal(size=3)
        ch["loc"][:3] = place / np.linalg.norm(place) * .095
        ch["loc"][3:6] = np.nan  # the reference's place
    placed, names = montage.recording_montage(info)
    assert len(placed) == 20 and np.isfinite(placed.positions).all()
    own = np.array([ch["loc"][:3] for ch in info["chs"]])
    apart = lambda p: np.linalg.norm(p[:, None] - p[None], axis=-1)[np.triu_indices(20, 1)]
    ratio = apart(placed.positions) / apart(own)  # distances do not depend on the frame
    assert ratio.std() / ratio.mean() < 1e-6


def test_position_comes_from_the_right_slice_of_loc(monkeypatch):
    digitised_position_is_read()
    wrong_slice = lambda info: {c["ch_name"]: c["loc"][3:6] for c in info["chs"]}
    monkeypatch.setattr(montage, "_digitised", wrong_slice)
    with pytest.raises((AssertionError, ValueError)): digitised_position_is_read()


def nothing_loaded_is_an_error():
    strangers = {"model.a": torch.zeros(1), "model.b": torch.zeros(1)}
    with pytest.raises(ValueError, match="none of the 2 tensors has a name"):
        weights.load_braindecode(SJEPA(), strangers)


def test_nothing_loaded_is_said(monkeypatch):
    nothing_loaded_is_an_error()
    silent = lambda model, state: model.load_state_dict(state, strict=False)
    monkeypatch.setattr(weights, "load_braindecode", silent)
    fails(nothing_loaded_is_an_error)


def volts_are_refused():
    x = np.random.default_rng(0).normal(size=(2, 4, 152)).astype("float32") * 10
    preprocessing.check_microvolts(x)
    with pytest.raises(ValueError, match="volt"): preprocessing.check_microvolts(x * 1e-6)


def test_volts_are_not_taken_for_microvolts(monkeypatch):
    volts_are_refused()
    monkeypatch.setattr(preprocessing, "check_microvolts", lambda x: None)
    fails(volts_are_refused)


def left_out_windows_are_counted():
    rng = np.random.default_rng(0)
    info = mne.create_info(["C3", "Cz", "C4", "Pz"], 128., "eeg")
    signal = rng.normal(size=(4, 128 * 60)) * 1e-5
    signal[1, 128 * 20:128 * 21] = np.nan
    signal[:, -128 * 4:] = 0
    raw = mne.io.RawArray(signal, info, verbose="ERROR")
    rec = preprocessing.preprocess(raw, preprocessing.Preprocessing())
    windows, offsets, rejected = store.cut_windows(rec, 256, 2.)
    assert np.isfinite(windows).all() and windows.std(-1).min() > 1e-3
    n_rejected = sum(rejected.values())
    assert n_rejected > 0 and len(windows) + n_rejected == 128 * 60 // 256


def test_no_window_is_rejected_or_passed_in_silence(monkeypatch):
    left_out_windows_are_counted()
    cut = store.cut_windows
    monkeypatch.setattr(store, "cut_windows", lambda *a: (*cut(*a)[:2], {}))
    fails(left_out_windows_are_counted)
    monkeypatch.undo()
    nothing = lambda x, sfreq: {k: np.zeros(x.shape, bool) for k in ("nan", "flat")}
    monkeypatch.setattr(preprocessing, "find_defects", nothing)
    with pytest.raises((AssertionError, ValueError)): left_out_windows_are_counted()


def gradients_are_the_same_every_time(model, batch):
    """Two threads add up the gradient of a row that many tokens share: always in the same order,
    or a resumed run drifts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = set()
        for _ in range(15):
            model.zero_grad()
            model(*batch).loss.backward()
            seen.add(model.position.spatial.grad.numpy().tobytes())
        assert len(seen) == 1
    finally: torch.set_num_threads(threads)


def test_gradients_are_the_same_every_time(model):
    masks = SphereMask(model.montage, .6)(16, torch.Generator().manual_seed(0))
    x = torch.randn(16, 62, 536, generator=torch.Generator().manual_seed(1)) * 10
    gradients_are_the_same_every_time(model, (x, masks))
