"""How the detector's bundle is made: texts, labels of windows, fitting, export."""
