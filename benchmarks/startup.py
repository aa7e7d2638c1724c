"""What do `medidiff --help` and `import medidiff` cost above bare Python? Best of five.

python benchmarks/startup.py
"""

from __future__ import annotations

import subprocess
import sys
import time

from record import Measured, write_result

GOAL_S = 0.3


def best(*words: str) -> float:
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    bare = best("-c", "pass")
    rows = [
        Measured(
            "import medidiff, above bare Python",
            best("-c", "import medidiff") - bare,
            "s",
            "lower",
            goal=GOAL_S,
        ),
        Measured(
            "medidiff --help, above bare Python",
            best("-m", "medidiff", "--help") - bare,
            "s",
            "lower",
            goal=GOAL_S,
        ),
    ]
    for row in rows:
        print(f"{row.what}: {row.ours:.3f} s (goal {row.goal} s)")
    print(write_result("startup", rows, facts={"bare_python_s": bare}))


if __name__ == "__main__":
    main()
