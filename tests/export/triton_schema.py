"""The part of Triton's ModelConfig that a config.pbtxt of ours may use, so that protobuf itself can parse one.

Names, types and numbers are those of `protobuf/model_config.proto` in triton-inference-server/common; text format goes
by the names alone, and refuses what is not among them.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

_TYPES = [
    "INVALID",
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "STRING",
    "BF16",
]  # from 0 on
_FIELDS: dict[str, list[tuple[str, int, str]]] = {
    "ModelTensorReshape": [("shape", 1, "int64*")],
    "ModelInput": [
        ("name", 1, "string"),
        ("data_type", 2, "DataType"),
        ("dims", 4, "int64*"),
        ("reshape", 5, "ModelTensorReshape"),
        ("optional", 8, "bool"),
    ],
    "ModelOutput": [
        ("name", 1, "string"),
        ("data_type", 2, "DataType"),
        ("dims", 3, "int64*"),
        ("reshape", 5, "ModelTensorReshape"),
    ],
    "ModelDynamicBatching": [
        ("preferred_batch_size", 1, "int32*"),
        ("max_queue_delay_microseconds", 2, "uint64"),
    ],
    "WarmupInput": [("data_type", 1, "DataType"), ("dims", 2, "int64*"), ("zero_data", 3, "bool")],
    "WarmupEntry": [("key", 1, "string"), ("value", 2, "WarmupInput")],  # a map has the text format of its entries
    "ModelWarmup": [("name", 1, "string"), ("batch_size", 2, "uint32"), ("inputs", 3, "WarmupEntry*")],
    "ModelConfig": [
        ("name", 1, "string"),
        ("max_batch_size", 4, "int32"),
        ("input", 5, "ModelInput*"),
        ("output", 6, "ModelOutput*"),
        ("default_model_filename", 8, "string"),
        ("dynamic_batching", 11, "ModelDynamicBatching"),
        ("model_warmup", 16, "ModelWarmup*"),
        ("backend", 17, "string"),
    ],
}
_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _Field.TYPE_STRING,
    "bool": _Field.TYPE_BOOL,
    "int32": _Field.TYPE_INT32,
    "uint32": _Field.TYPE_UINT32,
    "int64": _Field.TYPE_INT64,
    "uint64": _Field.TYPE_UINT64,
}


def _config_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    types = file.enum_type.add(name="DataType")
    for number, name in enumerate(_TYPES):
        types.value.add(name=f"TYPE_{name}", number=number)
    for message, fields in _FIELDS.items():
        made = file.message_type.add(name=message)
        for name, number, kind in fields:
            _add(made, name, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def _add(message: Any, name: str, number: int, kind: str) -> None:
    field = message.field.add(name=name, number=number)
    field.label = _Field.LABEL_REPEATED if kind.endswith("*") else _Field.LABEL_OPTIONAL
    kind = kind.rstrip("*")
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = _Field.TYPE_ENUM if kind == "DataType" else _Field.TYPE_MESSAGE
        field.type_name = f".inference.{kind}"


_CONFIG = _config_class()


def parse(text: str) -> Any:
    """The configuration as a message; protobuf's ParseError where Triton could not read it."""
    return text_format.Parse(text, _CONFIG())


def type_name(number: int) -> str:
    return _TYPES[number]
