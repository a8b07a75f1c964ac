"""A model package: a directory with a model and everything that is known about it.

specs.py          what a model takes and gives, as plain records
strict_yaml.py    YAML without its traps, with the line of every value
manifest.py       ``model.yaml``, checked key by key
labels.py         label files in the shapes that exist in the field
images.py  image_headers.py    image files, their size known before they are decoded
model_bytes.py    model files as bytes: bounded, recognised
model_file.py     ONNX models: parsed, hashed with their external data
external_data.py  tensors that a model keeps in other files
signature/        a model's input and output, held against the manifest
activation.py     whether the model gives probabilities
task.py  decisions.py    what the scores decide
digest.py         one hash over everything in a package that changes an answer
load.py           ``load_package``, the only way in
"""
