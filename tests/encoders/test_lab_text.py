"""Laboratory rows as text."""

import numpy as np
import pytest

from mmpt import serialise_labs
from mmpt.errors import DataError
from tests.encoders.labs_material import labs_modality

ROW = {"sex": "male", "creatinine": 1.25, "sodium": 138, "urea": None, "platelets": 251000.0}


@pytest.fixture(scope="module")
def labs(tmp_path_factory):
    return labs_modality(tmp_path_factory.mktemp("labs"))


def test_item_value_and_unit_of_every_observed_cell_in_the_order_of_the_columns(labs):
    expected = "sodium 138 mmol/l; creatinine 1.25 mg/dl; sex male; platelets 251000 10^9/l"
    assert serialise_labs(labs, ROW) == expected
    assert serialise_labs(labs, labs.convert(ROW)) == expected  # as shards hold it
    assert serialise_labs(labs, {}) == ""


def test_the_template_and_the_separator_are_the_users(labs):
    said = serialise_labs(labs, ROW, template="{item}: {value} ({unit})", separator=". ")
    assert said.startswith("sodium: 138 (mmol/l). creatinine: 1.25 (mg/dl)")


def test_names_are_words(labs):
    renamed = [own | {"name": own["name"].replace("sodium", "serum_sodium")} for own in labs.facts.values["columns"]]
    other = type(labs)(type(labs.facts)(labs.facts.folder, {"columns": renamed}, labs.facts.statistics))
    assert serialise_labs(other, {"serum_sodium": 140}) == "serum sodium 140 mmol/l"


def test_only_numbers_far_from_their_mean_are_kept_where_that_is_asked_for(labs):
    mean, std = (labs.facts.statistics["columns"][0][name] for name in ("mean", "std"))
    for distance, kept in ((1.9, False), (-1.9, False), (2.1, True), (-2.1, True)):
        row = {"sodium": mean + distance * std, "rhesus": "weak"}
        said = serialise_labs(labs, row, beyond=2)
        assert said.endswith("rhesus weak")
        assert ("sodium" in said) == kept


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        ({"sodum": 1.0}, {}, "no column 'sodum'; did you mean 'sodium'"),
        (np.array([[99, 1.0]]), {}, "columns 0 to 15, got column 99"),
        (ROW, {"template": "{name} {value}"}, r"template: expected text with \{item\}, .* got '\{name\} \{value\}'"),
        (ROW, {"template": "{value"}, "template: expected text with"),
        (ROW, {"beyond": -1}, "beyond: expected 0 standard deviations or more, got -1"),
    ],
)
def test_what_can_not_be_written_is_refused_with_a_sentence(labs, row, settings, message):
    with pytest.raises(DataError, match=message):
        serialise_labs(labs, row, **settings)
