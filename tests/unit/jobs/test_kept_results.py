"""What of an earlier result of the inverse problems stays beside a new one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path


def test_coverage_measured_anew_leaves_the_rest_of_its_setting(benchmarks: Path) -> None:
    from inverse_problems import beside
    from record import Measured

    def row(what: str) -> Measured:
        return Measured(what, 1.0, "dB", "higher")

    names = ["a, PSNR in-head, n=55", "a, in-head, above b: reached", "a, spread over error"]
    first = [*map(row, names), row("b, PSNR in-head, n=55")]
    source = {"commit": "1", "date": "d", "hardware": "h", "versions": {}}
    result = {**source, "facts": {}, "rows": [asdict(each) for each in first]}
    anew = [row("a, coverage of the central 90 %: calibrated"), row("b, PSNR in-head, n=54")]
    old, kept = beside(result, anew)
    assert [each.what for each in old] == names[:2]
    assert kept == [source | {"settings": ["a"]}]
    # once more, as a later run finds it
    later = {"commit": "2", "date": "d", "hardware": "h", "versions": {}}
    second = {**later, "facts": {"kept": kept}, "rows": [asdict(each) for each in [*anew, *old]]}
    _, again = beside(second, [row("c, PSNR in-head, n=55")])
    assert again == [*kept, later | {"settings": ["a, spread", "b"]}]
