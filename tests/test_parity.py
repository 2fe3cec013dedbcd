"""S-JEPA against braindecode's own modules, with weights copied across: float32, within 1e-5."""
import copy

import pytest
import torch

from sjepa_nb.heads import HEADS, Downstream
from sjepa_nb.masking import SphereMask
from sjepa_nb.montage import LEE2019_CHANNELS, lee2019_montage
from sjepa_nb.model import SJEPA, shipped_models
from sjepa_nb.weights import (
    braindecode_name, from_pretrained, load_braindecode, save_pretrained, to_braindecode,
)

SignalJEPA = pytest.importorskip("braindecode.models").SignalJEPA
close = dict(atol=1e-5, rtol=0)
SUBSET = ["C3", "Cz", "C4", "Pz", "Oz", "Fp1", "TPP9h"]


def channels(montage):
    "The channels of a montage, as braindecode wants to be told of them."
    places = zip(montage.names, montage.positions)
    return [dict(ch_name=name, kind="eeg", loc=place) for name, place in places]


def theirs_and_ours(names=LEE2019_CHANNELS, samples=536, seed=0):
    "A braindecode model with random weights and ours with the same ones."
    torch.manual_seed(seed)
    chs = channels(lee2019_montage().select(names))
    theirs = SignalJEPA(chs_info=chs, n_times=samples, sfreq=128).eval()
    with torch.no_grad():
        for p in theirs.parameters(): p.add_(torch.randn_like(p) * .01)  # norms and biases too
    ours = SJEPA(lee2019_montage().select(names))
    report = load_braindecode(ours, theirs.state_dict())
    assert report.absent == ["predictor.mask_token"] and report.unused == []
    assert len(report.matched) == len(theirs.state_dict())
    return theirs, ours.eval()


@pytest.mark.parametrize("names", [LEE2019_CHANNELS, SUBSET], ids=["62 channels", "subset"])
@pytest.mark.parametrize("samples", [152, 536, 2072])
@torch.no_grad()
def test_tokens_position_codes_context(names, samples):
    theirs, ours = theirs_and_ours(names, samples)
    x = torch.randn(2, len(names), samples) * 10
    tokens = theirs.feature_encoder(x)
    torch.testing.assert_close(ours.local_encoder(x).flatten(1, 2), tokens, **close)
    code = ours.position(tokens.shape[1] // len(names)).flatten(0, 1)
    torch.testing.assert_close(code, theirs.pos_encoder(tokens)[0], **close)
    torch.testing.assert_close(ours.encode(x), theirs(x.clone()), **close)


@torch.no_grad()
def test_a_subset_of_the_rows():
    "Their `pretrain_aligned` rows for some channels are our `channels=` rows."
    theirs, ours = theirs_and_ours()
    rows = lee2019_montage().index(SUBSET)
    x = torch.randn(2, len(SUBSET), 536) * 10
    chs = [dict(ch_name=n, kind="eeg", loc=[0., 0., 0.]) for n in SUBSET]
    aligned = SignalJEPA(chs_info=chs, n_times=536, sfreq=128, channel_embedding="pretrain_aligned")
    aligned.eval().load_state_dict(theirs.state_dict())
    mine = ours.encode(x, torch.from_numpy(rows))
    torch.testing.assert_close(mine, aligned(x.clone()), **close)


@torch.no_grad()
def test_starting_position_rows():
    "Before training, the rows agree too."
    torch.manual_seed(0)
    theirs = SignalJEPA(chs_info=channels(lee2019_montage()), n_times=152, sfreq=128)
    rows = theirs.pos_encoder.pos_encoder_spat.weight
    torch.testing.assert_close(SJEPA().position.spatial, rows, **close)


def example_by_example(theirs, teacher, mask_token, x, masks):
    "Predictions and targets of each example, written out from braindecode's modules."
    tokens = theirs.feature_encoder(x)
    code = theirs.pos_encoder(tokens)
    placed = tokens + code
    n = tokens.shape[1] // 62
    for i, hidden in enumerate(masks.hidden.repeat_interleave(n, 1)):
        context = theirs.transformer.encoder(placed[i:i + 1, ~hidden])
        questions = mask_token + code[i:i + 1, hidden]
        predicted = theirs.transformer.decoder(questions, context)
        with torch.no_grad():
            layers, h = [], placed[i:i + 1]
            for layer in teacher.layers:
                h = layer(h)
                layers.append(h)
            mean = torch.stack(layers[-4:]).mean(0)
            target = torch.nn.functional.layer_norm(mean, (64,))[:, hidden]
        yield predicted, target


@pytest.mark.parametrize("samples", [152, 536])
def test_predictions_and_the_whole_loss(samples):
    """One batch through `SJEPA`, and the same written out from braindecode's modules, an example
    at a time: loss, predictions, gradients."""
    theirs, ours = theirs_and_ours(samples=samples)
    teacher = copy.deepcopy(theirs.transformer.encoder)
    with torch.no_grad():
        for p in teacher.parameters(): p.add_(torch.randn_like(p) * .01)
    ours.target_encoder.load_state_dict(teacher.state_dict())
    x = torch.randn(5, 62, samples) * 10
    masks = SphereMask(ours.montage, .6)(5, torch.Generator().manual_seed(0))
    assert len(set(masks.hidden.sum(1).tolist())) > 1  # unequal sizes
    out = ours(x, masks)

    mask_token = ours.predictor.mask_token.detach()
    examples = list(example_by_example(theirs, teacher, mask_token, x, masks))
    total = count = 0.
    for i, (predicted, target) in enumerate(examples):
        k = target.shape[1]
        torch.testing.assert_close(out.predicted[i, :k], predicted[0], **close)
        torch.testing.assert_close(out.target[i, :k], target[0], **close)
        total, count = total + (predicted - target).abs().sum(), count + predicted.numel()
    torch.testing.assert_close(out.loss, total / count, **close)

    (total / count).backward()
    out.loss.backward()
    encoder = theirs.transformer.encoder
    for a, b in ((ours.local_encoder.convs[0].weight, theirs.feature_encoder[1][0].weight),
                 (ours.position.spatial, theirs.pos_encoder.pos_encoder_spat.weight),
                 (ours.encoder.layers[0].linear1.weight, encoder.layers[0].linear1.weight)):
        torch.testing.assert_close(a.grad, b.grad, **close)


def test_state_dicts_travel_both_ways(tmp_path):
    theirs, ours = theirs_and_ours()
    state = to_braindecode(ours)
    assert set(state) == set(theirs.state_dict())
    for k, v in theirs.state_dict().items(): assert torch.equal(state[k], v), k
    theirs.load_state_dict(state)  # strict


@torch.no_grad()
def test_hub_folder_both_ways(tmp_path, capsys):
    "A folder of ours opens in braindecode, and a folder of braindecode's opens here."
    theirs, ours = theirs_and_ours()
    x = torch.randn(1, 62, 536) * 10
    save_pretrained(ours, tmp_path / "ours")
    opened = SignalJEPA.from_pretrained(tmp_path / "ours", n_times=536).eval()
    torch.testing.assert_close(opened(x.clone()), ours.encode(x), **close)
    theirs.save_pretrained(tmp_path / "theirs")
    mine = from_pretrained(tmp_path / "theirs")
    assert "tensors loaded; not in the file: predictor.mask_token" in capsys.readouterr().out
    torch.testing.assert_close(mine.encode(x), theirs(x.clone()), **close)


# ---------------------------------------------------------------- the three heads

THEIRS = {"contextual": "SignalJEPA_Contextual", "post-local": "SignalJEPA_PostLocal",
          "pre-local": "SignalJEPA_PreLocal"}


def head_pair(head, names, samples, classes=3, virtual=4):
    "A head of braindecode with random weights, and ours."
    torch.manual_seed(1)
    montage = lee2019_montage().select(names)
    theirs = getattr(pytest.importorskip("braindecode.models"), THEIRS[head])
    theirs = theirs(chs_info=channels(montage), n_times=samples, sfreq=128, n_outputs=classes,
                    n_spat_filters=virtual)
    ours = Downstream(head, classes, samples, len(names), montage, virtual_channels=virtual)
    return theirs.eval(), ours.eval()


@pytest.mark.parametrize("names", [LEE2019_CHANNELS, SUBSET], ids=["62 channels", "subset"])
@pytest.mark.parametrize("samples", [152, 536, 700])
@pytest.mark.parametrize("head", HEADS)
def test_heads(head, names, samples):
    "Scores and gradients of the three heads, with weights copied from braindecode; and back."
    theirs, ours = head_pair(head, names, samples)
    report = load_braindecode(ours, theirs.state_dict())
    assert not report.absent and all(k.startswith("transformer.decoder") for k in report.unused)
    x, y = torch.randn(4, len(names), samples) * 10, torch.tensor([0, 1, 2, 0])
    theirs.requires_grad_(True)
    ours.requires_grad_(True)
    a, b = ours(x), theirs(x.clone())
    torch.testing.assert_close(a, b, **close)
    for scores in (a, b): torch.nn.functional.cross_entropy(scores, y).backward()
    mine, there = dict(ours.named_parameters()), dict(theirs.named_parameters())
    for name in ("spatial.weight", "linear.weight", "local_encoder.convs.0.weight"):
        gradient = there[braindecode_name(name, head)].grad.reshape(mine[name].shape)
        torch.testing.assert_close(mine[name].grad, gradient, atol=1e-4, rtol=1e-3)
    state = to_braindecode(ours)
    assert all(torch.equal(state[k], v) for k, v in theirs.state_dict().items() if k in state)
    missing = theirs.load_state_dict(state, strict=False).missing_keys
    assert all(k.startswith("transformer.decoder") for k in missing)


@pytest.mark.parametrize("virtual", [1, 7])
def test_heads_with_other_virtual_channels(virtual):
    theirs, ours = head_pair("pre-local", SUBSET, 536, virtual=virtual)
    load_braindecode(ours, theirs.state_dict())
    x = torch.randn(2, len(SUBSET), 536)
    torch.testing.assert_close(ours(x), theirs(x), **close)


def test_a_head_of_another_width_is_refused():
    theirs, _ = head_pair("post-local", SUBSET, 536, virtual=3)
    ours = Downstream("post-local", 3, 536, len(SUBSET))
    with pytest.raises(ValueError, match="weights of another architecture or montage"):
        load_braindecode(ours, theirs.state_dict())


@pytest.mark.parametrize("name", shipped_models())
@torch.no_grad()
def test_shipped_models_in_braindecode(name, tmp_path):
    "A shipped model, exported, loaded strictly by `SignalJEPA` and its heads: the same numbers."
    ours = SJEPA.from_pretrained(name)
    save_pretrained(ours, tmp_path)
    theirs = SignalJEPA.from_pretrained(tmp_path, n_times=536, strict=True).eval()
    x = torch.randn(2, len(ours.montage), 536) * 10
    torch.testing.assert_close(theirs(x.clone()), ours.encode(x), **close)
    again = from_pretrained(tmp_path, verbose=False)
    assert again.config == ours.config and again.montage == ours.montage
    torch.testing.assert_close(again.encode(x), ours.encode(x), **close)
    for head in HEADS:
        kind = getattr(pytest.importorskip("braindecode.models"), THEIRS[head])
        kept = kind.from_pretrained(theirs, n_outputs=3).state_dict()
        state = to_braindecode(ours)
        shared = [k for k in kept if k in state]
        assert all(torch.equal(kept[k], state[k]) for k in shared)
        assert any(k.startswith("feature_encoder") for k in shared)
        if head == "contextual": assert any(k.startswith("transformer.encoder") for k in shared)


def test_a_frozen_norm_does_not_travel():
    net = Downstream("pre-local", 2, 536, 62, lee2019_montage(), norm="frozen")
    with pytest.raises(ValueError, match="normalises over each window"): to_braindecode(net)
