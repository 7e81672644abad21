"""Files as such: written whole or not at all, read with their types checked, locked."""
