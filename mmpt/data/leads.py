"""ECG leads by name and units of voltage: how sources spell them, and the one spelling and order that mmpt has."""

import difflib
import re
from collections.abc import Iterable, Sequence

from mmpt.errors import DataError

STANDARD = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
UNITS = {"V": 1e3, "mV": 1.0, "uV": 1e-3, "nV": 1e-6}  # millivolts
MICRO = str.maketrans({"\u00b5": "u", "\u03bc": "u"})  # the micro sign and the Greek letter
BEFORE = re.compile(r"^(?:ecg|ekg|lead)[\s_.:-]*", re.IGNORECASE)
# modified limb and chest leads of ambulatory recorders, and the derivations D of Romance countries
ALIASES = {
    **{f"{before}{number}": lead for before in ("ml", "d") for number, lead in zip("123", STANDARD, strict=False)},
    **{f"{before}{lead.lower()}": lead for before in ("ml", "d") for lead in STANDARD[:3]},
    **{f"mcl{number}": f"V{number}" for number in range(1, 7)},
}
SPELLINGS = {lead.lower(): lead for lead in STANDARD} | ALIASES


def lead_name(raw: str, own: Sequence[str] = ()) -> str:
    """The one spelling of a lead: a standard name, or one of the user's own; raises DataError for an unknown one."""
    plain = _plain(raw)
    spellings = {_plain(name): name for name in own} | SPELLINGS
    if plain in spellings:
        return spellings[plain]
    raise DataError(
        f"unknown lead '{raw}', the nearest is '{nearest_lead(raw, own)}'; rename it, or name it among leads to keep it"
    )


def nearest_lead(raw: str, own: Iterable[str] = ()) -> str:
    """The lead whose spelling is most like it."""
    spellings = {lead.lower(): lead for lead in (*own, *STANDARD)}
    return spellings[difflib.get_close_matches(_plain(raw), spellings, n=1, cutoff=0.0)[0]]


def own_names(names: Iterable[str]) -> tuple[str, ...]:
    """The user's leads, the standard ones in their one spelling; raises DataError where two are the same."""
    found = [SPELLINGS.get(_plain(name), name.strip()) for name in names]
    for name in found:
        if not name or found.count(name) > 1:
            raise DataError(f"leads: expected different names, got '{name}' {found.count(name)} times")
    return tuple(found)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """The standard leads as cardiologists order them, then the others by name."""
    return tuple(sorted(set(names), key=lambda name: (_rank(name), name)))


def millivolts(unit: str) -> float:
    """What one unit is; raises DataError for one that is no voltage."""
    for name, factor in UNITS.items():
        if unit.strip().translate(MICRO).lower() == name.lower():
            return factor
    raise DataError(f"unit '{unit}' is no voltage, expected one of {', '.join(UNITS)}")


def _plain(name: str) -> str:
    stripped = BEFORE.sub("", name.strip()) or name.strip()
    return re.sub(r"[\s_]+", "", stripped).lower()


def _rank(name: str) -> int:
    return STANDARD.index(name) if name in STANDARD else len(STANDARD)
