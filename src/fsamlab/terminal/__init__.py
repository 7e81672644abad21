"""What a user sees in a terminal: texts, tables, progress, errors."""
