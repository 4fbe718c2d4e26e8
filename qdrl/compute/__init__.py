"""Numerical building blocks: arrays, devices, random numbers, optimisers, CUDA graphs and portable arithmetic."""
