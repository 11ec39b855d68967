"""The SDK's scripted server, found last: the folder of its tests also has modules that are called like packages here."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3] / "tests"))
