"""The whole road on drawn pictures.

wsol   labels of one class a picture in, boxes out, and how well they fit
wsss   labels of several classes in, pseudo-labels of segmentation out, in files and by commands that it prints
"""

from fastcam.demo import wsss
from fastcam.demo.wsol import DemoResult, run

__all__ = ["DemoResult", "run", "wsss"]
