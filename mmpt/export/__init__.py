"""Pretrained backbones as models of other libraries, and back: one-to-one maps of weights that tests hold to 1e-5.

The maps are pure functions on state dicts; `to_...` also builds the peer's model. What has no counterpart is refused.
"""
