"""A speech-only backbone and transformers' HubertModel are the same function; the stem is torchaudio's too."""

import pytest
import torch
from torch.testing import assert_close
from torchaudio.models import wav2vec2_model

from mmpt.encoders.speech import STEM, Speech
from mmpt.errors import ConfigError
from mmpt.export.hubert import to_hubert
from mmpt.export.one_stream import one_stream
from mmpt.tokens import drop, replace
from tests.encoders.speech_material import recording, small_speech, speech_facts

SHAPE = {"width": 24, "depth": 3, "heads": 3, "norm_eps": 1e-5}
WHOLE = 400 + 320 * 5
LENGTHS = (WHOLE, 400, 400 + 320 * 2)


def true_stem(folder, **settings):
    """The seven layers of the original, of 16 kHz."""
    settings = {"channels": 16, "kernel": 16, "groups": 4, "max_seconds": 1.0, **settings}
    return Speech(speech_facts(folder, 16000), **settings)


@pytest.fixture(params=["true", "small"])
def speech(request, tmp_path):
    return true_stem(tmp_path) if request.param == "true" else small_speech(tmp_path, conv_bias=True)


def speech_backbone(backbone_of, speech, **shape):
    return backbone_of({"speech": speech}, **{**SHAPE, **shape})


def lengths_of(speech):
    return [speech.window + speech.hop * frames for frames in (8, 0, 3)]


def collated(speech, lengths):
    """Content, and the waveforms that transformers gets: padded with zeros, and which samples are real."""
    values = [recording(number, length, speech.rate) for number, length in enumerate(lengths)]
    content = speech.collate([[speech.read(value, 0, len(value[0]), None)] for value in values], None)
    waves = torch.zeros(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        windows = content.values[row, : speech.num_tokens(0, length)]
        waves[row, :length] = torch.cat([windows[:, : speech.hop].flatten(), windows[-1, speech.hop :]])
    return content, waves, torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)


def test_transformers_gives_the_same_latents_with_our_weights_in_padded_batches(speech, backbone_of, batch_of):
    backbone = speech_backbone(backbone_of, speech)
    content, waves, real = collated(speech, lengths_of(speech))
    assert not content.valid.all()
    theirs = to_hubert(backbone, speech)(waves, attention_mask=real.long()).last_hidden_state
    ours = backbone(batch_of(speech=content))["speech"].x
    assert_close(ours[content.valid], theirs[content.valid], rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_transformers_gives_the_same_latents_where_nothing_is_padded(tmp_path, backbone_of, batch_of, norm):
    speech = true_stem(tmp_path, norm=norm)
    backbone = speech_backbone(backbone_of, speech)
    content, waves, _ = collated(speech, [WHOLE] * 3)
    theirs = to_hubert(backbone, speech)(waves).last_hidden_state
    assert_close(backbone(batch_of(speech=content))["speech"].x, theirs, rtol=0, atol=1e-5)


def test_hidden_frames_take_part_in_the_positions_as_in_transformers(tmp_path, backbone_of, batch_of):
    speech = true_stem(tmp_path)
    backbone = speech_backbone(backbone_of, speech)
    peer = to_hubert(backbone, speech)
    content, waves, real = collated(speech, LENGTHS)
    hidden = content.valid & (content.place % 3 == 1)
    vector = torch.linspace(-1, 1, SHAPE["width"])
    peer.config.mask_time_prob, peer.config.apply_spec_augment = 0.05, True
    peer.masked_spec_embed = torch.nn.Parameter(vector)
    with torch.no_grad():
        theirs = peer(waves, attention_mask=real.long(), mask_time_indices=hidden).last_hidden_state
        tokens = backbone.embed(batch_of(speech=content))["speech"]
        shown = replace(tokens, torch.where(hidden.unsqueeze(2), vector, tokens.x))
        ours, _ = backbone.mix({"speech": shown}, {"speech": hidden.shape[1]}, torch.arange(len(hidden)))
    assert_close(ours.x[content.valid], theirs[content.valid], rtol=0, atol=1e-5)


def test_dropped_frames_are_silence_to_the_positions(tmp_path, backbone_of, batch_of):
    speech = true_stem(tmp_path)
    backbone = speech_backbone(backbone_of, speech)
    content, _, _ = collated(speech, LENGTHS)
    hidden = content.valid & (content.place % 3 == 1)
    tokens = backbone.embed(batch_of(speech=content))["speech"]
    encoder, size = backbone.encoder("speech"), hidden.shape[1]
    shown = encoder.settle(drop(tokens, hidden, None), size).tokens
    silent = encoder.settle(replace(tokens, torch.where(hidden.unsqueeze(2), 0.0, tokens.x)), size).tokens
    assert_close(shown.position[shown.valid], silent.position[content.valid & ~hidden], rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("length", [400, 719, 720, 1999, 3000])
def test_the_stem_is_torchaudios(tmp_path, randomised, norm, length):
    if norm == "group" and (length - 400) % 320:
        length = 400 + 320 * ((length - 400) // 320)  # a rest takes part in torchaudio's statistics
    speech = true_stem(tmp_path, norm=norm, normalize_wave=False)
    encoder = randomised(speech.encoder(24)).eval()
    mode = {"layer": "layer_norm", "group": "group_norm"}[norm]
    layers = [(16, kernel, stride) for kernel, stride in STEM]
    peer = wav2vec2_model(mode, layers, False, 24, 0.0, 16, 4, 1, 3, 0.0, 48, 0.0, 0.0, norm == "layer", 0.0, None)
    weights = {}
    for number, (layer, (kernel, _)) in enumerate(zip(encoder.stem.layers, STEM, strict=True)):
        name = f"feature_extractor.conv_layers.{number}"
        weights[f"{name}.conv.weight"] = layer.weight.unflatten(0, (kernel, -1)).permute(2, 1, 0)
        if layer.norm is not None:
            weights |= {f"{name}.layer_norm.{kind}": getattr(layer.norm, kind) for kind in ("weight", "bias")}
    assert not peer.load_state_dict(weights, strict=False).unexpected_keys
    value = recording(0, length, 16000)
    theirs, _ = peer.eval().feature_extractor(torch.from_numpy(value[0]).unsqueeze(0), None)
    windows = torch.from_numpy(speech.read(value, 0, length, None))
    assert_close(encoder.stem(windows.unsqueeze(0), None), theirs, rtol=0, atol=1e-5)


def test_what_hubert_does_not_have_is_refused_with_a_sentence(tmp_path, backbone_of):
    speech = true_stem(tmp_path)
    both = backbone_of({"speech": speech, "other": speech}, **SHAPE)
    alone = one_stream(both, {"speech": speech}, "speech")
    with pytest.raises(ConfigError, match="no embedding of the modality"):
        to_hubert(alone, speech)
    with pytest.raises(ConfigError, match=r"trunk\.norm_eps=1e-05"):
        to_hubert(speech_backbone(backbone_of, speech, norm_eps=1e-6), speech)
    with pytest.raises(ConfigError, match=r"trunk\.norm_entry=false"):
        to_hubert(speech_backbone(backbone_of, speech, norm_entry=True), speech)
    with pytest.raises(ConfigError, match=r"HuBERT Base .* trunk\.norm_entry=true"):
        to_hubert(speech_backbone(backbone_of, speech, norm="post"), speech)
    rotary = true_stem(tmp_path, positions="rotary")
    with pytest.raises(ConfigError, match="positions=convolutional"):
        to_hubert(backbone_of({"speech": rotary}, **{**SHAPE, "heads": 2}), rotary)
