"""Benchmarks. A package in so many words, because other people's packages leave one of this name in site-packages."""
