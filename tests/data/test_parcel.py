"""A micro-batch that a worker packed is the same when it is opened."""

import numpy as np
import torch

from mmpt.data.parcel import ALIGNMENT, Place, packed, unpacked
from mmpt.tokens import Batch, Content


def batch() -> Batch:
    valid = torch.ones(2, 3, dtype=torch.bool)
    place = torch.arange(3).expand(2, 3)  # strided
    content = Content(torch.randn(2, 3, 5), valid, ~valid, torch.zeros(2, 3, dtype=torch.int16), place, full=True)
    empty = content._replace(values=torch.empty(2, 0, 5), observed_count=0)
    return Batch({"speech": content, "text": empty}, torch.arange(2), torch.tensor(7), "glosses", 4)


def test_every_tensor_comes_back_and_everything_else_as_it_was():
    before = batch()
    after = unpacked(packed(before))
    assert after._replace(streams={}, uid=0, draw=0) == before._replace(streams={}, uid=0, draw=0)
    pairs = [(before.uid, after.uid), (before.draw, after.draw)]
    for name, content in before.streams.items():
        assert after.streams[name][5:] == content[5:]
        pairs += zip(content[:5], after.streams[name][:5], strict=True)
    for one, other in pairs:
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
        assert other.is_contiguous()


def test_all_tensors_lie_in_one_piece_of_memory_where_any_type_may_begin():
    parcel = packed(batch())
    opened = unpacked(parcel)
    tensors = [opened.uid, opened.draw, *(tensor for content in opened.streams.values() for tensor in content[:5])]
    assert {tensor.untyped_storage().data_ptr() for tensor in tensors} == {parcel.contents.data_ptr()}
    assert not any(tensor.storage_offset() * tensor.element_size() % ALIGNMENT for tensor in tensors)
    places = [parcel.value.uid, *(content.values for content in parcel.value.streams.values())]
    assert all(isinstance(place, Place) for place in places)
    held = sum(tensor.nbytes for tensor in tensors)
    assert parcel.contents.nbytes < held + len(tensors) * ALIGNMENT
    assert parcel.value.streams["text"].values.shape == (2, 0, 5)


def test_arrays_and_lists_of_a_value_travel_too():
    value = {"array": np.arange(3), "list": [torch.ones(2), "text", None]}
    opened = unpacked(packed(value))
    assert np.array_equal(opened["array"], value["array"])
    assert opened["list"][1:] == ["text", None]
    assert torch.equal(opened["list"][0], torch.ones(2))
