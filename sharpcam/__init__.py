"""SharpCam: a webcam goes in, a sharper webcam comes out, live, on the user's own machine."""

import os

# from 1.29 on ONNX Runtime reports to its maker, and it begins when it is imported: no module of ours is before this
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"
