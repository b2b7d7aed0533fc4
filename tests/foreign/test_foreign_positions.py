"""Tables of positions for another size."""

import pytest
import torch
from torch.testing import assert_close

from mmpt.errors import ConfigError
from mmpt.foreign.donor import WeightsWarning
from mmpt.foreign.positions import lengthened, resized_grid
from tests.foreign.models import loaded, made


@pytest.mark.parametrize("side", [6, 3])
def test_a_grid_is_resized_as_timm_does_it(side):
    from timm.layers.pos_embed import resample_abs_pos_embed

    table = torch.randn(1 + 16, 8, generator=torch.Generator().manual_seed(0))
    theirs = resample_abs_pos_embed(table.unsqueeze(0), [side, side])[0]
    assert_close(resized_grid(table, side), theirs, rtol=0, atol=1e-6)
    assert torch.equal(resized_grid(table, side)[0], table[0])


def test_a_longer_text_has_rows_between_the_old_ones():
    table = torch.tensor([[0.0, 10.0], [2.0, 20.0], [4.0, 0.0]])
    wanted = torch.tensor([[0.0, 10.0], [1.0, 15.0], [2.0, 20.0], [3.0, 10.0], [4.0, 0.0]])
    assert_close(lengthened(table, 5), wanted)


def test_a_model_is_loaded_at_another_size_with_a_notice(tmp_path, tokenizers):
    made("vit", tmp_path / "vit")
    with pytest.warns(WeightsWarning, match="4 x 4 positions of .*vit were interpolated to 6 x 6"):
        encoder = loaded(tmp_path / "vit", settings={"size": 24})
    assert encoder.modalities["image"].num_patches == 36
    assert encoder.backbone.encoders["image"].position.shape == (37, 24)
    with pytest.raises(ConfigError, match="expected size of this ViT, got patch"):
        loaded(tmp_path / "vit", settings={"patch": 8})
    made("roberta", tmp_path / "text", tokenizers("roberta"))
    whole = loaded(tmp_path / "text").backbone.encoders["text"].place_embedding.weight
    with pytest.warns(WeightsWarning, match="the first 20 of 38 positions of .*text were taken"):
        short = loaded(tmp_path / "text", settings={"max_length": 20})
    assert torch.equal(short.backbone.encoders["text"].place_embedding.weight, whole[:20])
