"""Exported programs: engines and PyTorch in one file without weights."""
