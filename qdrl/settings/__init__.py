"""Settings models: their base, their check against tables of an experiment file, and their description."""
