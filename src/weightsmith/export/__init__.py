"""GGUF: conversion by llama.cpp's own converter, quantization by llama.cpp's own quantizer."""

from weightsmith.callable_room import make_callable
from weightsmith.export.model_export import ExportedFile, ExportSummary, export
from weightsmith.export.quantizer import quantize

__all__ = ["ExportSummary", "ExportedFile", "export", "quantize"]

make_callable(__name__)
