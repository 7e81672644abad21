"""Print the lowest versions that pyproject.toml allows, as constraints for pip; torch and torchvision are left out."""

import re
import sys
from pathlib import Path

LEFT_OUT = ("torch", "torchvision")  # as large as all the others together

text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
for requirement in re.findall(r'^ +"([^"]+)"', text.partition("\ndependencies = [")[2].partition("\n]")[0], re.M):
    found = re.fullmatch(r"([\w-]+)>=([\d.]+)(,<[\d.]+)?", requirement)
    if found is None:
        sys.exit(f"pyproject.toml: {requirement} names no lowest version")
    if found[1] not in LEFT_OUT:
        print(f"{found[1]}=={found[2]}")
