"""Computation: arrays and devices, random numbers, optimisers, CUDA graphs, portable arithmetic."""
