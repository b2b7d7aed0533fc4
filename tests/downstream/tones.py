"""Recordings whose letters can be heard: a pitch a letter; transcripts, and a class every hundredth of a second."""

import numpy as np

from mmpt.data.schema import declare

RATE, LETTER = 8000, 0.1  # Hz, seconds
FIELDS = {"speech": declare("speech", "flac", sample_rate=RATE), "phones": declare("phones", "phones.npy", rate="100")}
FIELDS |= {"labels": declare("labels", "json")}
PITCH = {"a": 300.0, "b": 700.0, "c": 1300.0, " ": 2400.0}

RECIPE = """
streams:
  speech: {type: speech_mel, mels: 20, kernel: 2, stride: 2, max_seconds: 1.2}
trunk: {type: transformer, width: 16, depth: 1, heads: 2}
objective:
  type: masked_prediction
  streams:
    speech:
      masking: {ratio: 0.5}
      corruption: drop
      predictor: {type: decoder, width: 16, depth: 1, heads: 2}
      target: log_mel
data:
  sources:
    tones: {shards: SHARDS, streams: [speech]}
  batch_size: 4
  workers: 0
training:
  steps: 2
  optimizer: {learning_rate: 1e-3}
"""


def tone(number: int) -> dict:
    """Two short words."""
    generator = np.random.default_rng([7, number])
    words = ["".join(generator.choice(["a", "b", "c"], size=generator.integers(2, 5))) for _ in range(2)]
    text = " ".join(words)
    time = np.arange(round(LETTER * RATE)) / RATE
    fade = np.minimum(1, 20 * np.minimum(np.arange(len(time)), np.arange(len(time))[::-1]) / len(time))
    wave = np.concatenate([0.3 * fade * np.sin(2 * np.pi * PITCH[letter] * time) for letter in text])
    wave = (wave + generator.normal(0, 0.003, len(wave))).astype(np.float32)
    letters = np.repeat(["abc ".index(letter) for letter in text], round(100 * LETTER))
    return {
        "speech": (wave, RATE),
        "phones": np.where(letters == 3, -1, letters),
        "labels": {"text": text.upper() + ".", "voice": "one"},
        "__group__": f"{number}",
        "__split__": ("train", "train", "train", "validation", "test")[number % 5],
    }
