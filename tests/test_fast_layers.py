"""The fast way through the layers against the plain one: what the pages do not show."""
import copy

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from sjepa_nb import attention, contextual_encoder
from sjepa_nb.attention import (
    CHUNK, HAS_NUMBA, PackedAttention, PackedRows, PaddedRows, share_out,
)
from sjepa_nb.contextual_encoder import Attention, ContextualEncoder, EncoderLayer, is_fast
from sjepa_nb.masking import FixedBudgetMask, SphereMask
from sjepa_nb.model import SJEPA, SJEPAConfig

pytestmark = pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed")


@pytest.fixture
def threads():
    "Set the number of threads; back to what it was afterwards."
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def plain_attention(q, k, v):
    split = lambda t: t.unflatten(-1, (8, 8)).transpose(0, 1)[None]
    return scaled_dot_product_attention(split(q), split(k), split(v))[0].transpose(0, 1).flatten(1)


@pytest.mark.parametrize("size", [1., 10., 60.])  # 60: scores in the thousands, vanishing weights
@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_rows_of_unequal_length(size, n_threads, threads):
    torch.manual_seed(0)
    threads(n_threads)
    queries, keys = np.array([0, 5, 6, 40]), np.array([0, 33, 34, 131])
    sizes = (40, size), (131, size), (131, 1.)
    q, k, v = (torch.randn(n, 64, dtype=torch.float64) * s for n, s in sizes)
    q[3] = -k[:33].mean(0) * size  # one that fits no key
    for t in (q, k, v): t.requires_grad_()
    out = PackedAttention.apply(*(t.float() for t in (q, k, v)), queries, keys, 8)
    weights = torch.randn_like(out)
    mine = torch.autograd.grad((out * weights).sum(), (q, k, v))
    rows = zip(queries, queries[1:], keys, keys[1:])
    expected = torch.cat([plain_attention(q[a:b], k[c:d], v[c:d]) for a, b, c, d in rows])
    theirs = torch.autograd.grad((expected * weights).sum(), (q, k, v))
    tolerance = 1e-5 if size == 1 else 1e-3 * size  # the scores are rounded to float32
    torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)
    for a, b in zip(mine, theirs):
        largest = max(1, float(b.abs().max()))
        torch.testing.assert_close(a, b, atol=tolerance * largest, rtol=0)


def test_the_same_on_any_number_of_threads(threads):
    torch.manual_seed(0)
    x, starts = torch.randn(90, 192), np.array([0, 20, 61, 90])
    seen = []
    for n in (1, 2, 5):
        threads(n)
        y = x.clone().requires_grad_()
        out = PackedAttention.apply(*y.chunk(3, -1), starts, starts, 8)
        seen.append((out.detach(), torch.autograd.grad(out.square().sum(), y)[0]))
    for out, gradient in seen[1:]:
        assert torch.equal(out, seen[0][0]) and torch.equal(gradient, seen[0][1])


@pytest.mark.parametrize("own_threads", [False, True])
def test_work_is_shared_out_once(monkeypatch, own_threads, threads):
    if own_threads: monkeypatch.setattr(attention, "_team", None)
    threads(3)
    done = []
    share_out(lambda i, n: done.append((i, n)))
    assert sorted(done) == [(0, 3), (1, 3), (2, 3)]
    with pytest.raises(ZeroDivisionError): share_out(lambda i, n: 1 / (i - 1))


@pytest.mark.parametrize("tokens", [1, 1023, 1024, 2500])
def test_feed_forward_in_chunks(tokens):
    torch.manual_seed(0)
    layer, x = EncoderLayer(hidden=128), torch.randn(tokens, 64)
    padded, packed = PaddedRows(), PackedRows((1, tokens))

    def gradients(rows):
        layer.zero_grad()
        y = x.clone().requires_grad_()
        out = layer.feed_forward(y, rows)
        out.square().mean().backward()
        linear = layer.linear1, layer.linear2
        return [out.detach(), y.grad] + [p.grad for part in linear for p in part.parameters()]

    for a, b in zip(gradients(padded), gradients(packed)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    layer.bf16 = True
    for a, b in zip(gradients(padded), gradients(packed)):
        torch.testing.assert_close(a, b, atol=2e-2, rtol=2e-2)


def test_nothing_is_kept_without_gradients():
    kept = []
    keep = lambda t: kept.append(t.shape) or t
    encoder = ContextualEncoder(depth=1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), torch.no_grad():
        encoder(torch.randn(1, 9, 64))
    assert not kept


def test_when_the_plain_way_is_taken(monkeypatch):
    layer, x = EncoderLayer(), torch.randn(1, 3, 64)
    assert is_fast(layer, x)
    assert not is_fast(EncoderLayer(dropout=.1), x)
    assert is_fast(EncoderLayer(dropout=.1).eval(), x)
    assert not is_fast(layer, x.double())
    assert not is_fast(copy.deepcopy(layer).double(), x)
    assert not is_fast(EncoderLayer(heads=4), x)
    with torch.autocast("cpu", torch.bfloat16): assert not is_fast(layer, x)
    monkeypatch.setattr(Attention, "fast", False)
    assert not is_fast(layer, x)


CONFIGS = (dict(), dict(target_norm="none", average_layers=1), dict(target_norm="instance"),
           dict(heads=4))
SIZES = dict(depth=3, predictor_depth=2, hidden=128, average_layers=2)


class Plain(SJEPA):
    "Computes every target, as a subclass does that has targets of its own."
    def targets(self, tokens): return super().targets(tokens)


def step(kind, config, masks, x):
    "Loss, predictions, targets and gradients of a step of a model with the same weights each time."
    torch.manual_seed(0)
    model = kind(config=SJEPAConfig(**SIZES | config))
    out = model(x, masks)
    out.loss.backward()
    exists = ... if out.exists is None else out.exists
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    return [out.loss.detach(), out.predicted[exists].detach(), out.target[exists], *gradients]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("kind", [SphereMask, FixedBudgetMask])
def test_whole_step(monkeypatch, config, kind):
    "Plain and fast agree, and the fast way is taken where it can be."
    torch.manual_seed(1)
    x = torch.randn(3, 62, 280) * 10
    masks = kind(SJEPA().montage, .6)(3, torch.Generator().manual_seed(0))
    calls, forward = [], PackedAttention.forward
    counted = staticmethod(lambda *a: calls.append(1) or forward(*a))
    monkeypatch.setattr(PackedAttention, "forward", counted)
    fast = step(SJEPA, config, masks, x)
    assert bool(calls) == (config != dict(heads=4))
    monkeypatch.setattr(Attention, "fast", False)
    plain = step(Plain, config, masks, x)
    for a, b in zip(plain, fast): torch.testing.assert_close(a, b, atol=3e-5, rtol=1e-3)


def test_gradients_to_rounding(monkeypatch):
    """Every entry of every gradient, packed against padded, within 1e-5 of the largest. The slope
    of relu jumps at zero, where rounding decides: so packed rows are held to the padded's sides."""
    torch.manual_seed(0)
    encoder, x = ContextualEncoder(depth=4), torch.randn(3, 20, 64)
    exists = torch.arange(20) < torch.tensor([[20], [13], [17]])

    def gradients():
        encoder.zero_grad()
        y = x.clone().requires_grad_()
        (encoder(y, exists)[exists] * torch.linspace(-1, 1, 64)).abs().mean().backward()
        return [y.grad[exists], *(p.grad.clone() for p in encoder.parameters())]

    sides, relu = [], contextual_encoder.relu

    def noted(x):
        sides.extend((x[exists] > 0).split(CHUNK))
        return relu(x)

    def held(x, weight, bias):
        hidden = torch.addmm(bias, x, weight.T).clamp_min(1e-30)
        return torch.where(sides.pop(0), hidden, 0)

    monkeypatch.setattr(contextual_encoder, "relu", noted)
    monkeypatch.setattr(Attention, "fast", False)
    padded = gradients()
    monkeypatch.setattr(Attention, "fast", True)
    monkeypatch.setattr(attention, "hidden_layer", held)
    packed = gradients()
    assert not sides
    for a, b in zip(padded, packed):
        if a.abs().max() > 1e-9: assert (a - b).abs().max() < 1e-5 * a.abs().max()


def test_rows_there_and_back():
    x = torch.randn(3, 5, 64)
    exists = torch.arange(5) < torch.tensor([[2], [5], [4]])
    rows, full = PackedRows((3, 5), exists), PackedRows((3, 5))
    assert rows.starts.tolist() == [0, 2, 7, 11]
    assert torch.equal(rows.unpack(rows.pack(x)), x * exists[..., None])
    assert torch.equal(full.unpack(full.pack(x)), x)


def test_without_numba(monkeypatch):
    "A Python that numba does not know yet gets the plain way."
    monkeypatch.setattr(contextual_encoder, "HAS_NUMBA", False)
    encoder, x = ContextualEncoder(depth=2).eval(), torch.randn(2, 4, 64)
    with torch.no_grad(): slow = encoder(x)
    monkeypatch.undo()
    with torch.no_grad(): torch.testing.assert_close(encoder(x), slow, atol=1e-5, rtol=0)


class Doubled(SJEPA):
    "Targets of its own: twice the usual ones, and with a gradient."
    def targets(self, tokens): return 2 * super().targets(tokens).requires_grad_()


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("how", ["subclass", "instance"])
def test_a_models_own_targets_are_used(monkeypatch, fast, how):
    "Whoever overrides `targets` gets what it says, with its gradient, whichever way is taken."
    monkeypatch.setattr(Attention, "fast", fast)
    torch.manual_seed(0)
    config = SJEPAConfig(**SIZES)
    usual = SJEPA(config=config).eval()
    own = (Doubled if how == "subclass" else SJEPA)(config=config).eval()
    own.load_state_dict(usual.state_dict())
    if how == "instance": own.targets = lambda tokens: 2 * usual.targets(tokens).requires_grad_()
    x = torch.randn(3, 62, 280) * 10
    masks = SphereMask(usual.montage, .6)(3, torch.Generator().manual_seed(0))
    ours, theirs = own(x, masks), usual(x, masks)
    exists = theirs.exists
    assert exists is not None
    twice = 2 * theirs.target[exists]
    torch.testing.assert_close(ours.target[exists], twice, atol=1e-5, rtol=0)
    assert ours.target.requires_grad and not theirs.target.requires_grad
