"""A model's input and output, held against the manifest.

base  the rules, whatever the file's form
onnx  read from an ONNX model
pt2   read from a ``torch.export`` program
"""
