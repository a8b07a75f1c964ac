"""The serving graph: the model with its preprocessing inside, in the wanted precision.

ort_library.py      the boundary to ONNX Runtime as a library
preprocessing.py    the nodes before and behind the model
batch_dimension.py  making the batch dimension dynamic where the model allows it
serving_model.py    building the fp32 serving graph
serving.py          the fp32 serving graph, cached
planes.py           a frame as its video decoder gives it
resize.py           frames to the model's size
image_set.py        the images that engines are compared on and int8 is calibrated on
agreement.py        how two engines' scores compare, and the bars for it
fp16.py             the graph in fp16
int8_forms.py  int8.py  int8_search.py    the graph in int8: forms, quantisation, layers that stay in fp32
precision.py        the serving graph in the requested precision
"""
