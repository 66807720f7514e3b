"""Search policies replayed on recorded tables: who finds a good design at the target scale, at what cost."""
