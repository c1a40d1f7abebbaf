"""TensorRT's layers on PyTorch tensors: what the documentation says that each computes, and what it refuses."""
