"""Random graphs of supported operators with odd shapes, layouts and types: each lowered, cut, built and run."""
