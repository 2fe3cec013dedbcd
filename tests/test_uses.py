"""Uses of a pre-trained model: what is computed is what an independent way gives."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.signal import coherence as welch_coherence
from torch import nn

from sjepa_nb.contextual_encoder import Attention
from sjepa_nb.corruption import (
    KINDS, average_reference, corrupt, interpolate, target_tokens)
from sjepa_nb.likelihood import embedding_jacobian, jepa_score, log_volume, robust_z
from sjepa_nb.masking import Masks, hiding
from sjepa_nb.missing_channel import (
    candidate_distances, dead, loose, misfit, rank_of, spline_misfit, spline_weights,
    swap)
from sjepa_nb.model import SJEPA, SJEPAConfig, on_montage
from sjepa_nb.montage import named_montage
from sjepa_nb.positional_encoding import coherence
from sjepa_nb.scalp_attention import (
    attention_weights, beyond_distance, by_channel, encoder_attention, hidden_maps,
    predictor_attention, visible_maps)

NAMES = "Fp1 Fp2 F3 F4 C3 Cz C4 P3 P4 O1 O2 Fz".split()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SJEPA(named_montage(NAMES), SJEPAConfig.preset("2/8/64")).eval()


@pytest.fixture(scope="module")
def x(): return np.random.default_rng(0).standard_normal((5, 12, 280)).astype(np.float32) * 10


# ---------------------------------------- the missing channel

def test_misfit_is_the_distance_of_the_channels_own_signal_as_a_candidate(model, x):
    found = misfit(model, x[:2])
    for i, name in enumerate(NAMES):
        for w in range(2):
            mine = candidate_distances(model, x[w], name, x[w, [i]])[0, 0]
            torch.testing.assert_close(found[w, i], mine)


def test_a_hidden_channel_does_not_change_what_is_predicted_for_it(model, x):
    "Another signal there changes the window, and not how far the candidates are."
    other = np.array(x[0])
    other[4] = x[1, 4]
    mine, theirs = (candidate_distances(model, w, "C3", x[:, 4]) for w in (x[0], other))
    torch.testing.assert_close(mine, theirs)
    other[5] = x[1, 5]
    assert (candidate_distances(model, other, "C3", x[:, 4]) - mine).abs().max() > 1e-4


def test_a_radius_hides_the_neighbours(model, x):
    "A neighbour within the radius is not part of the prediction; targets see everything."
    asked = []
    forward = model.forward
    def noted(window, masks, channels=None):
        asked.append(masks.visible[0].clone())
        return forward(window, masks, channels)
    model.forward = noted
    try: candidate_distances(model, x[0], "C3", x[:, 4], (0., .7))
    finally: del model.forward
    near = model.montage.distances()[4]
    assert (asked[0].numpy() == (near > 0)).all()
    assert (asked[1].numpy() == (near > .7)).all() and asked[1].sum() < 11


def test_spline_weights_are_what_mne_interpolates(x):
    import mne
    montage = named_montage(NAMES)
    places = dict(zip(NAMES, montage.positions * .0990569))
    info = mne.create_info(NAMES, 128., "eeg")
    info.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"))
    raw = mne.io.RawArray(x[0], info, verbose="ERROR")
    raw.info["bads"] = ["C3"]
    theirs = raw.interpolate_bads(verbose="ERROR").get_data()[4]
    weights = spline_weights(montage, "C3")
    np.testing.assert_allclose(weights @ x[0], theirs, atol=1e-4)
    correlation = np.corrcoef(theirs, x[0, 4])[0, 1]
    np.testing.assert_allclose(spline_misfit(montage, x[:1])[0, 4], 1 - correlation, atol=1e-4)
    near = montage.distances()[4] <= .7
    assert not spline_weights(montage, "C3", .7)[near].any()


def test_splines_of_three_channels_are_refused_in_words():
    with pytest.raises(ValueError, match="splines need four channels or more, not 3"):
        spline_weights(named_montage(["C3", "Cz", "C4"]), "C3")
    assert spline_weights(named_montage(["C3", "Cz", "C4", "Pz"]), "C3").shape == (4,)


def test_faults_change_their_channels_alone_and_leave_the_original(x):
    rng, before = np.random.default_rng(0), x.copy()
    swapped, noisy, flat = swap(x, 1, 2), loose(x, 3, rng), dead(x, 4, rng)
    assert (swapped[:, [2, 1]] == x[:, [1, 2]]).all() and (x == before).all()
    for spoilt, at in ((swapped, (1, 2)), (noisy, (3,)), (flat, (4,))):
        assert set(np.flatnonzero((spoilt != x).any((0, 2)))) == set(at)
    spectra = [abs(np.fft.rfft(v[:, 3]))[:, 1:-1] for v in (x, noisy)]
    np.testing.assert_allclose(*spectra, rtol=1e-3, atol=1e-2)
    assert flat[:, 4].std() < .6


def test_a_model_on_another_montage_is_a_copy_with_the_learned_rows(model):
    with torch.no_grad(): model.position.spatial[4] += 1
    other = on_montage(model, named_montage(["C3", "Oz"]))
    assert torch.equal(other.position.spatial[0], model.position.spatial[4])
    assert len(model.montage) == 12 and len(other.montage) == 2
    with torch.no_grad(): model.position.spatial[4] -= 1


@pytest.mark.parametrize("use", [
    misfit, lambda m, x: candidate_distances(m, x[0], "C3", x[0]), jepa_score, target_tokens,
    visible_maps])
def test_other_channels_than_the_models_are_refused(model, x, use):
    with pytest.raises(ValueError, match="12 channels.*on_montage"): use(model, x[:, :7])


def test_rank_counts_the_candidates_that_fit_better():
    assert rank_of([[3., 1, 2], [0, 1, 2]], 2).tolist() == [1, 2]


# ---------------------------------------- how likely a window is

@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_the_jacobian_is_that_of_pytorchs_function_transforms(model, x, monkeypatch):
    mine = embedding_jacobian(model, torch.from_numpy(x[0]))
    monkeypatch.setattr(Attention, "fast", False)  # `torch.func` knows PyTorch's kernels
    def embed(window): return model.encode(window[None])[0].mean(0)
    theirs = torch.func.jacrev(embed)(torch.from_numpy(x[0])).detach()
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-7)
    sigma = torch.linalg.svdvals(theirs.flatten(1).double())
    torch.testing.assert_close(log_volume(mine), sigma[:-1].log().sum(), atol=1e-2, rtol=0)


def test_a_louder_window_is_less_likely_and_its_shape_as_likely(model, x):
    lost = jepa_score(model, x[:1]) - jepa_score(model, 4 * x[:1])
    torch.testing.assert_close(lost, torch.tensor([63 * np.log(4)]), atol=.1, rtol=0)
    shapes = [jepa_score(model, k * x[:1], scale_free=True) for k in (1, 4)]
    torch.testing.assert_close(*shapes, atol=.1, rtol=0)


def test_robust_z_is_of_the_least_usual_channel_in_either_direction():
    usual = np.exp([[0., 5], [1, 6], [2, 7], [9, 8], [1, 6]])  # medians 1, 6; MADs 1, 1
    far = robust_z(np.exp([[1., 6], [2, 2], [4, 6]]), usual)
    np.testing.assert_allclose(far, np.array([0, 4, 3]) / 1.4826)
    with pytest.raises(ValueError, match="leave channels out that are flat"):
        robust_z([[1., 0]], usual)


# ---------------------------------------- corrupted channels

@pytest.mark.parametrize("kind", KINDS)
def test_corruption_is_of_the_channels_named_and_leaves_the_original(x, kind):
    before, bads = x.copy(), [2, 5, 7]
    spoilt = corrupt(x, kind, bads, np.random.default_rng(3))
    assert set(np.flatnonzero((spoilt != x).any((0, 2)))) == set(bads) and (x == before).all()
    if kind == "dropped": assert not spoilt[:, bads].any()
    if kind == "swapped":
        np.testing.assert_equal(np.sort(spoilt[:, bads], 1), np.sort(x[:, bads], 1))
    if kind == "noisy":
        ratio = (spoilt - x)[:, bads].std(-1) / x[:, bads].std(-1)
        assert abs(ratio - 3).max() < .5


def test_no_channel_at_fault_changes_nothing(x):
    for kind in KINDS: assert (corrupt(x, kind, [], np.random.default_rng(0)) == x).all()
    np.testing.assert_allclose(interpolate(x, [], named_montage(NAMES)), x, atol=1e-5)


def test_interpolated_channels_are_those_of_spline_weights(x):
    montage = named_montage(NAMES)
    mended = interpolate(x, [4], montage)
    np.testing.assert_allclose(mended[:, 4], spline_weights(montage, "C3") @ x, atol=1e-4)
    assert (np.delete(mended, 4, 1) == np.delete(x, 4, 1)).all()


def test_the_reference_is_the_mean_of_the_good_channels(x):
    found = average_reference(x, [4, 7])
    np.testing.assert_allclose(np.delete(found, [4, 7], 1).mean(1), 0, atol=1e-5)
    assert (found[:, [4, 7]] == x[:, [4, 7]]).all()
    np.testing.assert_allclose(average_reference(x), x - x.mean(1, keepdims=True), atol=1e-5)


def test_tokens_of_missing_channels_are_predicted_from_the_others_alone(model, x):
    bads, good = [4, 7], np.delete(np.arange(12), [4, 7])
    found, other = target_tokens(model, x, bads), np.array(x)
    other[:, bads] = np.nan                                    # whatever was there
    torch.testing.assert_close(target_tokens(model, other, bads), found)
    part = on_montage(model, model.montage.select([NAMES[i] for i in good]))
    torch.testing.assert_close(found[:, good], target_tokens(part, x[:, good]))
    visible = torch.zeros(1, 12, dtype=torch.bool)
    visible[:, good], zero = True, torch.zeros(1, dtype=torch.long)
    with torch.no_grad():
        told = model(torch.from_numpy(x[:1]), Masks(visible, zero, ~visible, zero)).predicted
    torch.testing.assert_close(found[:1, bads].flatten(1, 2), told)


@pytest.mark.parametrize("change", [dict(target="signal"), dict(condition=True)])
def test_targets_that_are_no_tokens_of_a_teacher_alone_are_refused(model, x, change):
    other = SJEPA(model.montage, replace(model.config, **change))
    with pytest.raises(ValueError, match="latent targets"): target_tokens(other, x)


# ---------------------------------------- attention

def test_weights_are_those_of_pytorchs_attention(model):
    torch.manual_seed(0)
    x, memory = torch.randn(2, 5, 64), torch.randn(2, 7, 64)
    for attention in (model.encoder.layers[0].self_attn, model.predictor.layers[0].multihead_attn):
        theirs = nn.MultiheadAttention(64, 8, batch_first=True)
        theirs.load_state_dict(attention.state_dict())
        expected = theirs(x, memory, memory, average_attn_weights=False)[1]
        torch.testing.assert_close(attention_weights(attention, x, memory), expected)


def test_the_last_layers_weights_are_of_what_the_layers_before_made(model):
    "Through the encoder's and the predictor's own forward, with the last layer's input caught."
    torch.manual_seed(0)
    x, position = torch.randn(2, 9, 64), torch.randn(2, 3, 64)
    caught = {}
    def catch(layer, args): caught[layer] = args
    last = model.encoder.layers[-1].self_attn, model.predictor.layers[-1].multihead_attn
    hooks = [layer.register_forward_pre_hook(catch) for layer in last]
    with torch.no_grad():
        model.predictor(position, model.encoder(x))
        ours = encoder_attention(model.encoder, x)[-1]
        asked = predictor_attention(model.predictor, position, model.encoder(x))[-1]
    for hook in hooks: hook.remove()
    rows = lambda t, n: t.reshape(2, n, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours, attention_weights(last[0], rows(caught[last[0]][0], 9)))
        question, memory = caught[last[1]][:2]
        theirs = attention_weights(last[1], rows(question, 3), rows(memory, 9))
    torch.testing.assert_close(asked, theirs)


def test_maps_are_of_channels_and_sum_to_one(model, x):
    hidden = np.arange(12) < 3
    for maps, shape in ((visible_maps(model, x), (2, 5, 8, 12, 12)),
                        (hidden_maps(model, x, hidden), (1, 5, 8, 3, 9))):
        assert maps.shape == shape
        torch.testing.assert_close(maps.sum(-1), torch.ones(shape[:-1]))
    weights = torch.arange(16.).reshape(4, 4)  # two channels of two tokens
    assert by_channel(weights, 2).tolist() == [[5, 9], [21, 25]]


def test_maps_of_encoders_with_extra_tokens_are_refused():
    model = SJEPA(config=SJEPAConfig.preset("2/8/64", registers=2)).eval()
    with pytest.raises(ValueError, match="looks at tokens of none, too: {'registers': 2"):
        visible_maps(model, torch.randn(1, 62, 152))


def test_maps_of_hidden_channels_are_those_of_a_forward_pass(x):
    "Of a conditioned encoder, too, which is told what is asked."
    torch.manual_seed(0)
    model = SJEPA(named_montage(NAMES), SJEPAConfig.preset("2/8/64", condition=True)).eval()
    hidden, caught = torch.arange(12) < 3, []
    last = model.predictor.layers[-1].multihead_attn
    hook = last.register_forward_pre_hook(lambda layer, args: caught.extend(args[:2]))
    with torch.no_grad(): model(torch.from_numpy(x), hiding(hidden.expand(5, -1)))
    hook.remove()
    question, memory = (t.reshape(5, -1, 64) for t in caught)
    theirs = by_channel(attention_weights(last, question, memory), 2)
    torch.testing.assert_close(hidden_maps(model, x, hidden)[-1], theirs)


def test_coherence_is_scipys(x):
    a, b = x[:, 0].ravel(), (x[:, 0] + x[:, 1]).ravel()
    both = np.stack([x[:, 0], x[:, 0] + x[:, 1]], 1)
    hz, theirs = welch_coherence(a, b, 128, np.hanning(280), 280, 0, detrend=False)
    theirs = theirs[(hz >= 2) & (hz <= 30)].mean()
    np.testing.assert_allclose(coherence(both)[0, 1], theirs, rtol=1e-4)


def test_what_attention_follows_is_told_apart():
    rng, apart = np.random.default_rng(0), named_montage(NAMES).distances()
    seen = rng.random(apart.shape)
    near, coherent = beyond_distance(np.exp(-apart) + .01 * seen[::-1], seen, apart)
    assert near > .95 and abs(coherent) < .3
    near, coherent = beyond_distance(seen**2 + 1e-3 * rng.random(apart.shape), seen, apart)
    assert coherent > .95 and abs(near) < .3
