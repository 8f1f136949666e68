"""GGUF: conversion by llama.cpp's own converter, quantization by llama.cpp's own quantizer."""

from weightsmith.export.export import ExportSummary, export
from weightsmith.export.quantize import quantize

__all__ = ["ExportSummary", "export", "quantize"]
