"""The protobuf messages of the Open Inference Protocol's gRPC service, built from a table instead of generated code.

Generated code demands the version of protobuf that it was generated for. The messages live in a pool of their own, so
they do not clash with those of another library in the same process. Those of shared memory, tracing and log settings
are left out, because neither the engine nor the agent's server uses them.

Source: triton-inference-server/common, protobuf/grpc_service.proto and model_config.proto.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = f"/{PACKAGE}.GRPCInferenceService"

# A line is a message, or a field of it: name, number, kind. `[]` repeats the field, `{}` is a map from strings, and
# `of NAME` puts it into a oneof.
TABLE = """
ServerLiveRequest
ServerLiveResponse
  live 1 bool
ServerReadyRequest
ServerReadyResponse
  ready 1 bool
ModelReadyRequest
  name 1 string
  version 2 string
ModelReadyResponse
  ready 1 bool
ServerMetadataRequest
ServerMetadataResponse
  name 1 string
  version 2 string
  extensions 3 string[]
ModelMetadataRequest
  name 1 string
  version 2 string
ModelMetadataResponse
  name 1 string
  versions 2 string[]
  platform 3 string
  inputs 4 ModelMetadataResponse.TensorMetadata[]
  outputs 5 ModelMetadataResponse.TensorMetadata[]
ModelMetadataResponse.TensorMetadata
  name 1 string
  datatype 2 string
  shape 3 int64[]
InferParameter
  bool_param 1 bool of parameter_choice
  int64_param 2 int64 of parameter_choice
  string_param 3 string of parameter_choice
  double_param 4 double of parameter_choice
  uint64_param 5 uint64 of parameter_choice
InferTensorContents
  bool_contents 1 bool[]
  int_contents 2 int32[]
  int64_contents 3 int64[]
  uint_contents 4 uint32[]
  uint64_contents 5 uint64[]
  fp32_contents 6 float[]
  fp64_contents 7 double[]
  bytes_contents 8 bytes[]
ModelInferRequest
  model_name 1 string
  model_version 2 string
  id 3 string
  parameters 4 InferParameter{}
  inputs 5 ModelInferRequest.InferInputTensor[]
  outputs 6 ModelInferRequest.InferRequestedOutputTensor[]
  raw_input_contents 7 bytes[]
ModelInferRequest.InferInputTensor
  name 1 string
  datatype 2 string
  shape 3 int64[]
  parameters 4 InferParameter{}
  contents 5 InferTensorContents
ModelInferRequest.InferRequestedOutputTensor
  name 1 string
  parameters 2 InferParameter{}
ModelInferResponse
  model_name 1 string
  model_version 2 string
  id 3 string
  parameters 4 InferParameter{}
  outputs 5 ModelInferResponse.InferOutputTensor[]
  raw_output_contents 6 bytes[]
ModelInferResponse.InferOutputTensor
  name 1 string
  datatype 2 string
  shape 3 int64[]
  parameters 4 InferParameter{}
  contents 5 InferTensorContents
ModelStreamInferResponse
  error_message 1 string
  infer_response 2 ModelInferResponse
ModelConfigRequest
  name 1 string
  version 2 string
ModelConfigResponse
  config 1 ModelConfig
ModelStatisticsRequest
  name 1 string
  version 2 string
StatisticDuration
  count 1 uint64
  ns 2 uint64
InferStatistics
  success 1 StatisticDuration
  fail 2 StatisticDuration
  queue 3 StatisticDuration
  compute_input 4 StatisticDuration
  compute_infer 5 StatisticDuration
  compute_output 6 StatisticDuration
  cache_hit 7 StatisticDuration
  cache_miss 8 StatisticDuration
InferBatchStatistics
  batch_size 1 uint64
  compute_input 2 StatisticDuration
  compute_infer 3 StatisticDuration
  compute_output 4 StatisticDuration
MemoryUsage
  type 1 string
  id 2 int64
  byte_size 3 uint64
ModelStatistics
  name 1 string
  version 2 string
  last_inference 3 uint64
  inference_count 4 uint64
  execution_count 5 uint64
  inference_stats 6 InferStatistics
  batch_stats 7 InferBatchStatistics[]
  memory_usage 8 MemoryUsage[]
ModelStatisticsResponse
  model_stats 1 ModelStatistics[]
ModelRepositoryParameter
  bool_param 1 bool of parameter_choice
  int64_param 2 int64 of parameter_choice
  string_param 3 string of parameter_choice
  bytes_param 4 bytes of parameter_choice
RepositoryIndexRequest
  repository_name 1 string
  ready 2 bool
RepositoryIndexResponse
  models 1 RepositoryIndexResponse.ModelIndex[]
RepositoryIndexResponse.ModelIndex
  name 1 string
  version 2 string
  state 3 string
  reason 4 string
RepositoryModelLoadRequest
  repository_name 1 string
  model_name 2 string
  parameters 3 ModelRepositoryParameter{}
RepositoryModelLoadResponse
RepositoryModelUnloadRequest
  repository_name 1 string
  model_name 2 string
  parameters 3 ModelRepositoryParameter{}
RepositoryModelUnloadResponse
ModelInput
  name 1 string
  data_type 2 DataType
  dims 4 int64[]
  optional 8 bool
ModelOutput
  name 1 string
  data_type 2 DataType
  dims 3 int64[]
  label_filename 4 string
ModelParameter
  string_value 1 string
ModelVersionPolicy
  latest 1 ModelVersionPolicy.Latest of policy_choice
  all 2 ModelVersionPolicy.All of policy_choice
  specific 3 ModelVersionPolicy.Specific of policy_choice
ModelVersionPolicy.Latest
  num_versions 1 uint32
ModelVersionPolicy.All
ModelVersionPolicy.Specific
  versions 1 int64[]
ModelDynamicBatching
  priority_levels 4 uint64
  default_priority_level 5 uint64
ModelConfig
  name 1 string
  platform 2 string
  backend 17 string
  version_policy 3 ModelVersionPolicy
  max_batch_size 4 int32
  input 5 ModelInput[]
  output 6 ModelOutput[]
  dynamic_batching 11 ModelDynamicBatching of scheduling_choice
  parameters 14 ModelParameter{}
"""
DATA_TYPES = (
    *("TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8"),
    *("TYPE_INT16", "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING", "TYPE_BF16"),
)
"""The values of the enum ``DataType``, from 0."""

_FIELD = re.compile(r"  (\w+) (\d+) ([\w.]+)(\[\]|\{\})?(?: of (\w+))?")
_Field = descriptor_pb2.FieldDescriptorProto


@functools.cache
def message(name: str) -> Any:
    """Return the class of a message, such as ``ModelInferRequest``.

    Raises:
        KeyError: there is no such message.
    """
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{PACKAGE}.{name}"))


@functools.cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file_descriptor().SerializeToString())
    return pool


def file_descriptor() -> descriptor_pb2.FileDescriptorProto:
    """Return the table as a protobuf file."""
    file = descriptor_pb2.FileDescriptorProto(name="agent_inference.proto", package=PACKAGE, syntax="proto3")
    kinds = file.enum_type.add(name="DataType")
    for number, name in enumerate(DATA_TYPES):
        kinds.value.add(name=name, number=number)
    messages: dict[str, descriptor_pb2.DescriptorProto] = {}
    current, path = file.message_type.add(name="_"), ""
    del file.message_type[:]
    for line in TABLE.strip().splitlines():
        found = _FIELD.fullmatch(line)
        if found is not None:
            _add_field(current, path, found)
            continue
        path = line
        outer, _, own = line.rpartition(".")
        siblings = messages[outer].nested_type if outer else file.message_type
        current = messages[line] = siblings.add(name=own)
    return file


def _add_field(owner: descriptor_pb2.DescriptorProto, path: str, found: re.Match[str]) -> None:
    name, number, kind, suffix, oneof = found.groups()
    field = owner.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
    if suffix:
        field.label = _Field.LABEL_REPEATED
    if suffix == "{}":
        entry = owner.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_STRING)
        _set_kind(entry.field.add(name="value", number=2, label=_Field.LABEL_OPTIONAL), kind)
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{path}.{entry.name}"
        return
    _set_kind(field, kind)
    if oneof:
        if not owner.oneof_decl:
            owner.oneof_decl.add(name=oneof)
        field.oneof_index = 0


def _set_kind(field: descriptor_pb2.FieldDescriptorProto, kind: str) -> None:
    if kind[0].islower():
        field.type = _Field.Type.Value(f"TYPE_{kind.upper()}")
        return
    field.type = _Field.TYPE_ENUM if kind == "DataType" else _Field.TYPE_MESSAGE
    field.type_name = f".{PACKAGE}.{kind}"
