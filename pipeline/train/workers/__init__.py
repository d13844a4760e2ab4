"""Who computes: this process, several of this machine, or workers of a Ray cluster, and how they talk."""
