"""PyTorch's own test database of operators (``op_db``) through the backend: every sample right, or in PyTorch."""
