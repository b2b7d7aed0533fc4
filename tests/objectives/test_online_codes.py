"""w2v-BERT: codes that are trained along, the contrast that trains them, and noise in the place of hidden tokens."""

import math

import pytest
import torch
from torch.testing import assert_close

from mmpt.config import component
from mmpt.errors import ConfigError
from mmpt.model import MaskedModel
from mmpt.objectives import Objective
from mmpt.objectives.contrast import Contrast, ContrastSettings, negatives
from mmpt.objectives.quantiser import Quantised, Quantiser, diversity_loss, perplexity
from mmpt.objectives.targets.online_codes import gumbel
from mmpt.tokens import Batch, Content, Scored

MODALITIES = ("text", "image", "labs", "ecg", "ecg_stem", "speech", "speech_mel")
GROUPS, CODES, SIZE, WIDTH = 2, 5, 12, 16
CODEBOOK = {"type": "online_codes", "groups": GROUPS, "codes": CODES, "size": SIZE}


def stream_of(**changed):
    contrast = {"layer": 1, "negatives": 7, "size": 8}
    own = {"masking": {"ratio": 0.5}, "corruption": "noise", "predictor": "mlp", "target": CODEBOOK}
    return {**own, "contrast": contrast, **changed}


@pytest.fixture
def model_of(modalities, backbone_of, randomised):
    def make(masks_per_sample=1, **streams):
        chosen = {name: modalities[name] for name in streams}
        backbone = backbone_of(chosen)
        settings = {"streams": streams, "masks_per_sample": masks_per_sample}
        built = component(Objective, "masked_prediction", **settings).build(backbone, chosen)
        return randomised(MaskedModel(backbone, built)).train()

    return make


def rows_of(batch, rows):
    streams = {name: Content(*(t[rows] for t in content[:5])) for name, content in batch.streams.items()}
    return Batch(streams, batch.uid[rows], batch.draw[rows], batch.source, batch.position)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# ---- the quantiser


def test_what_is_chosen_is_one_code_and_the_gradient_that_of_the_softmax():
    quantiser, x = Quantiser(WIDTH, GROUPS, CODES, SIZE), torch.randn(2, 6, WIDTH)
    noise = gumbel(torch.arange(2), torch.arange(6).expand(2, 6), GROUPS * CODES)
    quantised = quantiser(x, noise, 0.7)
    table = quantiser.vectors
    wanted = torch.cat([table[group][quantised.codes[:, :, group]] for group in range(GROUPS)], dim=2)
    assert_close(quantised.vectors, wanted, rtol=1e-5, atol=1e-6)
    weight = torch.randn(SIZE)
    (quantised.vectors @ weight).sum().backward()
    logits = (quantiser.logits(x).unflatten(2, (GROUPS, CODES)) + noise.view(2, 6, GROUPS, CODES)) / 0.7
    soft = torch.einsum("bqgv,gvw->bqgw", logits.softmax(3), table.detach()).flatten(2)
    (own,) = torch.autograd.grad((soft @ weight).sum(), quantiser.logits.weight)
    assert_close(quantiser.logits.weight.grad, own, rtol=1e-4, atol=1e-6)


def test_diversity_is_nothing_at_even_use_and_nearly_one_at_collapse():
    valid = torch.ones(1, 320, dtype=torch.bool)
    even = torch.eye(320).view(1, 320, 1, 320).expand(-1, -1, 2, -1)
    assert float(diversity_loss(even, valid)) == pytest.approx(0, abs=1e-5)
    assert_close(perplexity(even, valid), torch.full((2,), 320.0), rtol=1e-4, atol=1e-3)
    one = torch.zeros(1, 320, 2, 320)
    one[..., 3] = 1
    assert float(diversity_loss(one, valid)) == pytest.approx((640 - 2) / 640)
    assert_close(perplexity(one, valid), torch.ones(2))
    half = torch.cat([even[:, :160], one[:, 160:]], dim=1)  # what is not valid counts for nothing
    assert_close(perplexity(half, valid & (torch.arange(320) < 160)), torch.full((2,), 160.0), rtol=1e-4, atol=1e-3)


def test_noise_is_gumbels_and_a_places_own():
    draw, places = torch.arange(50), torch.arange(40).expand(50, 40)
    noise = gumbel(draw, places, 10)
    assert abs(float(noise.mean()) - 0.5772) < 0.03
    assert abs(float(noise.var()) - math.pi**2 / 6) < 0.08
    assert torch.equal(gumbel(draw[3:5], places[3:5, 7:9], 10), noise[3:5, 7:9])


# ---- the contrast


def test_negatives_are_other_scored_tokens_of_the_row_each_as_likely():
    valid = torch.arange(6) < torch.tensor([[6], [4], [1], [0], [2]])
    chosen, there = negatives(torch.arange(5), valid, 3000)
    assert torch.equal(there.any(2), valid & (valid.sum(1, keepdim=True) > 1))
    for row, count in enumerate(valid.sum(1).tolist()):
        for place in range(count if count > 1 else 0):
            drawn = chosen[row, place].bincount(minlength=6)
            others = [other for other in range(count) if other != place]
            assert drawn.sum() == drawn[others].sum() == 3000
            assert (drawn[others] / 3000 - 1 / len(others)).abs().max() < 0.05


def test_negatives_do_not_depend_on_padding():
    narrow, wide = (torch.arange(size) < torch.tensor([[4], [3]]) for size in (4, 9))
    theirs, _ = negatives(torch.arange(2), wide, 5)
    ours, there = negatives(torch.arange(2), narrow, 5)
    assert torch.equal(ours[there], theirs[:, :4][there])


def test_the_loss_is_cross_entropy_of_cosines_without_equal_codes():
    torch.manual_seed(0)
    contrast = Contrast(WIDTH, SIZE, ContrastSettings(layer=1, negatives=9, size=8))
    codes = torch.tensor([[[0, 0], [1, 2], [0, 0], [3, 3], [1, 2]], [[1, 1], [1, 1], [1, 1], [0, 0], [0, 0]]])
    vectors = torch.randn(5, 5, SIZE)[codes[..., 0], codes[..., 1]]
    quantised = Quantised(vectors, codes, torch.full((2, 5, 2, 5), 0.2))
    latents, draw = torch.randn(2, 5, WIDTH), torch.arange(2)
    scored = Scored(torch.arange(5).expand(2, 5), torch.arange(5) < torch.tensor([[5], [3]]), full=False)
    result = contrast(latents, quantised, scored, draw)
    ours, theirs = contrast.of_latents(latents), contrast.of_codes(vectors)
    chosen, _ = negatives(draw, scored.valid, 9)
    for place in range(5):
        others = [n for n in chosen[0, place].tolist() if not torch.equal(codes[0, n], codes[0, place])]
        tokens = theirs[0][[place, *others]]
        logits = torch.cosine_similarity(ours[0, place].expand(len(tokens), -1), tokens, dim=1) / 0.1
        assert_close(result.each[0, place], -logits.log_softmax(0)[0], rtol=1e-4, atol=1e-5)
    assert_close(result.each[1], torch.zeros(5))  # all codes are equal, or padding: nothing to tell apart
    assert float(result.figures["contrast"][1]) == 8
    assert float(result.figures["codes_used"][0] / 8) == pytest.approx(0.7)


# ---- the whole stream


@pytest.mark.parametrize("name", MODALITIES)
def test_every_modality_has_gradients_everywhere_also_where_its_stream_is_absent(model_of, contents, batch_of, name):
    other = "image" if name != "image" else "text"
    model = model_of(**{name: stream_of(), other: stream_of(corruption="replace")})
    for present in ((name, other), (name,), (other,)):
        rows = min(len(contents(stream).valid) for stream in present)
        batch = rows_of(batch_of(**{stream: contents(stream) for stream in present}), torch.arange(rows))
        step = model(batch, model.hide(batch, 0.5), 0.5)
        grown = gradients(model, sum(loss.total for loss in step.losses.values()) + step.balance)
        assert set(grown) == {name for name, p in model.named_parameters() if p.requires_grad}
        assert all(gradient.isfinite().all() for gradient in grown.values())
        figures = {f"{stream}/{name}" for stream in present for name in ("code_perplexity", "latent_std")}
        assert figures <= set(step.metrics)


def test_cross_entropy_trains_no_quantiser_and_contrast_no_block_above_its_own(model_of, full_contents, batch_of):
    batch = batch_of(speech_mel=full_contents("speech_mel"))
    grown = {}
    for weight in (0.0, 1.0):
        contrast = {"layer": 1, "negatives": 7, "size": 8, "weight": weight}
        model = model_of(speech_mel=stream_of(contrast=contrast))
        grown[weight] = gradients(model, model(batch, model.hide(batch, 0.5), 0.5).losses["speech_mel"].total)
    quantiser = [name for name in grown[0.0] if ".quantiser." in name or ".contrast." in name]
    assert len(quantiser) == 7
    assert all((grown[0.0][name] == 0).all() and (grown[1.0][name] != 0).any() for name in quantiser)
    moved = {
        name for name in grown[0.0] if not torch.allclose(grown[0.0][name], grown[1.0][name], rtol=1e-4, atol=1e-5)
    }
    assert any(name.startswith("backbone.trunk.blocks.0.") for name in moved)
    assert not any(
        name.startswith(("backbone.trunk.blocks.1.", "objective.streams.speech_mel.predictor")) for name in moved
    )


@pytest.mark.parametrize("masks", [1, 2])
def test_losses_of_parts_of_a_batch_add_up_but_for_diversity(model_of, contents, batch_of, masks):
    contrast = {"layer": 1, "negatives": 7, "size": 8, "diversity": 0.0}
    model = model_of(masks, speech_mel=stream_of(contrast=contrast))
    batch = batch_of(speech_mel=contents("speech_mel"))
    hidden = model.hide(batch, 0.5)
    whole = model(batch, hidden, 0.5).losses["speech_mel"]
    parts = [rows_of(batch, torch.tensor([row])) for row in range(len(batch.uid))]
    losses = [model(part, model.hide(part, 0.5), 0.5).losses["speech_mel"] for part in parts]
    assert_close(torch.stack([loss.total for loss in losses]).sum(), whole.total, rtol=1e-5, atol=1e-4)
    assert_close(torch.cat([loss.rows for loss in losses]), whole.rows, rtol=1e-5, atol=1e-4)


def test_codes_are_those_of_the_token_before_it_was_hidden(model_of, full_contents, batch_of):
    model, content = model_of(image=stream_of()), full_contents("image")
    batch = batch_of(image=content)
    hidden = model.hide(batch, 0.5)
    part, tokens = model.objective.part("image"), model.backbone.embed(batch)["image"]
    context = model.objective._contexts(batch, 0.5)["image"]._replace(embedded=tokens.x)
    codes = part.target(context)
    normed = torch.nn.functional.layer_norm(tokens.x, (WIDTH,))
    assert torch.equal(codes, part.target.quantiser.logits(normed).unflatten(2, (GROUPS, CODES)).argmax(3))
    predicted = model.objective.predict(model.backbone, batch, hidden)["image"]
    logits = predicted.prediction.unflatten(1, (GROUPS, CODES)).log_softmax(2)
    own = -logits.gather(2, codes[predicted.row, predicted.places].unsqueeze(2)).sum((1, 2))
    step = model(batch, hidden, 0.5)
    assert_close(step.metrics["image/loss"][0], own.sum(), rtol=1e-4, atol=1e-3)


def test_the_temperature_falls_along_a_geometric_line(model_of):
    target = model_of(image=stream_of()).objective.part("image").target
    assert [target.temperature(progress) for progress in (0.0, 0.5, 1.0)] == pytest.approx([2.0, 1.0, 0.5])


def test_noise_has_its_spread_and_is_a_places_own(model_of, full_contents, batch_of):
    part = model_of(image=stream_of(corruption={"type": "noise", "std": 0.3})).objective.part("image")
    model, batch = model_of(image=stream_of()), batch_of(image=full_contents("image"))
    tokens = model.backbone.embed(batch)["image"]
    context = model.objective._contexts(batch, 0.5)["image"]
    x = part.corruption(tokens, torch.ones_like(tokens.valid), context).tokens.x.detach()
    assert abs(float(x.mean())) < 0.02
    assert float(x.std()) == pytest.approx(0.3, rel=0.05)
    assert len(x.flatten().unique()) > 0.99 * x.numel()


# ---- what is refused


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"contrast": None}, "'online_codes' has a quantiser that only a contrastive loss trains"),
        ({"target": "pixels"}, "target 'pixels' has none; use target=online_codes"),
        (
            {"corruption": "drop", "predictor": {"type": "decoder", "width": 16, "depth": 1, "heads": 2}},
            "corruption 'drop' leaves them out of the trunk; use corruption=noise or replace",
        ),
        ({"contrast": {"layer": 3}}, r"contrast\.layer: expected 1 to 2, the trunk's depth, got 3"),
        ({"contrast": {"layer": 1, "temperature": 0.0}}, "temperature: expected above 0"),
        ({"target": {**CODEBOOK, "size": 13}}, "13 numbers can't be shared by 2 groups"),
        ({"target": {**CODEBOOK, "start": 0.1}}, "start, end, rise: expected temperatures that fall"),
        ({"target": {**CODEBOOK, "codes": 1}}, "groups, codes: expected 1 or more and 2 or more"),
        ({"corruption": {"type": "noise", "std": -1.0}}, "std: expected 0 or more"),
    ],
)
def test_combinations_without_a_meaning_are_refused(model_of, changed, sentence):
    with pytest.raises(ConfigError, match=sentence):
        model_of(image=stream_of(**changed))
