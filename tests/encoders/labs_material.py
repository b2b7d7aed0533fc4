"""A small laboratory table: numbers and categories, with all that makes rows hard."""

from pathlib import Path

import numpy as np
import torch

from mmpt.encoders import Facts, Modality
from mmpt.encoders.labs import Labs

NUMERIC = {
    "sodium": ("mmol/l", 138.0, 4.0),
    "potassium": ("mmol/l", 4.2, 0.5),
    "creatinine": ("mg/dl", 1.1, 0.6),
    "glucose": ("mg/dl", 110.0, 35.0),
    "haemoglobin": ("g/dl", 13.5, 1.8),
    "leucocytes": ("10^9/l", 7.5, 2.5),
    "platelets": ("10^9/l", 250.0, 70.0),
    "albumin": ("g/dl", 4.0, 0.5),
    "bilirubin": ("mg/dl", 0.8, 0.5),
    "urea": ("mg/dl", 15.0, 6.0),
    "lactate": ("mmol/l", 1.4, 0.8),
    "calcium": ("mg/dl", 9.4, 0.5),
    "phosphate": ("mg/dl", 3.5, 0.7),
    "magnesium": ("mg/dl", 2.0, 0.25),
}
CATEGORICAL = {"sex": ("female", "male"), "rhesus": ("negative", "positive", "weak")}


def labs_facts(folder, edges=17) -> Facts:
    """Facts and statistics as `mmpt build labs` writes them; a categorical column stands in the middle and one last."""
    columns, statistics = [], []
    generator = np.random.default_rng(0)
    for name, (unit, mean, std) in NUMERIC.items():
        drawn = np.sort(generator.normal(mean, std, 400))
        low, high = np.quantile(drawn, [0.001, 0.999])
        drawn = drawn.clip(low, high)
        columns.append({"name": name, "unit": unit, "kind": "numeric"})
        quantiles = np.quantile(drawn, np.linspace(0, 1, edges)).tolist()
        measured = {"count": 400, "mean": float(drawn.mean()), "std": float(drawn.std())}
        statistics.append(measured | {"low": float(low), "high": float(high), "quantiles": quantiles})
    for place, (name, categories) in zip((5, len(columns) + 1), CATEGORICAL.items(), strict=True):
        columns.insert(place, {"name": name, "unit": None, "kind": "categorical", "categories": list(categories)})
        counts = list(range(100, 100 + len(categories)))
        statistics.insert(place, {"count": sum(counts), "counts": counts})
    return Facts(folder, {"columns": columns}, {"columns": statistics})


def labs_modality(folder) -> Modality:
    """16 columns."""
    return Labs(labs_facts(folder))


def labs_values(count=8) -> list[np.ndarray]:
    """Rows as the decoder gives them, from 11 to all 16 cells."""
    return [labs_row(number, missing=number % 6) for number in range(count)]


def labs_row(number, missing=0) -> np.ndarray:
    """Observed cells as (column number, value), sorted."""
    generator = np.random.default_rng([7, number])
    columns = labs_facts(Path()).values["columns"]
    values = []
    for column in columns:
        if column["kind"] == "numeric":
            _, mean, std = NUMERIC[column["name"]]
            values.append(generator.normal(mean, std))
        else:
            values.append(generator.integers(len(column["categories"])))
    observed = np.sort(generator.permutation(len(columns))[: len(columns) - missing])
    return np.stack([observed.astype(np.float64), np.array(values)[observed]], axis=1)


def perfect_cells(modality: Labs, values):
    """The prediction of target `cells` that is right: the number, or all weight on the category."""
    categories = sum(len(column.categories) for column in modality.columns)
    numeric = torch.tensor([not column.categories for column in modality.columns])[values[:, 1].long()]
    number = torch.where(numeric, values[:, 0], 0.0)
    weight = torch.nn.functional.one_hot(torch.where(numeric, 0, values[:, 0]).long(), categories).float() * 30
    return torch.cat([number.unsqueeze(1), torch.where(numeric.unsqueeze(1), 0.0, weight)], dim=1)
