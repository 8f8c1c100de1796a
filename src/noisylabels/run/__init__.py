"""How one run is made: a configuration in, a run folder out."""
