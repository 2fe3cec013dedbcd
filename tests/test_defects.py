"""Defects seen in other implementations. Each check passes here, and fails once the defect is put in: both are tested."""
import mne
import numpy as np
import pytest
import torch

from sjepa_nb import (
    contextual_encoder, masking, montage, predictor, preprocessing, store, weights,
)
from sjepa_nb.masking import Masks, SphereMask
from sjepa_nb.montage import lee2019_montage
from sjepa_nb.model import SJEPA, SJEPAConfig


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SJEPA(config=SJEPAConfig(depth=3, predictor_depth=2, hidden=128, average_layers=2)).eval()


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
    monkeypatch.setattr(predictor.Predictor, "forward", lambda self, position, *a: forward(self, position * 0, *a))
    fails(answers_differ_by_place, model, batch)


def one(masks, i):
    "The masks of example `i` alone."
    zero = torch.zeros(1, dtype=torch.long)
    return Masks(masks.visible[i:i + 1], zero, masks.hidden[i:i + 1], zero)


@torch.no_grad()
def batch_is_its_examples(model, batch):
    x, masks = batch
    together, alone = model(x, masks), [model(x[i:i + 1], one(masks, i)) for i in range(len(x))]
    for i, a in enumerate(alone): torch.testing.assert_close(together.predicted[i, :a.predicted.shape[1]], a.predicted[0], atol=1e-5, rtol=0)
    n = masks.hidden.sum(1)
    torch.testing.assert_close(together.loss, (torch.stack([a.loss for a in alone]) * n).sum() / n.sum(), atol=1e-5, rtol=0)


def test_padding_is_not_attended_to(model, batch, monkeypatch):
    monkeypatch.setattr(contextual_encoder.Attention, "fast", False)
    batch_is_its_examples(model, batch)
    forward = contextual_encoder.Attention.forward
    monkeypatch.setattr(contextual_encoder.Attention, "forward", lambda self, x, memory=None, keep=None: forward(self, x, memory, None))
    fails(batch_is_its_examples, model, batch)


def test_padding_is_not_packed(model, batch, monkeypatch):
    batch_is_its_examples(model, batch)
    pack = contextual_encoder.Rows.__init__
    monkeypatch.setattr(contextual_encoder.Rows, "__init__", lambda self, x, keep=None: pack(self, x, None))
    fails(batch_is_its_examples, model, batch)


@pytest.mark.parametrize("kind", ["context", "questions"])
def test_padding_is_masked_on_both_sides(model, batch, monkeypatch, kind):
    "The mask over the context alone, or over the questions alone, is not enough."
    monkeypatch.setattr(contextual_encoder.Attention, "fast", False)
    forward = predictor.DecoderLayer.forward
    monkeypatch.setattr(predictor.DecoderLayer, "forward", lambda self, x, memory, keep=None, memory_keep=None:
                        forward(self, x, memory, None if kind == "questions" else keep, None if kind == "context" else memory_keep))
    fails(batch_is_its_examples, model, batch)


def test_loss_leaves_padding_out(model, batch, monkeypatch):
    batch_is_its_examples(model, batch)
    monkeypatch.setattr(predictor, "masked_l1", lambda predicted, target, keep=None: (predicted - target).abs().mean())
    fails(batch_is_its_examples, model, batch)


def channels_in_a_sphere():
    held = masking.sphere(lee2019_montage(), .6).sum(1)
    assert (held.min(), held.max()) == (4, 11) and abs(held.mean() - 7.5) < .1


def test_radius_is_in_head_radii(monkeypatch):
    channels_in_a_sphere()
    monkeypatch.setattr(masking, "sphere", lambda m, radius: m.distances() < radius * m.distances().max())
    fails(channels_in_a_sphere)


def digitised_position_is_read():
    info = mne.create_info([f"E{i}" for i in range(20)], 128., "eeg")  # names that no atlas knows
    rng = np.random.default_rng(0)
    for ch in info["chs"]:
        ch["loc"][:3] = (p := rng.normal(size=3)) / np.linalg.norm(p) * .095
        ch["loc"][3:6] = np.nan  # the reference's place
    placed, names = montage.recording_montage(info)
    assert len(placed) == 20 and np.isfinite(placed.positions).all()
    own = np.array([ch["loc"][:3] for ch in info["chs"]])
    shape = lambda p: np.linalg.norm(p[:, None] - p[None], axis=-1)  # distances do not depend on the frame
    ratio = shape(placed.positions)[np.triu_indices(20, 1)] / shape(own)[np.triu_indices(20, 1)]
    assert ratio.std() / ratio.mean() < 1e-6


def test_position_comes_from_the_right_slice_of_loc(monkeypatch):
    digitised_position_is_read()
    monkeypatch.setattr(montage, "_digitised", lambda info: {c["ch_name"]: c["loc"][3:6] for c in info["chs"]})
    with pytest.raises((AssertionError, ValueError)): digitised_position_is_read()


def nothing_loaded_is_an_error():
    with pytest.raises(ValueError, match="none of the 2 tensors has a name"): weights.load_braindecode(SJEPA(), {"model.a": torch.zeros(1), "model.b": torch.zeros(1)})


def test_nothing_loaded_is_said(monkeypatch):
    nothing_loaded_is_an_error()
    monkeypatch.setattr(weights, "load_braindecode", lambda model, state: model.load_state_dict(state, strict=False))
    fails(nothing_loaded_is_an_error)


def volts_are_refused():
    x = np.random.default_rng(0).normal(size=(2, 4, 152)).astype("float32") * 10
    preprocessing.check_microvolts(x)
    with pytest.raises(ValueError, match="volt"): preprocessing.check_microvolts(x * 1e-6)


def test_volts_are_not_taken_for_microvolts(monkeypatch):
    volts_are_refused()
    monkeypatch.setattr(data, "check_microvolts", lambda x: None)
    fails(volts_are_refused)


def left_out_windows_are_counted():
    rng = np.random.default_rng(0)
    info = mne.create_info(["C3", "Cz", "C4", "Pz"], 128., "eeg")
    signal = rng.normal(size=(4, 128 * 60)) * 1e-5
    signal[1, 128 * 20:128 * 21] = np.nan
    signal[:, -128 * 4:] = 0
    rec = preprocessing.preprocess(mne.io.RawArray(signal, info, verbose="ERROR"), preprocessing.Preprocessing())
    windows, offsets, rejected = store.cut_windows(rec, 256, 2.)
    assert np.isfinite(windows).all() and windows.std(-1).min() > 1e-3
    assert sum(rejected.values()) > 0 and len(windows) + sum(rejected.values()) == len(range(0, 128 * 60 - 256 + 1, 256))


def test_no_window_is_rejected_or_passed_in_silence(monkeypatch):
    left_out_windows_are_counted()
    cut = store.cut_windows
    monkeypatch.setattr(store, "cut_windows", lambda *a: (*cut(*a)[:2], {}))
    fails(left_out_windows_are_counted)
    monkeypatch.undo()
    monkeypatch.setattr(store, "find_defects", lambda x, sfreq: dict(nan=np.zeros(x.shape, bool), flat=np.zeros(x.shape, bool)))
    with pytest.raises((AssertionError, ValueError)): left_out_windows_are_counted()


def gradients_are_the_same_every_time(model, batch):
    "Two threads add up the gradient of a row that many tokens share: always in the same order, or a resumed run drifts."
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = set()
        for _ in range(15):
            model.zero_grad(); model(*batch).loss.backward()
            seen.add(model.position.spatial.grad.numpy().tobytes())
        assert len(seen) == 1
    finally: torch.set_num_threads(threads)


def test_gradients_are_the_same_every_time(model):
    masks = SphereMask(model.montage, .6)(16, torch.Generator().manual_seed(0))
    batch = torch.randn(16, 62, 536, generator=torch.Generator().manual_seed(1)) * 10, masks
    gradients_are_the_same_every_time(model, batch)
