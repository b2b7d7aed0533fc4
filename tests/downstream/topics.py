"""A language whose topics only context tells, and labels that need more than what an encoder of it knows already.

Each of 4 topics gives every symbol two successors, a likely one and another, by permutations: symbols are equally
frequent in all topics. A document is of one topic. Its label says whether the topic is one of the first two and its
first symbol one of the first half, or neither: the exclusive or of two facts, which no linear head finds in a mean.
"""

from pathlib import Path

import numpy as np

from mmpt.data.tokenizer import train_tokenizer
from mmpt.data.writer import ShardWriter

SYMBOLS, TOPICS, LENGTH, LIKELY = "abcdefgh", 4, 14, 0.75
GENERATOR = np.random.default_rng(7)
NEXT = [[GENERATOR.permutation(len(SYMBOLS)) for _ in range(2)] for _ in range(TOPICS)]

RECIPE = """
streams:
  text: {type: text, max_length: 16}
trunk: {type: transformer, width: 32, depth: 3, heads: 4}
objective:
  type: masked_prediction
  streams:
    text: {masking: {ratio: 0.2}, corruption: replace, predictor: tied, target: token_ids}
data:
  sources:
    documents: {shards: SHARDS, streams: [text]}
  batch_size: 32
  workers: 0
training:
  steps: 600
  log_every: 100
  optimizer: {rule: muon, learning_rate: 5e-3, warmup_steps: 20}
"""


def document(number: int) -> dict:
    """Text and label."""
    generator = np.random.default_rng([5, number])
    topic, place = int(generator.integers(TOPICS)), int(generator.integers(len(SYMBOLS)))
    places = [place]
    for other in generator.random(LENGTH - 1) > LIKELY:
        places.append(int(NEXT[topic][int(other)][places[-1]]))
    odd = (topic < TOPICS // 2) != (place < len(SYMBOLS) // 2)
    return {"text": " ".join(SYMBOLS[own] for own in places), "label": "odd" if odd else "even"}


def write(folder: Path, count: int) -> Path:
    """Documents without their labels."""
    texts = [document(number)["text"] for number in range(count)]
    train_tokenizer([*texts[:200], " ".join(SYMBOLS)], folder / "tokenizer", vocabulary=300, algorithm="wordpiece")
    with ShardWriter(folder / "shards", {"text": "txt"}, tokenizer=folder / "tokenizer") as writer:
        for text in texts:
            writer.write({"text": text, "__split__": "train"})
    return folder / "shards"
