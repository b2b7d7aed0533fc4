"""HuBERT (Hsu et al. 2021) as transformers has it, base and large: the encoder of wav2vec 2.0."""

from mmpt.foreign.wav2vec2 import WAVE_ONLY, Wav2Vec2


class Hubert(Wav2Vec2):
    """`HubertModel` and all models around it."""

    kind = "HuBERT"
    only = WAVE_ONLY | {"feat_proj_layer_norm": True, "conv_pos_batch_norm": False}
    inside = ("hubert.",)
