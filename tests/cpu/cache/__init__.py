"""Tests of the engine cache with plans of random bytes; the directory is audited at the end of each."""
