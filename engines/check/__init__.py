"""Checks of packages and engines: golden images, accuracy against the reference, import of a package.

golden.py         the images of a package whose labels are known
certificate.py    the result of an accuracy check, and its store
accuracy.py       comparing the scores of an engine with those of the reference
reference.py      the accuracy check against ONNX Runtime's CPU provider, once and then from the cache
package_check.py  everything that is checked about a package before it is used
training_facts.py what a model's files say of its training
import_request.py what to import: options, presets, and the preprocessing that follows
import_source.py  the model file: what it takes and gives, its copy
export.py  export_child.py    making that file of a Hugging Face folder or of timm's checkpoint, in a child
importer.py       writing a package
"""
