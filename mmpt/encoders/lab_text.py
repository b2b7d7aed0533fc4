"""A laboratory row as text, for whatever reads words: item, value, unit (MEDFuse, Phan et al. 2024)."""

from typing import Any

from mmpt.encoders.cell_values import Column
from mmpt.encoders.labs import Labs
from mmpt.errors import DataError

TEMPLATE = "{item} {value} {unit}"


def serialise_labs(
    labs: Labs, row: Any, *, template: str = TEMPLATE, separator: str = "; ", beyond: float | int | None = None
) -> str:
    """One piece of text for each observed cell, in the order of the columns; what is missing is not named.

    Underscores of an item's name become spaces, numbers have six digits at most, and a column without unit leaves none.

    Args:
        labs: the modality, for example `encoder.modalities["labs"]`.
        row: a dict or pandas Series of values by column name, or an array of (column number, value) rows (N, 2), as the
            shards hold them.
        template: of a cell, with {item}, {value} and {unit}.
        separator: between cells.
        beyond: keep only numbers that are further from their column's mean than so many standard deviations of the
            training split, and all categories. The paper serialises abnormal values alone; where the data set has no
            reference ranges, this is our stand-in. None keeps all.

    Returns:
        `sodium 138 mEq/L; creatinine 1.1 mg/dL; sex female`; an empty text where no cell is kept.

    Raises:
        DataError: a row that is none of this table, or a template with other names.
    """
    try:
        template.format(item="", value="", unit="")
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise DataError(f"template: expected text with {{item}}, {{value}} and {{unit}}, got {template!r}") from error
    if beyond is not None and not beyond >= 0:
        raise DataError(f"beyond: expected 0 standard deviations or more, got {beyond}")
    cells = ((labs.columns[int(number)], float(value)) for number, value in labs.convert(row))
    return separator.join(_told(column, value, template) for column, value in cells if _kept(column, value, beyond))


def _told(column: Column, value: float, template: str) -> str:
    told = column.categories[int(value)] if column.categories else f"{value:.6g}"
    filled = template.format(item=column.name.replace("_", " "), value=told, unit=column.unit or "")
    return " ".join(filled.split())  # no gap where the unit would be


def _kept(column: Column, value: float, beyond: float | int | None) -> bool:
    return beyond is None or bool(column.categories) or abs(value - column.mean) > beyond * column.std
