"""The recipe of the runs that reports are tested on: passages alone, and pictures with captions."""

RECIPE = """
streams:
  text: {type: text, max_length: 64}
  image: {type: image, size: 16, patch: 4, crop_scale: [0.5, 1.0], flip: true}
trunk: {type: transformer, width: 16, depth: 2, heads: 2, drop_path: 0.1}
objective:
  type: masked_prediction
  streams:
    text: {masking: {ratio: 0.3, unit: word}, corruption: replace, predictor: tied, target: token_ids}
    image:
      masking: {ratio: 0.75}
      corruption: drop
      predictor: {type: decoder, width: 16, depth: 1, heads: 2}
      target: {type: pixels, normalize: true}
data:
  sources:
    prose: {shards: SHARDS/text, streams: [text], layout: {type: pack, length: 128}}
    captioned: {shards: SHARDS/images, streams: [image, text]}
  batch_size: 4
training: {steps: 8, log_every: 1, optimizer: {learning_rate: 1e-3}}
"""
