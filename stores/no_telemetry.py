"""Importing this module keeps onnxruntime from reporting to its maker; import it before onnxruntime.

From 1.31 on its Linux wheels give the machine an id in ~/.cache/Microsoft as they are imported, and send events about
the models that are run. Nobody who tracks hands has asked for that; where the home cannot be written it complains on
the terminal, too. `onnxruntime.disable_telemetry_events` comes too late for the id, this variable does not. Whoever
sets it to 0 beforehand is left alone.
"""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
