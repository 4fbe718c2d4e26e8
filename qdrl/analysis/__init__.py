"""Analysis of stored archives: decode, rerun, re-evaluate and export elites."""
