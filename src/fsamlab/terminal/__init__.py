"""Everything that a user sees in a terminal: texts, tables, progress, errors."""
