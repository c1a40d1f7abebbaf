"""Tests of trt_stripped_backend: ``cpu/`` needs no GPU, ``gpu/`` is marked ``gpu``, ``benchmarks/`` are run by hand."""
