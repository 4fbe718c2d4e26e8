"""Rollouts of many policies, on the CPU and on a device."""
