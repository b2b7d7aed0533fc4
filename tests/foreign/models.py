"""Small models of transformers and timm with random weights, saved as their own libraries save them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import mmpt
from mmpt.trunk.positions import sincos_2d

TRUNK = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
TEXT = {**TRUNK, "max_position_embeddings": 40, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
IMAGE = {**TRUNK, "image_size": 16, "patch_size": 4}
DECODER = {
    **{"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1},
    **{"decoder_num_attention_heads": 2, "decoder_intermediate_size": 16},
}
WAVE = {
    **TRUNK,
    **{"conv_dim": (8, 8, 8), "conv_kernel": (10, 3, 2), "conv_stride": (5, 2, 2), "num_feat_extract_layers": 3},
    **{"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
}
LARGE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
QUANTISER = {"codevector_dim": 8, "proj_codevector_dim": 8, "num_codevectors_per_group": 4}
MODELS = {  # class, settings, and what stands before the encoder in it
    "bert": ("BertModel", TEXT, ""),
    "bert with a head": ("BertForMaskedLM", TEXT, "bert"),
    "roberta": ("RobertaModel", TEXT, ""),
    "roberta with a head": ("RobertaForMaskedLM", TEXT, "roberta"),
    "roberta-prelayernorm": ("RobertaPreLayerNormModel", TEXT, ""),
    "vit": ("ViTModel", IMAGE, ""),
    "vit that classifies": ("ViTForImageClassification", IMAGE, "vit"),
    "vit_mae": ("ViTMAEForPreTraining", {**IMAGE, **DECODER}, "vit"),
    "hubert base": ("HubertModel", WAVE, ""),
    "hubert large": ("HubertModel", {**WAVE, **LARGE}, ""),
    "wav2vec2 base": ("Wav2Vec2ForPreTraining", {**WAVE, **QUANTISER}, "wav2vec2"),
    "wav2vec2 large": ("Wav2Vec2Model", {**WAVE, **LARGE}, ""),
}


def loaded(*given: Any, **settings: Any) -> Any:
    """`mmpt.load` on the CPU; tests look deep into what it gives."""
    return mmpt.load(*given, **{"device": "cpu", **settings})


def shaken(model, seed=0):
    """Every parameter drawn anew, so that no norm and no bias is what it begins as."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.15
            is_scale = "norm" in name.lower() and name.endswith("weight")
            parameter.copy_(noise + 1 if is_scale else noise)
    return model.eval()


def made(name, folder: Path, tokenizer: Path | None = None, **changes):
    """The model, saved in the folder with all that a user would have beside it; and its encoder."""
    import transformers

    kind, settings, inside = MODELS[name]
    config = getattr(transformers, kind).config_class(**{**settings, **changes, **_of_tokenizer(name, tokenizer)})
    model = shaken(getattr(transformers, kind)(config))
    if name == "vit_mae":  # published weights have the fixed table there
        with torch.no_grad():
            model.vit.embeddings.position_embeddings[0, 0] = 0
            model.vit.embeddings.position_embeddings[0, 1:] = sincos_2d(4, 4, 24)
    model.save_pretrained(folder)
    beside(name, folder, tokenizer)
    return getattr(model, inside) if inside else model


def _of_tokenizer(name, tokenizer):
    if tokenizer is None or "bert" not in name or "hubert" in name:
        return {}
    from mmpt.data.tokenizer import tokenizer_facts

    facts = tokenizer_facts(tokenizer)
    return {"vocab_size": facts["vocabulary"], "pad_token_id": facts["pad"]}


def beside(name, folder: Path, tokenizer: Path | None):
    """Tokenizer, image processor or feature extractor."""
    import transformers

    if "vit" in name:
        transformers.ViTImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3]).save_pretrained(folder)
    elif "hubert" in name or "wav2vec2" in name:
        transformers.Wav2Vec2FeatureExtractor(do_normalize="large" in name).save_pretrained(folder)
    elif tokenizer is not None:
        transformers.AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


def rewritten(folder: Path, change, config=None):
    """The folder's weights and config.json, changed by hand."""
    weights = load_file(folder / "model.safetensors")
    weights = change(weights)
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")
    if config:
        plain = json.loads((folder / "config.json").read_text(encoding="utf-8")) | config
        (folder / "config.json").write_text(json.dumps(plain), encoding="utf-8")
    return folder
