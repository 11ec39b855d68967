"""Work begun before it is known to be needed: a generator that tries alone, and probes of a growing signal."""
