"""Every part keeps its folder's contract: the tests walk the folders, so that a new file is tested as it is added.

A part that has no meaning for a modality has to refuse it with a sentence, and every part has to take one at least.
"""

import inspect
import itertools
import pickle
from dataclasses import make_dataclass
from functools import cache

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mmpt.config import Component, component, dump_yaml, find_parts, parse_settings
from mmpt.data.layouts import Layout, Pieces
from mmpt.data.tokenizer import read_tokenizer, token_ids
from mmpt.encoders import Modality
from mmpt.errors import ConfigError
from mmpt.objectives.corruption import Corruption
from mmpt.objectives.masking.algebra import Masking, MaskingSettings
from mmpt.objectives.masking.importance import Importance
from mmpt.objectives.masking.ratio import Ratio
from mmpt.objectives.masking.unit import Unit
from mmpt.objectives.predictors import Latents, Predictor
from mmpt.objectives.soft_labels import SoftLabels
from mmpt.objectives.targets import Target, build_target
from mmpt.objectives.targets.cells import CellsTarget
from mmpt.pools import Pool
from mmpt.randomness import uniform_rows
from mmpt.tokens import Content, Siblings, StreamContext, score
from mmpt.training.optimizers import Rule
from mmpt.trunk import Surroundings
from mmpt.trunk.feedforward import FeedForward
from tests.encoders.labs_material import perfect_cells

CONTRACTS = {
    kind: list(find_parts(kind.__module__))
    for kind in (Ratio, Unit, Importance, Corruption, Predictor, Target, SoftLabels, FeedForward, Layout, Rule, Pool)
}
MODALITIES = list(find_parts(Modality.__module__, Modality))
# what a part that has no default for it is given, by the setting's name
EXAMPLES = {
    "value": 0.4,
    "start": 0.6,
    "end": 0.3,
    "width": 16,
    "depth": 1,
    "heads": 2,
    "layers": 2,
    "mode": "sampled",
    "run": "runs/other",
    "codebook": "units/any.safetensors",
    "length": 2,
}
WIDTH = 16
# stems whose shown tokens know a little of hidden ones, as in the originals: shared samples, a normalisation over time
OVERLAPPING = ("speech", "ecg_stem")


def pairs(*kinds):
    """Parametrise over the parts of several folders and the modalities."""
    return list(itertools.product(*(CONTRACTS[kind] for kind in kinds), MODALITIES))


# a test of each loops over ratios and modalities: tests of their own would be nine thousand
UNITS_BY_IMPORTANCE = list(itertools.product(CONTRACTS[Unit], CONTRACTS[Importance]))


@pytest.fixture(scope="session")
def contents(contents):
    """Each read once."""
    return cache(contents)


@pytest.fixture(scope="session")
def full_contents(full_contents):
    """Each read once."""
    return cache(full_contents)


@pytest.fixture(scope="session")
def chosen(text, tmp_path_factory):
    """`chosen(Unit, "span")`: a part with its defaults, and with examples for what has none."""
    file = tmp_path_factory.mktemp("weights") / "weights.npy"
    np.save(file, np.linspace(0.5, 2.0, text.vocabulary))

    def make(kind, name, **settings):
        signature = inspect.signature(find_parts(kind.__module__)[name]).parameters.values()
        needed = [p.name for p in signature if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
        examples = EXAMPLES | {"file": str(file)}
        assert set(needed) <= set(examples), f"give {name}'s settings an example in EXAMPLES: {needed}"
        return component(kind, name, **({name: examples[name] for name in needed} | settings))

    return cache(make)


def built(part, *wired):
    """The part, or None where it refuses the modality with a sentence."""
    try:
        return build_target(part, *wired, WIDTH) if issubclass(part.target, Target) else part.build(*wired)
    except ConfigError as error:
        sentence = str(error)
    assert part.name in sentence
    assert " has a meaning for " in sentence or " needs " in sentence
    return None


def contents_of(content, rows):
    """Some of the rows."""
    scores = None if content.scores is None else content.scores[rows]
    return Content(*(tensor[rows] for tensor in content[:5]), scores=scores)


def times(count, content):
    """The same rows again and again, whose draws differ."""
    return contents_of(content, torch.arange(len(content.valid)).repeat(count))


def context_of(content, seed=0, progress=0.5):
    draw = torch.arange(len(content.valid)) * 7919 + seed * 104729
    size = content.valid.shape[1]
    expected, scores = (uniform_rows(draw, size, purpose) for purpose in ("expected", "scores"))
    return StreamContext(content._replace(scores=scores.float()), draw, progress, predicted_loss=expected)


def taught_context_of(content):
    """With a teacher's latents, which are many numbers."""
    context, size = context_of(content), content.valid.shape[1]
    taught = uniform_rows(context.draw, 2 * size * WIDTH, "taught").view(-1, 2, size, WIDTH).transpose(0, 1).float()
    return context._replace(taught=taught, embedded=taught[0])


@pytest.fixture
def masking_of(chosen, modalities):
    """`masking_of(ratio, unit, importance, modality)`: by name, or None where the modality is refused."""

    def make(ratio, unit, importance, modality, rounding="up"):
        parts = {
            "ratio": chosen(Ratio, ratio),
            "unit": chosen(Unit, unit),
            "importance": chosen(Importance, importance),
        }
        for name in ("unit", "importance"):
            if built(parts[name], modalities[modality]) is None:
                return None
        if chosen(Ratio, ratio).build().shared and parts["unit"].target.overlapping:
            return None  # refused
        return Masking(modalities[modality], MaskingSettings(rounding=rounding, **parts))

    return make


@pytest.fixture
def maskings(masking_of):
    """`maskings(unit, importance)`: with every ratio, for every modality that is not refused; its name comes first."""

    def make(unit, importance, rounding="up"):
        for ratio, modality in itertools.product(CONTRACTS[Ratio], MODALITIES):
            masking = masking_of(ratio, unit, importance, modality, rounding)
            if masking is not None:
                yield f"{ratio} of {modality}", modality, masking

    return make


# ---- settings


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in CONTRACTS.items() for name in names])
def test_settings_of_a_part_come_back_from_yaml(chosen, kind, name):
    part = chosen(kind, name)
    holder = make_dataclass("Holder", [("part", Component[kind])], frozen=True, kw_only=True)
    again = parse_settings(dump_yaml(holder(part=part)), [], holder)
    assert again.part == part
    assert again.part.name == name


@pytest.mark.parametrize("folder", [Unit, Importance, Target])
def test_every_part_takes_a_modality_and_every_modality_a_part(chosen, modalities, folder):
    taken = {
        (name, modality)
        for name in CONTRACTS[folder]
        for modality in modalities
        if built(chosen(folder, name), modalities[modality]) is not None
    }
    assert {name for name, _ in taken} == set(CONTRACTS[folder])
    assert {modality for _, modality in taken} == set(MODALITIES)


def test_the_fixtures_know_every_modality(modalities):
    assert sorted(modalities) == sorted(MODALITIES)


# ---- masking


@pytest.mark.parametrize("rounding", ["up", "dither"])
@pytest.mark.parametrize(("unit", "importance"), UNITS_BY_IMPORTANCE)
def test_masking_hides_some_but_not_all_of_what_is_there(maskings, contents, unit, importance, rounding):
    for case, modality, masking in maskings(unit, importance, rounding):
        context = context_of(times(5, contents(modality)))
        maskable = context.content.valid & context.content.observed
        hidden, units = masking(context), masking.unit.units(context)
        assert not (hidden & ~maskable).any(), case
        assert torch.equal(hidden.any(1), maskable.any(1)), case
        several = torch.tensor([len(row[here].unique()) > 1 for row, here in zip(units, maskable, strict=True)])
        assert (maskable & ~hidden).any(1)[several].all(), case


@pytest.mark.parametrize(("unit", "importance"), UNITS_BY_IMPORTANCE)
def test_a_row_is_hidden_alike_alone_and_in_a_batch(maskings, contents, unit, importance):
    for case, modality, masking in maskings(unit, importance):
        context = context_of(contents(modality))
        hidden = masking(context)
        assert torch.equal(hidden, masking(context)), case
        for row in range(len(hidden)):
            own = slice(row, row + 1)
            alone = context._replace(
                content=contents_of(context.content, own),
                draw=context.draw[own],
                predicted_loss=context.predicted_loss[own],
            )
            assert torch.equal(masking(alone)[0], hidden[row]), case


@pytest.mark.parametrize(("unit", "importance"), UNITS_BY_IMPORTANCE)
def test_padding_changes_nothing_of_what_is_hidden(masking_of, text, documents, unit, importance):
    masking = masking_of("constant", unit, importance, "text")
    if masking is None:
        return
    for document in documents("text"):
        snug, wide = (context_of(text.collate([[document]], size)) for size in (len(document), 96))
        hidden = masking(wide)
        assert torch.equal(masking(snug)[0], hidden[0, : len(document)])


@pytest.mark.parametrize(("unit", "importance"), UNITS_BY_IMPORTANCE)
def test_other_draws_hide_other_tokens(maskings, full_contents, unit, importance):
    for case, modality, masking in maskings(unit, importance):
        content = full_contents(modality)
        masks = masking(context_of(times(4, content))).view(4, *content.valid.shape)
        assert len(masks.unique(dim=0)) == len(masks), case
        assert len(masks[0].unique(dim=0)) > len(masks[0]) // 2, case  # and rows differ


@pytest.mark.parametrize(("unit", "modality"), pairs(Unit))
def test_units_are_numbered_by_place_and_never_cross_documents(masking_of, contents, unit, modality):
    masking = masking_of("constant", unit, "uniform", modality)
    if masking is None:
        return
    content = contents(modality)
    for seed in range(10):
        units = masking.unit.units(context_of(content, seed))
        assert units.min() >= 0
        assert units.max() < units.shape[1]
        for row, segments, maskable in zip(units, content.segment, content.valid & content.observed, strict=True):
            for number in row[maskable].unique():
                members = (row == number) & maskable
                assert len(segments[members].unique()) == 1


@pytest.mark.parametrize(("ratio", "unit", "modality"), pairs(Ratio, Unit))
def test_the_share_that_is_hidden_is_the_ratio_on_average(masking_of, modalities, documents, ratio, unit, modality):
    masking = masking_of(ratio, unit, "uniform", modality, "dither")
    if masking is None:
        return
    # long rows: what a unit adds beyond the budget is small there
    rows = [documents(modality)[:5]] if modality == "text" else [[document] for document in documents(modality)]
    content = modalities[modality].collate(rows, None)
    some = context_of(contents_of(content, torch.zeros(2000, dtype=torch.int64)))
    maskable = int((content.valid & content.observed)[0].sum())
    shares = masking(some).sum(1).double() / maskable
    wanted = masking.ratio.share(some)
    error = (shares - wanted).std() / len(shares) ** 0.5
    units = masking.unit.units(some)[0]
    if masking.unit.overlapping:
        return  # overlapping spans hide less than the ratio
    if units.bincount().max() > 0.25 * maskable:
        return  # the first unit is hidden whole, whatever the budget: a few large ones can't meet it
    # a share near 0 still hides one unit, and one near 1 leaves one
    edges = 1 / len(units.unique()) ** 2 if ratio == "uniform" else 1e-9
    assert abs((shares - wanted).mean()) <= 4 * error + edges


@pytest.mark.parametrize(("unit", "importance"), UNITS_BY_IMPORTANCE)
def test_the_count_is_what_is_hidden_wherever_it_is_known(maskings, contents, full_contents, unit, importance):
    for case, modality, masking in maskings(unit, importance):
        assert masking.count(contents(modality), 0.5) is None, case  # rows differ there
        content = full_contents(modality)
        count = masking.count(content, 0.5)
        share = masking.ratio.constant(0.5)
        assert (count is None) == (share is None or masking.unit.tokens is None), case
        if count is not None:
            assert (masking(context_of(content)).sum(1) == count).all(), case
            observed = int(content.observed[0].sum())
            units = observed // masking.unit.tokens
            assert count == masking.unit.tokens * (units - int(units * (1 - share) + 1e-9)), case


@pytest.mark.parametrize("ratio", CONTRACTS[Ratio])
def test_a_ratio_is_a_share_and_constant_where_it_says_so(chosen, text, documents, ratio):
    part = chosen(Ratio, ratio).build()
    context = context_of(text.collate([[document] for document in documents("text")] * 10, None))
    siblings = Siblings("text", context.draw, {"text": context.maskable.sum(1), "other": context.maskable.sum(1) // 2})
    for progress in (0.0, 0.3, 1.0):
        share = part.share(context._replace(progress=progress, siblings=siblings))
        assert share.dtype == torch.float64
        assert ((share >= 0) & (share <= 1)).all()
        constant = part.constant(progress)
        assert (len(share.unique()) > 1) if constant is None else (share == constant).all()


# ---- corruption


@pytest.fixture
def hidden_of(masking_of):
    def make(modality, content):
        context = context_of(content)
        hidden = masking_of("constant", "token", "uniform", modality)(context)
        return hidden, context

    return make


def with_other_values(content, where):
    """Other values of the same kind at some places."""
    other = content.values.roll(1, dims=0).roll(5, dims=1)
    where = where.view(*where.shape, *(1,) * (other.dim() - 2))
    return content._replace(values=torch.where(where, other, content.values))


def shown_by(corruption, encoder, content, hidden, context):
    substitute = lambda choice: encoder.substitute(content, choice)  # noqa: E731
    return corruption(encoder(content), hidden, context._replace(content=content, substitute=substitute))


@pytest.mark.parametrize(("name", "modality"), pairs(Corruption))
def test_corruption_shows_nothing_of_what_is_hidden(
    chosen, backbone_of, modalities, contents, hidden_of, name, modality
):
    if modality in OVERLAPPING:
        return
    corruption = chosen(Corruption, name).build(WIDTH)
    encoder = backbone_of({modality: modalities[modality]}).encoders[modality]
    content = contents(modality)
    hidden, context = hidden_of(modality, content)
    shown = shown_by(corruption, encoder, content, hidden, context)
    other = with_other_values(content, hidden | ~content.valid)
    assert not torch.equal(encoder(other).x, encoder(content).x)
    again = shown_by(corruption, encoder, other, hidden, context)
    valid = shown.tokens.valid
    assert torch.equal(valid, again.tokens.valid)
    assert torch.equal(shown.places, again.places)
    assert torch.equal(shown.tokens.x[valid], again.tokens.x[valid])
    assert torch.equal(shown.tokens.position[valid], again.tokens.position[valid])


@pytest.mark.parametrize(("name", "modality"), pairs(Corruption))
def test_corruption_shows_everything_else_as_it_is_and_in_order(
    chosen, backbone_of, modalities, contents, hidden_of, name, modality
):
    corruption = chosen(Corruption, name).build(WIDTH)
    encoder = backbone_of({modality: modalities[modality]}).encoders[modality]
    content = contents(modality)
    hidden, context = hidden_of(modality, content)
    shown, tokens = shown_by(corruption, encoder, content, hidden, context), encoder(content)
    for row in range(len(hidden)):
        places = shown.places[row][shown.tokens.valid[row]]
        assert (places.diff() > 0).all()
        kept = ~hidden[row, places]
        wanted = (content.valid[row] & ~hidden[row]).nonzero().flatten()
        assert torch.equal(places[kept], wanted)
        assert corruption.drops == (not hidden[row, places].any()) or not hidden[row].any()
        for mine, theirs in zip(shown.tokens[:6], tokens[:6], strict=True):
            assert torch.equal(mine[row][shown.tokens.valid[row]][kept], theirs[row][wanted])


@pytest.mark.parametrize("modality", MODALITIES)
def test_shares_of_kept_and_random_tokens_are_met(chosen, backbone_of, modalities, full_contents, modality):
    corruption = chosen(Corruption, "replace", keep=0.2, random=0.3).build(WIDTH)
    encoder = backbone_of({modality: modalities[modality]}).encoders[modality]
    content = full_contents(modality)
    content = contents_of(content, torch.arange(400) % len(content.valid))
    hidden = content.observed
    shown = shown_by(corruption, encoder, content, hidden, context_of(content))
    total = int(hidden.sum())
    kept = (shown.tokens.x == encoder(content).x).all(2)[hidden].double().mean()
    vector = (shown.tokens.x == corruption.vector).all(2)[hidden].double().mean()
    assert abs(vector - 0.5) < 4 * (0.25 / total) ** 0.5
    # a random token is the right one now and then: one patch of 64, or a word of 300
    assert -4 * (0.16 / total) ** 0.5 < kept - 0.2 < 4 * (0.16 / total) ** 0.5 + 0.3 / 60


# ---- predictors and targets


def predictor_for(chosen, backbone, modality_name, name, size):
    part = chosen(Predictor, name)
    return built(part, backbone.encoders[modality_name], WIDTH, (size,) if part.target.by_parts else size)


@pytest.fixture
def step_of(chosen, backbone_of, modalities, hidden_of, randomised):
    """A predictor's input after a step with the corruption that it needs."""

    def make(name, modality, content):
        backbone = backbone_of({modality: modalities[modality]})
        encoder = backbone.encoders[modality]
        size = encoder.embedding.num_embeddings if name == "tied" and modality == "text" else 5
        predictor = predictor_for(chosen, backbone, modality, name, size)
        if predictor is None:
            return None
        corruption = chosen(Corruption, "drop" if predictor.mixes_tokens else "replace").build(WIDTH)
        hidden, context = hidden_of(modality, content)
        shown = shown_by(corruption, encoder, content, hidden, context)
        every, _ = backbone.mix({modality: shown}, {modality: content.valid.shape[1]}, context.draw)
        return randomised(predictor, 3).eval(), Latents(every.x, shown, every, context.draw), hidden, size

    return make


@pytest.mark.parametrize(("name", "modality"), pairs(Predictor))
def test_a_predictor_gives_one_row_of_numbers_for_each_scored_token(step_of, contents, name, modality):
    content = contents(modality)
    step = step_of(name, modality, content)
    if step is None:
        return
    predictor, latents, hidden, size = step
    prediction = predictor(latents, content, score(hidden, None))
    assert prediction.shape == (int(hidden.sum()), size)
    assert prediction.isfinite().all()


@pytest.mark.parametrize(("name", "modality"), pairs(Predictor))
def test_a_predictor_uses_no_values_of_the_content(step_of, contents, name, modality):
    content = contents(modality)
    step = step_of(name, modality, content)
    if step is None:
        return
    predictor, latents, hidden, _ = step
    scored = score(hidden, None)
    other = with_other_values(content, torch.ones_like(content.valid))
    assert torch.equal(predictor(latents, content, scored), predictor(latents, other, scored))


@pytest.mark.parametrize(("name", "modality"), pairs(Predictor))
def test_a_prediction_depends_on_the_rest_of_its_row_and_on_no_other_row(step_of, contents, name, modality):
    content = contents(modality)
    step = step_of(name, modality, content)
    if step is None:
        return
    predictor, latents, hidden, _ = step
    scored = score(hidden, None)
    rows = torch.arange(len(hidden)).unsqueeze(1).expand(scored.places.shape)[scored.valid]
    before = predictor(latents, content, scored)
    x = latents.every.x.clone()
    x[0] += 1.0
    after = predictor(latents._replace(own=x, every=latents.every._replace(x=x)), content, scored)
    assert_close(before[rows != 0], after[rows != 0], rtol=0, atol=1e-6)
    assert (before[rows == 0] - after[rows == 0]).abs().max() > 1e-4


def perfect_prediction(target, modality, values):
    """Numbers as they are; for a class, all its weight on that class."""
    if isinstance(target, CellsTarget):
        return perfect_cells(modality, values)
    if values.dtype.is_floating_point:
        return values
    classes = values.view(len(values), -1)  # one of each group
    return torch.nn.functional.one_hot(classes, target.size // classes.shape[1]).flatten(1).float() * 30


@pytest.mark.parametrize(("name", "modality"), pairs(Target))
def test_a_perfect_prediction_has_the_lowest_loss(chosen, modalities, contents, name, modality):
    target = built(chosen(Target, name), modalities[modality])
    if target is None:
        return
    content = contents(modality)
    values = target(taught_context_of(content))[content.valid & content.observed]
    perfect = perfect_prediction(target, modalities[modality], values)
    best = target.loss(perfect, values)
    assert best.dtype == torch.float32
    assert best.shape == (len(values),)
    assert (best < 1e-4).all()
    generator = torch.Generator().manual_seed(0)
    for scale in (0.1, 1.0, 30.0):
        noise = torch.randn(perfect.shape, generator=generator)
        assert (target.loss(perfect + scale * noise, values) >= best).all()
    assert (target.loss(torch.zeros_like(perfect), values) > best).any()


@pytest.mark.parametrize(("name", "modality"), pairs(Target))
def test_a_token_without_variation_has_a_finite_loss(chosen, modalities, contents, name, modality):
    target = built(chosen(Target, name), modalities[modality])
    if target is None:
        return
    content = contents(modality)
    content = content._replace(values=torch.full_like(content.values, 3))
    values = target(taught_context_of(content))[content.valid & content.observed]
    assert target.loss(torch.zeros(len(values), target.size), values).isfinite().all()


# ---- feed-forward, layouts, modalities


@pytest.mark.parametrize("name", CONTRACTS[FeedForward])
def test_padding_changes_nothing_but_itself_in_a_feedforward(chosen, randomised, name):
    part = randomised(chosen(FeedForward, name).build(WIDTH, 2))
    x, valid = torch.randn(3, 7, WIDTH), torch.arange(7) < torch.tensor([[7], [4], [0]])
    stream = (torch.arange(7) >= 3).long().expand(3, -1)
    around = Surroundings(valid, stream, None, None, torch.arange(3), ((0, 3), (1, 4)))
    other = torch.where(valid.unsqueeze(2), x, torch.randn(x.shape) * 5)
    for mode in (False, True):
        (change, routing), (again, other_routing) = part.train(mode)(x, around), part(other, around)
        assert change.shape == x.shape
        assert_close(change[valid], again[valid], rtol=0, atol=1e-6)
        assert_close(routing, other_routing, rtol=0, atol=1e-6)
        loss = change.sum() + (routing.balance + routing.router_z if routing is not None else 0.0)
        part.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in part.parameters())


@pytest.fixture(params=[1, 7, 400])
def pieces(request):
    generator = np.random.default_rng(request.param)
    tokens = generator.integers(3, 60, request.param)
    sample = np.arange(request.param)
    return Pieces(sample, np.zeros_like(sample), tokens - 2, tokens)


@pytest.mark.parametrize("name", CONTRACTS[Layout])
def test_a_layout_puts_every_piece_in_one_row_and_every_row_in_one_bin(chosen, pieces, name):
    plan = chosen(Layout, name).build().plan(pieces, 0)
    in_rows = [piece for number in range(plan.num_bins) for row in plan.rows(number) for piece in plan.pieces(row)]
    assert sorted(in_rows) == list(range(len(pieces.sample)))
    assert all(len(plan.rows(number)) > 0 for number in range(plan.num_bins))
    assert all(len(plan.pieces(row)) > 0 for number in range(plan.num_bins) for row in plan.rows(number))


@pytest.mark.parametrize("name", CONTRACTS[Layout])
def test_a_layout_is_a_function_of_lengths_and_seed(chosen, pieces, name):
    plans = [chosen(Layout, name).build().plan(pieces, 3) for _ in range(2)]
    for first, second in zip(*(plan[:3] for plan in plans), strict=True):
        assert np.array_equal(first, second)


@pytest.mark.parametrize("name", CONTRACTS[Layout])
def test_a_row_holds_no_more_than_its_size(chosen, pieces, name):
    plan = chosen(Layout, name).build().plan(pieces, 0)
    for number in range(plan.num_bins):
        for row in plan.rows(number):
            if plan.row_size is not None:
                assert pieces.tokens[plan.pieces(row)].sum() <= plan.row_size


def test_packed_rows_respect_the_length_and_are_nearly_full(chosen, pieces):
    plan = chosen(Layout, "pack", length=64).build().plan(pieces, 0)
    rows = [pieces.tokens[plan.pieces(row)].sum() for row in range(len(plan.row_starts) - 1)]
    assert max(rows) <= 64
    if len(pieces.sample) == 400:
        assert np.mean(rows) / 64 > 0.95


def test_bins_of_a_budget_respect_the_padded_tokens(chosen, pieces):
    plan = chosen(Layout, "budget", tokens=200).build().plan(pieces, 0)
    for number in range(plan.num_bins):
        rows = [pieces.tokens[plan.pieces(row)].sum() for row in plan.rows(number)]
        assert len(rows) * max(rows) <= 200


def test_a_piece_that_no_row_can_hold_is_refused_with_a_sentence(chosen, pieces):
    longest = int(pieces.tokens.max())
    if longest > 8:
        with pytest.raises(ConfigError, match=f"can't hold a document of {longest}; raise layout.length"):
            chosen(Layout, "pack", length=longest - 1).build().plan(pieces, 0)
    with pytest.raises(ConfigError, match=f"can't hold a row of {longest}; raise it to {longest} or more"):
        chosen(Layout, "budget", tokens=longest - 1).build().plan(pieces, 0)


@pytest.mark.parametrize("name", MODALITIES)
def test_pieces_cover_a_field_and_take_the_tokens_that_they_say(modalities, values, name):
    modality = modalities[name]
    as_written = read_tokenizer(modalities["text"].facts.folder / "tokenizer")  # what manifests count with
    units = {"text": lambda value: len(token_ids(as_written, value)), "image": lambda value: 1}
    units |= {kind: lambda value: len(value[0]) for kind in ("speech", "speech_mel")}
    for value in values[name]:
        length = units.get(name, len)(value)
        cut = modality.pieces(length)
        assert [start for start, _ in cut] == [0, *(stop for _, stop in cut[:-1])]
        assert cut[-1][1] == length
        for start, stop in cut:
            assert 0 < stop - start <= modality.limit
            assert len(modality.read(value, start, stop, None)) == modality.num_tokens(start, stop)
    assert modality.pieces(0) == []


@pytest.mark.parametrize("name", MODALITIES)
def test_a_modality_pickles_into_workers_and_reads_the_same_there(modalities, values, name):
    modality, value = modalities[name], values[name][0]
    other = pickle.loads(pickle.dumps(modality))
    for draw in (None, 12345):
        assert np.array_equal(modality.read(value, 0, modality.limit, draw), other.read(value, 0, modality.limit, draw))


@pytest.mark.parametrize("name", MODALITIES)
def test_content_says_truly_what_is_there(contents, full_contents, modalities, name):
    content = contents(name)
    assert not content.full
    assert content.observed_count is None
    assert not (content.observed & ~content.valid).any()
    assert not content.valid[2].any()  # the absent one
    full = full_contents(name)
    assert full.full
    assert full.valid.all()
    assert (full.observed.sum(1) == full.observed_count).all()
    assert not modalities[name].collate([[]], None).valid.any()


@pytest.mark.parametrize("name", MODALITIES)
def test_an_encoder_treats_every_row_by_itself(backbone_of, modalities, contents, name):
    encoder, content = backbone_of({name: modalities[name]}).encoders[name], contents(name)
    tokens = encoder(content)
    assert tokens.x.shape == tokens.position.shape == (*content.valid.shape, WIDTH)
    assert torch.equal(tokens.valid, content.valid)
    assert encoder.place_table(12).shape[0] > int(content.place.max())
    for row in range(len(content.valid)):
        alone = encoder(contents_of(content, slice(row, row + 1)))
        assert_close(alone.x[0], tokens.x[row], rtol=0, atol=1e-6)
        assert_close(alone.position[0], tokens.position[row], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", MODALITIES)
def test_substitutes_are_other_content_of_the_same_width(backbone_of, modalities, contents, name):
    encoder, content = backbone_of({name: modalities[name]}).encoders[name], contents(name)
    choice = torch.rand(content.valid.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for extreme in (choice, torch.full_like(choice, 1e-9), torch.full_like(choice, 1 - 1e-9)):
        assert encoder.substitute(content, extreme).shape == (*content.valid.shape, WIDTH)
    present = content.valid.any(1)
    assert (encoder.substitute(content, choice) != encoder(content).x).any(2)[present].float().mean() > 0.8
