"""A model's input and output, held against the manifest.

base  the rules, whatever the file's form
onnx  read from an ONNX model
selection  the output and the constant inputs that the manifest chooses
pt2   read from a ``torch.export`` program
"""
