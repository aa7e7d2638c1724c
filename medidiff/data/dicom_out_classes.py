"""Which storage class an image is written as, and what that class asks for besides pixels.

CT, MR and PET stay what their source was: viewers then measure, reformat and window them as they
do the source. All else becomes a Secondary Capture image, which promises least.
"""

from __future__ import annotations

from typing import Any

from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
)

from medidiff.data.dicom_out_source import SourceFrame, SourceSeries
from medidiff.errors import DataError

PLACED = {"CT": CTImageStorage, "MR": MRImageStorage, "PT": PositronEmissionTomographyImageStorage}
"""Modalities whose classes say where an image lies in the patient."""

SERIES = ("Laterality", "BodyPartExamined", "PatientPosition", "ProtocolName",
          "PerformedProcedureStepID", "PerformedProcedureStepStartDate",
          "PerformedProcedureStepStartTime")  # fmt: skip
IMAGE = ("AcquisitionNumber", "AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime",
         "ImageLaterality", "AnatomicRegionSequence", "BurnedInAnnotation",
         "RecognizableVisualFeatures", "ContrastBolusAgent", "ContrastBolusRoute")  # fmt: skip
CT = ("KVP", "DataCollectionDiameter", "ReconstructionDiameter", "DistanceSourceToDetector",
      "DistanceSourceToPatient", "GantryDetectorTilt", "TableHeight", "RotationDirection",
      "ExposureTime", "XRayTubeCurrent", "Exposure", "FilterType", "ConvolutionKernel",
      "ScanOptions")  # fmt: skip
MR = ("ScanningSequence", "SequenceVariant", "ScanOptions", "MRAcquisitionType", "SequenceName",
      "RepetitionTime", "EchoTime", "InversionTime", "NumberOfAverages", "ImagingFrequency",
      "ImagedNucleus", "EchoNumbers", "MagneticFieldStrength", "EchoTrainLength",
      "PercentSampling", "PercentPhaseFieldOfView", "PixelBandwidth", "ReceiveCoilName",
      "FlipAngle", "InPlanePhaseEncodingDirection")  # fmt: skip
PT_SERIES = ("Units", "SUVType", "CountsSource", "SeriesType", "ReprojectionMethod",
             "NumberOfRRIntervals", "NumberOfTimeSlots", "NumberOfTimeSlices", "NumberOfSlices",
             "CorrectedImage", "RandomsCorrectionMethod", "AttenuationCorrectionMethod",
             "ScatterCorrectionMethod", "DecayCorrection", "ReconstructionMethod",
             "CollimatorType", "RadiopharmaceuticalInformationSequence",
             "PatientOrientationCodeSequence",
             "PatientGantryRelationshipCodeSequence")  # fmt: skip
PT = (*PT_SERIES, "FrameReferenceTime", "TriggerTime", "FrameTime", "ActualFrameDuration",
      "DecayFactor", "DoseCalibrationFactor", "ScatterFractionFactor", "ImageIndex")  # fmt: skip
CR = ("ViewPosition", "KVP", "ImagerPixelSpacing", "Exposure", "ExposureTime",
      "XRayTubeCurrent")  # fmt: skip
PICTURE = ("PixelSpacing", "PixelSpacingCalibrationType", "PixelSpacingCalibrationDescription",
           "NominalScannedPixelSpacing", "ImagerPixelSpacing", "ViewPosition")  # fmt: skip
GROUPS = {  # where enhanced objects keep what single-frame ones keep at the top
    "KVP": ("CTXRayDetailsSequence",),
    "ConvolutionKernel": ("CTReconstructionSequence",),
    "RepetitionTime": ("MRTimingAndRelatedParametersSequence",),
    "EchoTrainLength": ("MRTimingAndRelatedParametersSequence",),
    "FlipAngle": ("MRTimingAndRelatedParametersSequence",),
    "NumberOfAverages": ("MRAveragesSequence",),
    "PixelBandwidth": ("MRImagingModifierSequence",),
    "PercentSampling": ("MRFOVGeometrySequence",),
    "PercentPhaseFieldOfView": ("MRFOVGeometrySequence",),
    "InPlanePhaseEncodingDirection": ("MRFOVGeometrySequence",),
    "AcquisitionNumber": ("FrameContentSequence",),
}
PAIRED = ("ARM", "ANKLE", "BREAST", "CLAVICLE", "EAR", "ELBOW", "EXTREMITY", "EYE", "FEMUR",
          "FINGER", "FOOT", "FOREARM", "HAND", "HIP", "HUMERUS", "KIDNEY", "KNEE", "LEG", "ORBIT",
          "OVARY", "PATELLA", "RADIUS", "SCAPULA", "SHOULDER", "TESTIS", "THIGH", "THUMB",
          "TIBIA", "TOE", "ULNA", "WRIST")  # fmt: skip
PULSES = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}


def class_of(modality: str, source: SourceSeries | None, planes: int, placed: bool) -> UID:
    """The storage class for an image of `planes` planes that says where it lies or not.

    Errors: DataError for volumes of modalities whose class would lose their geometry.
    """
    if placed and modality in PLACED and (modality != "PT" or _is_pet(source)):
        return PLACED[modality]
    if planes > 1 and placed:
        raise DataError(
            f"a volume of modality {modality} cannot be written: CT and MR can, and PET that was "
            "made from a PET series; state the modality that its values are of"
        )
    if modality == "CR" and source is not None:
        return ComputedRadiographyImageStorage
    return SecondaryCaptureImageStorage


def facts_of(kind: UID, frame: SourceFrame | None, on_source: bool) -> dict[str, Any]:
    """The attributes of a class for one image; acquisition as the source tells it, but for what a
    new grid makes untrue."""
    found = {} if frame is None else _kept(frame, (*SERIES, *IMAGE))
    found.setdefault("PatientPosition", "")
    if _side_is_asked(frame, found):
        found["Laterality"] = ""
    found.setdefault("AcquisitionNumber", "")
    if kind == CTImageStorage:
        kept = _kept(frame, CT)
        if not on_source:
            kept.pop("GantryDetectorTilt", None)
        return found | {"KVP": ""} | kept
    if kind == MRImageStorage:
        return found | _mr(frame)
    if kind == PositronEmissionTomographyImageStorage:
        return found | _kept(frame, PT)
    del found["PatientPosition"]
    del found["AcquisitionNumber"]
    if kind == ComputedRadiographyImageStorage:
        needed = {"BodyPartExamined": "", "ViewPosition": "", "PatientOrientation": ""}
        kept = _kept(frame, (*needed, *CR, *PICTURE[:3]))
        return found | needed | (kept if on_source else _without_sizes(kept))
    own = {"ConversionType": "WSD", "PatientOrientation": ""}
    kept = _kept(frame, ("PatientOrientation", *PICTURE))
    return found | own | (kept if on_source else _without_sizes(kept))


def _without_sizes(kept: dict[str, Any]) -> dict[str, Any]:
    """A picture on another grid than its source has pixels of another size."""
    return {word: value for word, value in kept.items() if "Spacing" not in word}


def side_and_part(frame: SourceFrame, asked: bool) -> dict[str, Any]:
    """The body part and its side, for objects of other classes; `asked`: whether the class asks for
    a side."""
    found = _kept(frame, ("BodyPartExamined", "AnatomicRegionSequence", "Laterality"))
    if asked and _side_is_asked(frame, found):
        found["Laterality"] = ""
    return found


def _side_is_asked(frame: SourceFrame | None, found: dict[str, Any]) -> bool:
    """Laterality is 2C: there, if empty, unless the body part is known to be one of a kind."""
    if "Laterality" in found or "ImageLaterality" in found:
        return False
    if frame is not None and "Laterality" in frame.header:
        return True
    part = found.get("BodyPartExamined")
    if part is None:
        return "AnatomicRegionSequence" not in found
    return str(part).upper() in PAIRED


def image_type(kind: UID, frame: SourceFrame | None) -> list[str]:
    """DERIVED\\SECONDARY, then what the source says of the plane or contrast."""
    own = [] if frame is None else [str(value).strip() for value in _type_of(frame)[2:]]
    if kind == CTImageStorage:
        return ["DERIVED", "SECONDARY", own[0] if own[:1] == ["LOCALIZER"] else "AXIAL"]
    if kind == MRImageStorage:
        return ["DERIVED", "SECONDARY", own[0] if own and own[0] else "OTHER"]
    if kind == PositronEmissionTomographyImageStorage:
        return ["DERIVED", "PRIMARY"]  # its class knows no other second value (PS3.3, C.8.9.4)
    return ["DERIVED", "SECONDARY", *([own[0]] if own and own[0] else [])]


def _is_pet(source: SourceSeries | None) -> bool:
    if source is None:
        return False
    return source.first.header.get("SOPClassUID") == PositronEmissionTomographyImageStorage


def _type_of(frame: SourceFrame) -> list[Any]:
    value = frame.value("FrameType", "MRImageFrameTypeSequence", "CTImageFrameTypeSequence")
    value = value or frame.value("ImageType") or []
    return [value] if isinstance(value, str) else [*value]


def _kept(frame: SourceFrame | None, keywords: tuple[str, ...]) -> dict[str, Any]:
    if frame is None:
        return {}
    found = {name: frame.value(name, *GROUPS.get(name, ())) for name in keywords}
    return {name: value for name, value in found.items() if value is not None}


def _mr(frame: SourceFrame | None) -> dict[str, Any]:
    """The MR Image module: what is not known stays empty, and an unknown sequence is "RM"
    (research mode)."""
    needed: dict[str, Any] = dict.fromkeys(
        ("ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength"), ""
    )
    needed |= {"ScanningSequence": ["RM"], "SequenceVariant": ["NONE"]}
    if frame is None:
        return needed
    if frame.enhanced:
        needed["ScanningSequence"] = PULSES.get(str(frame.value("EchoPulseSequence")), ["RM"])
        echo = frame.value("EffectiveEchoTime", "MREchoSequence")
        times = frame.value("InversionTimes", "MRModifierSequence")
        needed |= {} if echo is None else {"EchoTime": echo}
        if times is not None and frame.value("InversionRecovery", "MRModifierSequence") == "YES":
            needed["InversionTime"] = _first(times)
            needed["ScanningSequence"] = [*needed["ScanningSequence"], "IR"]
    kept = _kept(frame, MR)
    if frame.enhanced:  # what others put there beside the groups follows other rules
        kept.pop("InversionTime", None)
    if kept.get("InPlanePhaseEncodingDirection") == "COLUMN":  # enhanced objects write it out
        kept["InPlanePhaseEncodingDirection"] = "COL"
    return needed | kept


def _first(value: Any) -> Any:
    return value[0] if type(value).__name__ == "MultiValue" else value
