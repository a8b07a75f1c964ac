"""Model files of many kinds, made by the tools that people use, imported and compared with those tools' own answers.

kind.py        one file: how it was made, how it is imported, and the scores that its maker computed
onnx_kinds.py  graphs made with the onnx library, converted and quantised
torch_kinds.py  keras_kinds.py  paddle_kinds.py  sklearn_kinds.py    models exported by each framework
compare.py     importing each file, and the table
"""
