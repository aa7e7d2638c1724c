"""Whose an object is: the patient and study of its source, or made ones."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom import Dataset

from medidiff.data.dicom_out_modules import LONG, Making, clipped, description, put
from medidiff.data.dicom_out_uids import uid_of

PATIENT = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence"),
    *("TypeOfPatientID", "PatientBirthDate", "PatientBirthTime", "PatientSex"),
    *("OtherPatientIDsSequence", "OtherPatientNames", "EthnicGroup", "PatientComments"),
    *("QualityControlSubject", "PatientSpeciesDescription", "PatientSpeciesCodeSequence"),
    *("PatientBreedDescription", "PatientBreedCodeSequence", "BreedRegistrationSequence"),
    *("ResponsiblePerson", "ResponsiblePersonRole", "ResponsibleOrganization"),
    *("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
)


STUDY = (
    *("StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID"),
    *("AccessionNumber", "IssuerOfAccessionNumberSequence", "StudyDescription"),
    *("PhysiciansOfRecord", "ReferencedStudySequence", "ProcedureCodeSequence"),
    *("AdmittingDiagnosesDescription", "PatientAge", "PatientSize", "PatientWeight"),
    *("PregnancyStatus", "PatientSexNeutered", "AdditionalPatientHistory"),
    *("ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName"),
    *("ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialSubjectID"),
    *("ClinicalTrialSubjectReadingID", "ClinicalTrialTimePointID"),
    *("TimezoneOffsetFromUTC", "LongitudinalTemporalInformationModified"),
)


NEEDED = (  # type 2: present, if empty, in every object
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
)


@dataclass(frozen=True)
class Patient:
    """Whose an object is that was not made from a DICOM series."""

    id: str = ""
    """Empty: a synthetic one, made from the object's content."""
    name: str = ""
    birth_date: str = ""
    sex: str = ""


def inherited(source: Dataset) -> Dataset:
    """The patient and study of a source: the one place where names pass from what was read to
    what is written."""
    found = Dataset()
    put(found, dict.fromkeys(NEEDED, ""))
    for keyword in (*PATIENT, *STUDY):
        if keyword in source and source[keyword].value not in (None, ""):
            setattr(found, keyword, source[keyword].value)
    return found


def generated(patient: Patient, made: Making, content: bytes) -> Dataset:
    """A patient and study of their own, for what comes from no DICOM series."""
    found = Dataset()
    name = uid_of("patient", made.text, content).split(".")[-1][-12:]
    found.PatientID = patient.id or f"{made.kind}-{name}"
    found.PatientName = patient.name or ("" if patient.id else f"{made.kind}^{name}")
    found.PatientBirthDate, found.PatientSex = patient.birth_date, patient.sex
    found.StudyInstanceUID = uid_of("study", found.PatientID, made.text, made.when.isoformat(),
                                    content)  # fmt: skip
    found.StudyDate, found.StudyTime = made.date, made.time
    found.ReferringPhysicianName = found.StudyID = found.AccessionNumber = ""
    found.StudyDescription = clipped(description(made, ""), LONG)
    return found
