"""What a manifest says of a DICOM volume: coded values, pseudonyms, no free text and no dates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from medidiff.data.file_names import sequence_in
from medidiff.data.index import SeriesFound
from medidiff.data.privacy import SiteKey
from medidiff.data.stacking import Part

Subjects = Literal["pseudonym", "raw"]
OLDEST = 90  # a greater age can name a person: HIPAA, 45 CFR 164.514(b)(2)(i)(C)
DATES = ("acquisition time",)  # marks that would tell when a patient was there


def facts_of(series: SeriesFound, part: Part, subjects: Subjects, key: SiteKey) -> dict[str, str]:
    """The cells of a row that headers give; only coded values, numbers and pseudonyms, unless
    `subjects` is "raw"."""
    facts = series.facts
    patient = facts.get("PatientID") or f"study {series.study}"
    site = facts.get("InstitutionName", "")
    study = series.study
    if subjects == "pseudonym":
        patient = key.pseudonym(patient)
        site = key.pseudonym(f"institution {site}") if site else ""
    return {
        "subject": patient,
        "study": key.pseudonym(f"study {study}"),
        "series": facts.get("SeriesNumber", ""),
        "part": "; ".join(f"{k} {v}" for k, v in part.differs.items() if k not in DATES),
        "modality": facts.get("Modality", ""),
        "sequence": _sequence(facts, part),
        "site": site,
        "sex:category": facts.get("PatientSex", ""),
        "age:number": _age(facts.get("PatientAge", "")),
    }


def _sequence(facts: dict[str, str], part: Part) -> str:
    """The sequence's usual name, else its coded attributes: free text never gets out."""
    text = f"{facts.get('SeriesDescription', '')} {facts.get('ProtocolName', '')}"
    known = sequence_in(text)
    if known:
        return known
    marks = part.members[0].frame.marks
    words = [facts.get("MRAcquisitionType", ""), facts.get("ScanningSequence", "")]
    words += [f"TE {marks['echo time']}"] if marks.get("echo time") else []
    words += [f"TR {facts['RepetitionTime']}"] if facts.get("RepetitionTime") else []
    words += [marks.get("kernel", "")]
    return " ".join(word for word in words if word)


def _age(text: str) -> str:
    """DICOM writes an age as 063Y, 011M, 003W or 012D."""
    years = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
    if len(text) != 4 or not text[:3].isdigit() or text[3] not in years:
        return ""
    return f"{min(int(text[:3]) * years[text[3]], OLDEST):.4g}"


def sessions_of(series: Sequence[SeriesFound]) -> dict[str, str]:
    """The studies of each patient counted in the order they were made: no date gets out."""
    studies: dict[str, dict[str, tuple[str, str]]] = {}
    for one in series:
        facts = one.facts
        when = (facts.get("StudyDate", ""), facts.get("StudyTime", ""))
        patient = facts.get("PatientID") or one.study
        studies.setdefault(patient, {}).setdefault(one.study, when)
    return {
        study: str(number)
        for of_one in studies.values()
        for number, study in enumerate(sorted(of_one, key=lambda uid: (of_one[uid], uid)), start=1)
    }
