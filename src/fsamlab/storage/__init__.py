"""Files in general: written atomically, read with checked types, locked, digested."""
