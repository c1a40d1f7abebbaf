"""The engine cache: verified entries by key on disk. It knows nothing of TensorRT.

A plan is code: who can write to a cache directory can run code in every process that reads it. Directories are
therefore private, other users' files are not read, and nothing is unpickled. Digests protect against damage, not
against an author.
"""

from .entry import decode, encode
from .records import Freed, Problem, Record
from .store import EngineCache, open_cache, shared_cache

__all__ = ["EngineCache", "Freed", "Problem", "Record", "decode", "encode", "open_cache", "shared_cache"]
