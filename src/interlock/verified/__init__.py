"""Models run slice by slice, each proved by a zero-knowledge circuit or replayed by ONNX Runtime.

Names are imported when first used, so `import interlock.verified` needs neither onnx nor ezkl.
"""
