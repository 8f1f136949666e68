"""GGUF: conversion by llama.cpp's own converter, quantization by llama.cpp's own quantizer."""

from weightsmith.callable_room import make_callable
from weightsmith.export.model_export import ExportSummary, export
from weightsmith.export.quantizer import quantize

__all__ = ["ExportSummary", "export", "quantize"]

make_callable(__name__)
