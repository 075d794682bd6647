"""SharpCam: a webcam goes in, a sharper webcam comes out, live, on the user's own machine."""

__version__ = "0.1.0"
